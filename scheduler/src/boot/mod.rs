//! Starting and stopping a scheduler: open the data, serve peers, come into
//! the cluster, serve everybody, and end in an order that loses nothing.

mod engine;
mod formation;
mod holder;
mod joining;
mod removed;
mod serve;
mod terms;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use berth_identity::tls::{Listener, Protocol};
use berth_identity::{CERTIFICATE_DAYS, Dialer, MachineId};
use berth_raft::device::OpenError;
use berth_raft::device::sled::{self, Directory, Filesystem, SledDevice, SledOptions};
use berth_raft::transport::grpc::GrpcTransport;
use berth_raft::{ProductionNode, RaftOptions, RaftStatus, Role, StartError, Timers};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::access::{Audit, AuditOptions, Authenticator, GateLayer, Security};
use crate::app::{ClusterApp, Published};
use crate::copies;
use crate::http;
use crate::identity::Identity;
use crate::leader::{LeaderSettings, Node};
use crate::options::{Formation, MemoryDisk, SchedulerOptions, Transport};
use crate::peers;
use crate::rpc::Shared;
use crate::storage::raft_folder;

use engine::Engine;
use formation::{come_in, settle_identity};
use holder::holder_of;
use joining::tls_folder;
use serve::serve_grpc;
use terms::follow_leadership;

/// How long a stopping leader tries to hand over.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);

/// For a replica that differs: to leave Raft, and to write down why.
const SET_ASIDE_LIMIT: Duration = Duration::from_secs(10);

/// A scheduler that serves.
pub struct Running {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub shared: RunningParts,
    stop: CancellationToken,
    servers: Vec<JoinHandle<anyhow::Result<()>>>,
    engine: Engine,
}

/// What a caller may ask a running scheduler.
#[derive(Clone)]
pub struct RunningParts(Shared);

impl RunningParts {
    /// This scheduler's part in Raft.
    pub fn status(&self) -> RaftStatus {
        self.0.node.status()
    }
}

/// How a scheduler leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    /// The others go on: one of them is to lead.
    HandOver,
    /// The whole cluster ends.
    AtOnce,
}

/// Runs a scheduler until `stop` resolves or its storage or Raft fails.
///
/// # Errors
/// What kept it from starting, or why it had to end.
pub async fn run(
    options: SchedulerOptions,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    stop: impl Future<Output = Leave>,
) -> anyhow::Result<()> {
    let timers = options.timers;
    let others = match &options.formation {
        Formation::Join { servers, .. } => servers.clone(),
        Formation::Bootstrap | Formation::Existing => Vec::new(),
    };
    let data_dir = options.data_dir.clone();
    let running = start(options, metrics).await?;
    let shared = running.shared.0.clone();
    tokio::select! {
        leave = stop => running.stop(leave).await,
        reason = shared.node.fatal() => bail!("stopped for safety: {reason}"),
        odd = shared.published.peers.odd() => Err(set_aside(running, &data_dir, odd).await),
        () = removed::removed(shared.clone(), others, timers) => {
            running.stop(Leave::AtOnce).await?;
            bail!(
                "scheduler {} was removed from its cluster, and its data is of no use any more; \
                 to come back, start a new one on an empty directory with --join",
                shared.node.node_id(),
            )
        }
    }
}

/// Takes this replica out of Raft, writes down what is wrong with it, and says it.
async fn set_aside(running: Running, data_dir: &Path, odd: peers::Odd) -> anyhow::Error {
    let shared = running.shared.0.clone();
    let (scheduler, view) = (shared.node.node_id(), shared.published.view());
    // It must vote and lead no more, however its disk is.
    let _ = tokio::time::timeout(SET_ASIDE_LIMIT, running.stop(Leave::AtOnce)).await;
    let (folder, evidence) = (data_dir.to_owned(), odd.clone());
    let writing =
        tokio::task::spawn_blocking(move || peers::set_aside(&folder, scheduler, &evidence, &view));
    let kept = match tokio::time::timeout(SET_ASIDE_LIMIT, writing).await {
        Ok(Ok(Ok(()))) => "evidence is in its directory".to_owned(),
        Ok(Ok(Err(error))) => format!("and evidence could not be written: {error}"),
        Ok(Err(_)) | Err(_) => "and evidence could not be written in time".to_owned(),
    };
    let (index, others) = (odd.index, &odd.majority);
    anyhow::anyhow!(
        "stopped for safety: after entry {index} the state of scheduler {scheduler} was not that of \
         schedulers {others:?}, a majority; {kept}; remove it with `berth operator remove \
         {scheduler}` and let a new one join"
    )
}

/// Starts a scheduler; it serves when this returns.
///
/// # Errors
/// What kept it from starting.
pub async fn start(
    options: SchedulerOptions,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
) -> anyhow::Result<Running> {
    check_transport(options.listen, "listen", &options.transport)?;
    check_transport(options.http, "http", &options.transport)?;
    let listener = bind(options.listen, "listen").await?;
    let http_listener = bind(options.http, "http").await?;
    let grpc = listener.local_addr().context("read the gRPC address")?;
    let http_address = http_listener.local_addr().context("read the HTTP address")?;
    let advertise =
        if options.advertise.is_empty() { grpc.to_string() } else { options.advertise.clone() };

    peers::check_quarantine(&options.data_dir)?;
    let (identity, directory) = settle_identity(&options, &advertise).await?;
    let security = open_security(&options, &identity)?;
    let dialer = match &security {
        Some(security) => security.dialer()?,
        None => Dialer::PlainText,
    };
    let published = Arc::new(Published::new());
    let engine = Engine::start()?;
    let prepared = prepare_raft(&options, &identity, directory, &published, dialer.clone())?;
    warn_of_slow_disk(&options.data_dir, options.timers).await;
    let node = engine.begin(|| prepared.start()).await?;
    // Only now does the directory hold what the identity promises.
    identity.save(&options.data_dir)?;
    let stop = CancellationToken::new();
    let (leader_sender, leader) = watch::channel(None);
    let shared = Shared {
        node: node.clone(),
        published: published.clone(),
        leader,
        cluster_id: identity.cluster_id()?,
        to_leader: Arc::default(),
        security,
        dialer,
    };
    let servers = serve(&options, listener, http_listener, &shared, metrics, &stop)?;
    let (beating, ended) = (published.clone(), stop.clone());
    tokio::spawn(async move { beating.pulse.beat(ended).await });
    engine.spawn(follow_leadership(
        node.clone(),
        published,
        LeaderSettings {
            rules: options.liveness,
            guards: options.guards,
            submits_per_second: options.submits_per_second,
        },
        leader_sender,
        stop.clone(),
    ));
    engine.spawn(peers::keep_asking(shared.node.clone(), shared.published.clone(), stop.clone()));
    if let Some(copies) = options.copies.clone() {
        let (id, published) = (identity.scheduler_id, shared.published.clone());
        tokio::spawn(copies::keep_making(copies, id, published, stop.clone()));
    }
    come_in(&options, &identity, &shared).await?;
    info!(scheduler_id = identity.scheduler_id, %grpc, http = %http_address, "scheduler serves");
    Ok(Running { grpc, http: http_address, shared: RunningParts(shared), stop, servers, engine })
}

impl Running {
    /// Ends in order: hands leadership over, lets calls finish, stops Raft.
    pub async fn stop(self, leave: Leave) -> anyhow::Result<()> {
        if leave == Leave::HandOver {
            self.hand_over().await;
        }
        self.stop.cancel();
        let ended = async {
            for server in self.servers {
                let _ = server.await;
            }
        };
        // Streams of agents and watchers have no end of their own.
        let _ = tokio::time::timeout(Duration::from_secs(1), ended).await;
        self.shared.0.node.shutdown().await;
        drop(self.engine);
        Ok(())
    }

    async fn hand_over(&self) {
        let node = &self.shared.0.node;
        let raft = node.status();
        if let (Role::Leader, Some(to)) = (raft.role, raft.heir()) {
            match tokio::time::timeout(HAND_OVER_LIMIT, node.transfer_leader(to)).await {
                Ok(Ok(())) => info!(to, "leadership handed over"),
                Ok(Err(error)) => warn!(to, %error, "leadership not handed over"),
                Err(_) => warn!(to, "leadership not handed over in time"),
            }
        }
    }
}

/// Without TLS a scheduler serves its own machine only, unless it is told
/// otherwise.
fn check_transport(
    address: SocketAddr,
    key: &'static str,
    transport: &Transport,
) -> anyhow::Result<()> {
    match transport {
        Transport::Tls(_) => Ok(()),
        _ if address.ip().is_loopback() => Ok(()),
        Transport::PlainTextOnLoopback => bail!(
            "{key} address {address} is not on loopback and there is no TLS; \
             give --tls-dir, or --plain-text on a network that you trust as this host"
        ),
        Transport::PlainTextAnywhere => {
            warn!(key, %address, "plain text between machines: whoever reaches this address may do anything");
            Ok(())
        }
    }
}

/// This scheduler's credentials. A cluster is founded with TLS or without, and
/// stays so: half of it would be neither safe nor reachable.
fn open_security(
    options: &SchedulerOptions,
    identity: &Identity,
) -> anyhow::Result<Option<Arc<Security>>> {
    match (tls_folder(options), identity.tls) {
        (Some(folder), true) => {
            let own = MachineId::scheduler(identity.cluster_id()?, identity.scheduler_id);
            Ok(Some(Arc::new(Security::open(folder, &own)?)))
        }
        (None, false) => Ok(None),
        (None, true) => bail!(
            "the cluster of {} speaks TLS, and this scheduler is to speak plain text; \
             give --tls-dir, {} unless it was another",
            options.data_dir.display(),
            options.data_dir.join("tls").display(),
        ),
        (Some(_), false) => bail!(
            "the cluster of {} was founded without TLS; start its scheduler without --tls-dir, \
             on loopback or with --plain-text",
            options.data_dir.display(),
        ),
    }
}

/// Starts everything that answers.
fn serve(
    options: &SchedulerOptions,
    grpc: TcpListener,
    http: TcpListener,
    shared: &Shared,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<JoinHandle<anyhow::Result<()>>>> {
    let audit = Audit::open(AuditOptions::below(&options.data_dir))?;
    let authenticator = Authenticator::new(shared.clone());
    let gate = GateLayer::new(authenticator.clone(), audit);
    let (mut grpc_tls, mut http_tls) = (None, None);
    let mut servers = Vec::new();
    if let Some(security) = &shared.security {
        grpc_tls = Some(security.server(Protocol::Grpc)?);
        http_tls = Some(security.server(Protocol::Http)?);
        if let Some(socket) = local_socket(&options.data_dir) {
            let local = Listener::local(socket);
            servers.push(tokio::spawn(serve_grpc(
                local,
                gate.clone(),
                shared.clone(),
                stop.clone(),
            )));
        }
        tokio::spawn(keep_fresh(security.clone(), shared.published.clone(), stop.clone()));
    }
    let grpc = Listener::new(grpc, grpc_tls);
    servers.push(tokio::spawn(serve_grpc(grpc, gate, shared.clone(), stop.clone())));
    let http = Listener::new(http, http_tls);
    let pages = http::serve(http, authenticator, shared.clone(), metrics, stop.clone());
    servers.push(tokio::spawn(pages));
    Ok(servers)
}

async fn keep_fresh(security: Arc<Security>, published: Arc<Published>, stop: CancellationToken) {
    let (folder, credentials) = (security.folder().clone(), security.credentials().clone());
    let renew = || {
        let renewed = security.renew(&published.view(), CERTIFICATE_DAYS);
        std::future::ready(renewed.map_err(|error| format!("{error:#}")))
    };
    tokio::select! {
        () = berth_identity::keep_fresh(folder, credentials, renew) => {}
        () = stop.cancelled() => {}
    }
}

/// The socket file by which whoever owns the data directory gets in without a
/// token. Everything else works without it.
fn local_socket(data_dir: &Path) -> Option<UnixListener> {
    let path = data_dir.join("admin.sock");
    // Bound where nobody else may enter, and moved when its mode is set.
    let private = data_dir.join("tls");
    let bound = std::fs::create_dir_all(&private).and_then(|()| {
        std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o700))?;
        let beside = private.join("admin.sock");
        let _ = std::fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, &path)?;
        Ok(listener)
    });
    match bound {
        Ok(listener) => Some(listener),
        Err(error) => {
            warn!(path = %path.display(), %error, "no socket file; recover-admin will not work here");
            None
        }
    }
}

async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| {
        let taken = (error.kind() == ErrorKind::AddrInUse).then(|| holder_of(address)).flatten();
        let holder =
            taken.map(|(pid, name)| format!("; process {pid} ({name}) listens at that port"));
        let holder = holder.unwrap_or_default();
        anyhow::Error::new(error)
            .context(format!("listen on {address}{holder}; choose another with --{key}"))
    })
}

/// Everything that Raft starts from.
struct Prepared {
    options: RaftOptions,
    app: ClusterApp,
    device: SledDevice,
    transport: GrpcTransport,
}

impl Prepared {
    async fn start(self) -> anyhow::Result<Node> {
        let Prepared { options, app, device, transport } = self;
        let started = ProductionNode::start(options, app, device, transport).await;
        started.map_err(|error| {
            let in_memory = matches!(&error, StartError::Open(OpenError::Filesystem { filesystem, .. })
                if filesystem == "tmpfs");
            let hint = if in_memory { " (for a trial: scheduler.disk.allow_memory)" } else { "" };
            anyhow::Error::new(error).context(format!("open the scheduler's store{hint}"))
        })
    }
}

fn prepare_raft(
    options: &SchedulerOptions,
    identity: &Identity,
    directory: Directory,
    published: &Arc<Published>,
    dialer: Dialer,
) -> anyhow::Result<Prepared> {
    let mut raft =
        RaftOptions::new(identity.scheduler_id, identity.group_id()?, identity.address.clone());
    raft.timers = options.timers;
    raft.snapshots.log_bytes_min = options.snapshot_log_bytes;
    let mut device = SledOptions::new(raft_folder(&options.data_dir), directory);
    device.filesystem = match options.memory_disk {
        MemoryDisk::Refused => Filesystem::LocalDisk,
        MemoryDisk::Allowed => Filesystem::LocalOrMemory,
    };
    device.soft_limit_bytes = options.disk_soft_bytes;
    device.hard_limit_bytes = options.disk_hard_bytes;
    device.ballast_bytes = options.disk_ballast_bytes;
    Ok(Prepared {
        options: raft,
        app: ClusterApp::new(published.clone()),
        device: SledDevice::new(device),
        transport: GrpcTransport::with_channels(Arc::new(move |to| dialer.channel(to))),
    })
}

/// The timers are for a whole cluster to choose, so this only speaks up.
async fn warn_of_slow_disk(data_dir: &Path, timers: Timers) {
    let folder = data_dir.to_owned();
    let measured = tokio::task::spawn_blocking(move || sled::measure_syncs(&folder)).await;
    match measured.unwrap_or_else(|error| Err(error.into())) {
        Ok(pace) => {
            let (p50, p999) = (pace.p50, pace.p999);
            metrics::gauge!("berth_disk_sync_seconds").set(p999.as_secs_f64());
            if pace.is_slow() && timers.election_min_ms < Timers::SLOW_DISK.election_min_ms {
                warn!(
                    ?p50,
                    ?p999,
                    "this disk syncs slowly: set scheduler.raft.profile to slow-disk on every scheduler"
                );
            } else {
                info!(?p50, ?p999, "disk measured");
            }
        }
        // Whoever opens the store next says what is wrong with the folder.
        Err(error) => info!(%error, "disk not measured"),
    }
}
