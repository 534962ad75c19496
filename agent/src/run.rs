//! The agent from its options to its end.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail};
use berth_identity::Dialer;
use berth_identity::tls::Credentials;
use berth_model::{DurationMs, NodeSpec, validate_node};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tracing::{info, warn};

use crate::artifacts::Fetches;
use crate::credentials::{Transport, come_in};
use crate::data_dir::DataDir;
use crate::docker;
use crate::gpus::{
    self, Claims, CudaLibrary, Happened, Library, Prober, Probing, Resetting, Seen, Tester, Watch,
    Workshop,
};
use crate::holds::Holds;
use crate::host_use::Source;
use crate::node::{Ended, Event, Node, Repairs, Settings};
use crate::options::{AgentOptions, GpuTest, HostLoad};
use crate::session::{self, Facts, SessionSettings};
use crate::{host, http, reachable};

/// Messages of a session that wait for the loop; more slow the scheduler down.
const SESSION_EVENTS_MAX: usize = 256;

/// A driver that was not in use takes seconds to wake; one that does not answer by then
/// may never.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// Errors of GPUs that wait for the loop; a flood of them says no more than its beginning.
const FAULTS_MAX: usize = 256;

/// GPUs that are looked at.
struct Watched {
    seen: watch::Receiver<Seen>,
    happened: mpsc::Receiver<Happened>,
    workshop: Workshop,
    /// Whom to tell what is claimed of simulated ones.
    claims: Option<watch::Sender<Claims>>,
}

/// Runs an agent until it is told to end. SIGTERM and SIGINT end the agent and
/// leave its workers running, to be adopted by the next one; with
/// `stop_on_fd_close` SIGINT is left to the owner of the pipe, and the closing
/// of the pipe ends everything.
///
/// # Errors
/// The options make no sense, another agent runs on the data directory, the
/// directory cannot be used, or something is left that does not end.
pub async fn run(options: AgentOptions) -> anyhow::Result<()> {
    if options.servers.is_empty() {
        bail!("an agent needs at least one scheduler to dial (--servers)");
    }
    let spec = node_spec(&options).await?;
    // Before anything that another agent's worker could notice.
    let dir = DataDir::open(&options.data_dir)?;
    let boot_id = berth_shim::process::boot_id().context("read the host's boot id")?;
    let connected = Arc::new(AtomicBool::new(false));
    let (dialer, credentials) = reach(&options).await?;
    let Watched { seen: mut gpus, happened, workshop, claims } =
        watch_gpus(&options, &dir, &boot_id)?;
    if let Some(address) = &options.http {
        let metrics = options.metrics.clone();
        http::serve(address, credentials, Arc::clone(&connected), metrics, gpus.clone()).await?;
    }
    let mut signals = Signals::listen(options.stop_on_fd_close)?;
    let (events, received) = mpsc::unbounded_channel();
    let repairs = repairs(&options, workshop)?;
    let (facts, facts_seen) = watch::channel(Facts::default());
    let cluster = dir.cluster();
    let Holds { user, cgroups, confinement } = Holds::begin(&options, &spec, &dir).await?;
    let hidden = confinement.hidden().to_vec();
    let fetches = Fetches::open(options.artifacts.clone(), &dir, user, &boot_id, hidden)?;
    let settings = Settings {
        name: options.name.clone(),
        spec,
        claims,
        repairs,
        boot_id,
        dir,
        user,
        confinement,
        dialer: dialer.clone(),
        shim: options.shim.clone(),
        docker: options.docker.clone(),
        fetches,
        mps_directory: options.mps_directory.clone(),
    };
    let stop_after = options.stop_after.map(in_milliseconds);
    let mut node =
        Node::adopt(Arc::new(settings), cgroups, stop_after, events.clone(), facts, connected)
            .await?;
    // Known, not only told, before anything is said to a scheduler.
    node.saw_gpus(first_look(&mut gpus).await);
    tell_of_gpus(gpus, events.clone());
    tell_of_faults(happened, events.clone());
    let (sessions, session_events) = mpsc::channel(SESSION_EVENTS_MAX);
    let dialling = SessionSettings {
        host: host_source(&options),
        servers: options.servers,
        dialer,
        retry_min: options.retry_min,
        retry_max: options.retry_max,
        cluster,
    };
    let keeping = tokio::spawn(session::keep(dialling, sessions, facts_seen));
    if let Some(descriptor) = options.stop_on_fd_close {
        stop_on_close(descriptor, events)?;
    }
    let ended = tokio::select! {
        ended = node.run(received, session_events) => Some(ended),
        () = signals.wait() => None,
    };
    keeping.abort();
    match ended {
        None => info!("agent ends; workers go on"),
        Some(Ended::AllStopped) => info!("agent and workers have ended"),
        Some(Ended::SomethingLeft) => bail!("processes of workers are left that do not end"),
    }
    Ok(())
}

fn in_milliseconds(duration: Duration) -> DurationMs {
    DurationMs(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// How the schedulers are reached, and who this agent is to them: with TLS it
/// has joined when this returns, and its certificate is kept fresh from then on.
async fn reach(options: &AgentOptions) -> anyhow::Result<(Dialer, Option<Arc<Credentials>>)> {
    let Transport::Tls { folder, join_token_file } = &options.transport else {
        return Ok((Dialer::PlainText, None));
    };
    let (folder, token_file) = (folder.clone(), join_token_file.clone());
    let member =
        come_in(folder, token_file, &options.servers, &options.name, &options.pool).await?;
    let reached = (member.dialer.clone(), Some(member.credentials.clone()));
    tokio::spawn(member.keep_fresh(options.servers.clone()));
    Ok(reached)
}

/// How faulty GPUs are mended.
fn repairs(options: &AgentOptions, workshop: Workshop) -> anyhow::Result<Repairs> {
    let table = gpus::table(options.repair.xids.as_deref())?;
    let (soak, stuck_after) = (options.repair.soak, options.repair.stuck_after);
    Ok(Repairs { table, soak, stuck_after, workshop })
}

/// Has the GPUs looked at from now on.
fn watch_gpus(options: &AgentOptions, dir: &DataDir, boot_id: &str) -> anyhow::Result<Watched> {
    let mut resetting = options.repair.reset.clone().map_or(Resetting::Usual, Resetting::Program);
    let (library, claims) = match (&options.simulate, &options.lister, &options.nvml_library) {
        (Some(simulated), _, _) => {
            let folder = dir.file(gpus::SIMULATED_FOLDER);
            let scripts = gpus::write_host(&folder, simulated, &options.name)
                .with_context(|| format!("write to {}", folder.display()))?;
            let (claims, claimed) = watch::channel(Claims::new());
            if resetting == Resetting::Usual {
                resetting = Resetting::Simulated(gpus::faults_file(&folder));
            }
            tokio::spawn(gpus::keep_claims(folder, claimed));
            (Library::Simulated(scripts), Some(claims))
        }
        (None, Some(lister), _) => (Library::Listed(lister.clone()), None),
        (None, None, Some(path)) => (Library::At(path.clone()), None),
        (None, None, None) => (Library::Usual, None),
    };
    let tester = tester(options, &library);
    let (program, pace) = (options.prober.clone(), options.gpu_pace);
    let prober = Prober { program, library, pace, resetting };
    let file = dir.file("gpus");
    let mut known = gpus::known(&file, boot_id);
    if let Some(simulated) = &options.simulate {
        // Those that were pretended before are gone with the pretence.
        known.keep_only(&gpus::uuids(simulated, &options.name));
    }
    let (seen, looks) = watch::channel(known);
    tokio::spawn(gpus::keep_known(file, boot_id.to_owned(), looks.clone()));
    let (telling, happened) = mpsc::channel(FAULTS_MAX);
    // One is mended after the other.
    let (asking, resets) = mpsc::channel(1);
    let look_now = Arc::new(Notify::new());
    let watch = Watch { seen, happened: telling, resets, look_now: look_now.clone() };
    tokio::spawn(gpus::watch(prober, watch));
    let happened = match &options.repair.kernel_log {
        Some(log) => {
            let (telling, either) = mpsc::channel(FAULTS_MAX);
            tokio::spawn(gpus::listen(log.clone(), happened, looks.clone(), telling));
            either
        }
        None => happened,
    };
    let test_within = options.repair.test_within;
    let workshop = Workshop { resets: asking, look_now, tester, test_within };
    Ok(Watched { seen: looks, happened, workshop, claims })
}

/// What tests GPUs that come back. Of other accelerators only a program of somebody's could.
fn tester(options: &AgentOptions, library: &Library) -> Tester {
    let by_itself = |library| Tester::Itself(options.gpu_tester.clone(), library);
    match (&options.repair.test, library) {
        (GpuTest::Nothing, _) | (GpuTest::BuiltIn { .. }, Library::Listed(_)) => Tester::Nothing,
        (GpuTest::Program(program), _) => Tester::Program(program.clone()),
        (GpuTest::BuiltIn { .. }, Library::Simulated(scripts)) => {
            by_itself(CudaLibrary::Simulated(scripts.clone()))
        }
        (GpuTest::BuiltIn { library: Some(path) }, Library::Usual | Library::At(_)) => {
            by_itself(CudaLibrary::At(path.clone()))
        }
        (GpuTest::BuiltIn { library: None }, Library::Usual | Library::At(_)) => {
            by_itself(CudaLibrary::Usual)
        }
    }
}

/// What a first look at the GPUs shows.
async fn first_look(looks: &mut watch::Receiver<Seen>) -> Seen {
    let begun = looks.wait_for(|seen| seen.probing != Probing::Starting);
    if tokio::time::timeout(FIRST_LOOK, begun).await.is_err() {
        warn!("GPUs were not seen yet; the node begins with those that it had");
    }
    looks.borrow_and_update().clone()
}

/// Tells the loop of every look from now on that shows anything new.
fn tell_of_gpus(mut looks: watch::Receiver<Seen>, events: mpsc::UnboundedSender<Event>) {
    tokio::spawn(async move {
        while looks.changed().await.is_ok() {
            let seen = looks.borrow_and_update().clone();
            if events.send(Event::Gpus(seen)).is_err() {
                return;
            }
        }
    });
}

/// Tells the loop of every error of a GPU.
fn tell_of_faults(mut happened: mpsc::Receiver<Happened>, events: mpsc::UnboundedSender<Event>) {
    tokio::spawn(async move {
        while let Some(error) = happened.recv().await {
            if events.send(Event::GpuFault(error)).is_err() {
                return;
            }
        }
    });
}

/// A host that is only pretended has no load of its own.
fn host_source(options: &AgentOptions) -> Source {
    match (options.host_load, &options.simulate) {
        (HostLoad::Measured, None) => Source::Kernel,
        (HostLoad::Measured, Some(_)) | (HostLoad::Pretended, _) => {
            Source::pretended(&options.data_dir)
        }
    }
}

async fn node_spec(options: &AgentOptions) -> anyhow::Result<NodeSpec> {
    let address = if options.address.is_empty() {
        let own = reachable::own_address(&options.servers).await;
        own.map(|address| address.to_string()).unwrap_or_default()
    } else {
        options.address.clone()
    };
    let simulated = options.simulate.as_ref();
    let spec = NodeSpec {
        labels: options.labels.clone(),
        pool: options.pool.clone(),
        zone: options.zone.clone(),
        cpu: options.cpu.unwrap_or_else(|| simulated.map_or_else(host::cpu, gpus::host_cpu)),
        memory: options
            .memory
            .unwrap_or_else(|| simulated.map_or_else(host::memory, gpus::host_memory)),
        devices: Vec::new(),
        ports: options.ports,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        docker_version: docker::version(&options.docker.socket).await,
        tasks_per_device_max: options.tasks_per_gpu_max,
        address,
    };
    let violations = validate_node(&spec);
    if !violations.is_empty() {
        let problems: Vec<String> = violations
            .iter()
            .map(|violation| format!("{}: {}", violation.field, violation.message))
            .collect();
        bail!("this node cannot be declared: {}", problems.join("; "));
    }
    Ok(spec)
}

/// Ends everything when the other end of the pipe is closed, which the kernel
/// does for a process that was killed as well.
///
/// The descriptor is opened anew through `/proc`, since taking over a number
/// would need unsafe code; the inherited one stays open and harms nobody, as
/// only the writing end counts.
fn stop_on_close(descriptor: u32, events: mpsc::UnboundedSender<Event>) -> anyhow::Result<()> {
    let path = format!("/proc/self/fd/{descriptor}");
    let mut pipe = pipe::OpenOptions::new()
        .open_receiver(&path)
        .with_context(|| format!("descriptor {descriptor} is no pipe to read from"))?;
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        // Bytes mean nothing; the end or an error of the pipe means the end.
        while pipe.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
        let _ = events.send(Event::StopAll);
    });
    Ok(())
}

/// The signals that end the agent alone.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    interrupt_is_ours: InterruptIsOurs,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum InterruptIsOurs {
    Yes,
    No,
}

impl Signals {
    fn listen(stop_on_fd_close: Option<u32>) -> anyhow::Result<Signals> {
        let interrupt_is_ours = match stop_on_fd_close {
            Some(_) => InterruptIsOurs::No,
            None => InterruptIsOurs::Yes,
        };
        Ok(Signals {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
            interrupt_is_ours,
        })
    }

    async fn wait(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => if self.interrupt_is_ours == InterruptIsOurs::Yes {
                    return;
                },
            }
        }
    }
}
