//! `berth dev`: a local cluster in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use berth_agent::Program;
use berth_config::units::simulated_gpus;

use crate::arguments::DevArguments;
use crate::local::{GatewayPort, Gpus, LocalCluster, Plan, Workers, write_ready_file};
use crate::{settings, stop};

/// What a trial has on a host without GPUs.
const GPUS_UNLESS_TOLD: &str = "8xH100-80GB";
/// A driver that was not in use takes seconds to wake.
const DRIVER_PATIENCE: Duration = Duration::from_secs(5);

pub fn run(arguments: &DevArguments) -> anyhow::Result<ExitCode> {
    if let Some(Err(error)) = arguments.gpus.as_deref().map(simulated_gpus) {
        return Err(settings::BadSettings(format!("--gpus: {error}")).into());
    }
    if arguments.schedulers.is_multiple_of(2) {
        eprintln!(
            "warning: {} schedulers bear no more failures than {}",
            arguments.schedulers,
            arguments.schedulers - 1
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(serve(arguments))
}

async fn serve(arguments: &DevArguments) -> anyhow::Result<ExitCode> {
    let scratch = Scratch::new(arguments.data_dir.clone())?;
    let (gpus, said) = choose_gpus(arguments).await;
    let plan = Plan {
        program: std::env::current_exe().context("find this program")?,
        schedulers: arguments.schedulers,
        agents: arguments.agents,
        gpus,
        workers: if arguments.unconfined { Workers::Unconfined } else { Workers::Confined },
        data_dir: scratch.path.clone(),
        log_level: arguments.log_level.clone(),
    };
    // One listener from here to the end: between two a signal would be lost.
    let mut asked = std::pin::pin!(stop::on_signal());
    let started = tokio::select! {
        started = LocalCluster::start(plan) => started,
        asked = &mut asked => return asked.map(|()| ExitCode::from(130)),
    };
    let mut cluster = started.context("start the local cluster")?;
    cluster.start_gateway(GatewayPort::Usual).context("start the gateway")?;
    announce(&cluster, &said);
    if let Some(path) = &arguments.ready_file {
        write_ready_file(&cluster, path)?;
    }
    let code = tokio::select! {
        asked = &mut asked => asked.map(|()| ExitCode::SUCCESS)?,
        ended = cluster.first_end() => {
            eprintln!("error: {ended}; the cluster goes on without it until Ctrl-C");
            asked.await?;
            ExitCode::FAILURE
        }
    };
    cluster.stop().await;
    Ok(code)
}

/// The GPUs of the agents, and how that is said. A host's own GPUs belong to one agent.
async fn choose_gpus(arguments: &DevArguments) -> (Gpus, String) {
    let simulated =
        |gpus: &str| (Gpus::Simulated(gpus.to_owned()), format!("simulated GPUs ({gpus} each)"));
    if let Some(gpus) = &arguments.gpus {
        return simulated(gpus);
    }
    if arguments.agents > 1 {
        return simulated(GPUS_UNLESS_TOLD);
    }
    let prober = Program::of_this_executable("gpu-prober");
    let found = berth_agent::host_gpus(prober, DRIVER_PATIENCE).await;
    match found.first() {
        None => simulated(GPUS_UNLESS_TOLD),
        Some(model) => (Gpus::OfTheHost, format!("this host's GPUs ({} × {model})", found.len())),
    }
}

fn announce(cluster: &LocalCluster, gpus: &str) {
    eprintln!(
        "berth dev: {} scheduler(s) and {} agent(s) with {gpus}",
        cluster.schedulers.len(),
        cluster.agents.len(),
    );
    for scheduler in &cluster.schedulers {
        eprintln!(
            "  scheduler {}: gRPC {}, HTTP {}, pid {}",
            scheduler.id, scheduler.grpc, scheduler.http, scheduler.child.pid
        );
    }
    for agent in &cluster.agents {
        eprintln!("  agent {}: pid {}", agent.name, agent.child.pid);
    }
    if let Some(gateway) = &cluster.gateway {
        eprintln!("  gateway: http://{}/v1, pid {}", gateway.address, gateway.child.pid);
    }
    eprintln!("  data: {}", cluster.data_dir().display());
    eprintln!(
        "In another terminal: export BERTH_SERVER={} BERTH_DEV_DATA_DIR={}",
        cluster.servers().join(","),
        cluster.data_dir().display(),
    );
    eprintln!("Ctrl-C ends it.");
}

/// The cluster's directory; one that this process made is removed at the end.
pub struct Scratch {
    pub path: PathBuf,
    made_here: Option<tempfile::TempDir>,
}

impl Scratch {
    pub fn new(given: Option<PathBuf>) -> anyhow::Result<Scratch> {
        match given {
            Some(path) => {
                let path = std::path::absolute(&path)
                    .with_context(|| format!("find {}", path.display()))?;
                Ok(Scratch { path, made_here: None })
            }
            None => {
                let made = tempfile::Builder::new().prefix("berth-").tempdir();
                let made = made.context("make a temporary directory")?;
                Ok(Scratch { path: made.path().to_owned(), made_here: Some(made) })
            }
        }
    }

    /// Leaves the directory where it is.
    pub fn keep(&mut self) {
        if let Some(made) = self.made_here.take() {
            let _ = made.keep();
        }
    }
}
