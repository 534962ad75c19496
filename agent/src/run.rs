//! The agent from its options to its end.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, bail};
use berth_identity::Dialer;
use berth_identity::tls::Credentials;
use berth_model::{DurationMs, NodeSpec, validate_node};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::credentials::{Transport, come_in};
use crate::data_dir::DataDir;
use crate::devices::DeviceSource;
use crate::node::{Ended, Event, Node, Settings};
use crate::options::AgentOptions;
use crate::session::{self, Facts, SessionSettings};
use crate::{http, worker_user};

/// Messages of a session that wait for the loop; more slow the scheduler down.
const SESSION_EVENTS_MAX: usize = 256;

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
    let source = options.simulate.clone().map_or(DeviceSource::None, DeviceSource::Simulated);
    let spec = node_spec(&options, &source)?;
    // Before anything that another agent's worker could notice.
    let dir = DataDir::open(&options.data_dir)?;
    let user = options.worker_user.as_deref().map(worker_user::find).transpose()?;
    let boot_id = berth_shim::process::boot_id().context("read the host's boot id")?;
    let connected = Arc::new(AtomicBool::new(false));
    let (dialer, credentials) = reach(&options).await?;
    if let Some(address) = &options.http {
        let metrics = options.metrics.clone();
        http::serve(address, credentials, Arc::clone(&connected), metrics).await?;
    }
    let mut signals = Signals::listen(options.stop_on_fd_close)?;
    let (events, received) = mpsc::unbounded_channel();
    let (facts, facts_seen) = watch::channel(Facts::default());
    let cluster = dir.cluster();
    let settings = Settings {
        name: options.name.clone(),
        spec,
        boot_id,
        dir,
        user,
        dialer: dialer.clone(),
        shim: options.shim.clone(),
    };
    let stop_after = options
        .stop_after
        .map(|limit| DurationMs(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)));
    let node =
        Node::adopt(Arc::new(settings), stop_after, events.clone(), facts, connected).await?;
    let (sessions, session_events) = mpsc::channel(SESSION_EVENTS_MAX);
    let dialling = SessionSettings {
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

fn node_spec(options: &AgentOptions, source: &DeviceSource) -> anyhow::Result<NodeSpec> {
    let spec = NodeSpec {
        labels: options.labels.clone(),
        pool: options.pool.clone(),
        zone: options.zone.clone(),
        cpu: options.cpu.unwrap_or_else(|| source.cpu()),
        memory: options.memory.unwrap_or_else(|| source.memory()),
        devices: source.devices(&options.name),
        ports: options.ports,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        address: options.address.clone(),
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
