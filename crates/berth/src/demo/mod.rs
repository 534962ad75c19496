//! `berth demo`: the whole story in one command. Every line it prints is read
//! from the cluster or from what the workers left behind, and the exit code is
//! computed from that.

mod checks;
mod gang;
mod serving;
mod story;
mod traces;

use std::process::ExitCode;

use anyhow::Context as _;

use crate::arguments::DemoArguments;
use crate::dev::Scratch;
use crate::local::{Gpus, LocalCluster, Plan, Workers};
use crate::stop;

use checks::Checks;
use story::Sabotage;

const SCHEDULERS: u8 = 3;
const AGENTS: u8 = 4;
const GPUS: &str = "2xH100-80GB";

pub fn run(arguments: &DemoArguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        tokio::select! {
            told = tell(arguments) => told,
            asked = stop::on_signal() => asked.map(|()| ExitCode::from(130)),
        }
    })
}

async fn tell(arguments: &DemoArguments) -> anyhow::Result<ExitCode> {
    let mut scratch = Scratch::new(None)?;
    let plan = Plan {
        program: std::env::current_exe().context("find this program")?,
        schedulers: SCHEDULERS,
        agents: AGENTS,
        gpus: Gpus::Simulated(GPUS.to_owned()),
        workers: Workers::Confined,
        data_dir: scratch.path.clone(),
        log_level: "error".to_owned(),
    };
    let mut checks = Checks::new();
    let mut cluster = LocalCluster::start(plan).await.context("start the demo's cluster")?;
    let sabotage = if arguments.lose_a_trace { Sabotage::LoseATrace } else { Sabotage::None };
    let told = story::tell(&mut cluster, &mut checks, sabotage).await;
    if let Err(error) = &told {
        checks.fail(&format!("{error:#}"));
    }
    let passed = checks.summary();
    if arguments.keep {
        eprintln!("The cluster runs on. export BERTH_SERVER={}", cluster.servers().join(","));
        eprintln!("Ctrl-C ends it.");
        stop::on_signal().await?;
    }
    cluster.stop().await;
    if passed {
        return Ok(ExitCode::SUCCESS);
    }
    scratch.keep();
    eprintln!("what the demo left behind: {}", scratch.path.display());
    Ok(ExitCode::FAILURE)
}
