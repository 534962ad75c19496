//! Starting and stopping a scheduler: open the data, serve peers, come into
//! the cluster, serve everybody, and end in an order that loses nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use berth_proto::v1::operator_client::OperatorClient;
use berth_proto::{DESCRIPTORS, v1};
use berth_raft::device::sled::{Directory, Filesystem, SledDevice, SledOptions};
use berth_raft::transport::PeerHandler;
use berth_raft::transport::grpc::GrpcTransport;
use berth_raft::transport::service::{PeerService, incoming};
use berth_raft::{ProductionNode, RaftOptions, RaftStatus, Role};
use berth_state::Command;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tracing::{info, warn};

use crate::app::{ClusterApp, Published};
use crate::http;
use crate::identity::{self, Identity};
use crate::leader::{Leader, Node};
use crate::options::{Formation, MemoryDisk, SchedulerOptions};
use crate::rpc::{
    AgentsService, JobsService, NodesService, OperatorService, REQUEST_BYTES_MAX, Shared,
};

/// The first scheduler's id in Raft; later ones are given by the state.
const FOUNDER: u64 = 1;
/// Tries to join are this far apart.
const JOIN_RETRY: Duration = Duration::from_millis(300);
/// A node that leads and could not confirm it asks again after this.
const BEGIN_RETRY: Duration = Duration::from_millis(20);
/// Streams of one connection: an agent needs a few, a client a handful.
const STREAMS_MAX: u32 = 1024;
/// How long a stopping leader tries to hand over.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);

/// A scheduler that serves.
pub struct Running {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub shared: RunningParts,
    stop: CancellationToken,
    servers: Vec<JoinHandle<anyhow::Result<()>>>,
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
    let running = start(options, metrics).await?;
    let node = running.shared.0.node.clone();
    tokio::select! {
        leave = stop => running.stop(leave).await,
        reason = node.fatal() => bail!("stopped for safety: {reason}"),
    }
}

/// Starts a scheduler; it serves when this returns.
///
/// # Errors
/// What kept it from starting.
pub async fn start(
    options: SchedulerOptions,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
) -> anyhow::Result<Running> {
    require_loopback(options.listen, "listen")?;
    require_loopback(options.http, "http")?;
    let listener = bind(options.listen, "listen").await?;
    let http_listener = bind(options.http, "http").await?;
    let grpc = listener.local_addr().context("read the gRPC address")?;
    let http_address = http_listener.local_addr().context("read the HTTP address")?;
    let advertise =
        if options.advertise.is_empty() { grpc.to_string() } else { options.advertise.clone() };

    let (identity, directory) = settle_identity(&options, &advertise).await?;
    let published = Arc::new(Published::new());
    let node = start_raft(&options, &identity, directory, &published).await?;
    let stop = CancellationToken::new();
    let (leader_sender, leader) = watch::channel(None);
    let shared = Shared {
        node: node.clone(),
        published: published.clone(),
        leader,
        cluster_id: identity.cluster_id()?,
        to_leader: Arc::default(),
    };
    let servers = vec![
        tokio::spawn(serve_grpc(listener, shared.clone(), stop.clone())),
        tokio::spawn(http::serve(http_listener, shared.clone(), metrics, stop.clone())),
    ];
    tokio::spawn(follow_leadership(
        node.clone(),
        published,
        options.liveness,
        leader_sender,
        stop.clone(),
    ));
    come_in(&options, &identity, &shared).await?;
    info!(scheduler_id = identity.scheduler_id, %grpc, http = %http_address, "scheduler serves");
    Ok(Running { grpc, http: http_address, shared: RunningParts(shared), stop, servers })
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
        Ok(())
    }

    async fn hand_over(&self) {
        let node = &self.shared.0.node;
        let raft = node.status();
        let heir = raft
            .members
            .iter()
            .filter(|member| member.voter && member.id != raft.node_id)
            .max_by_key(|member| member.matched_index);
        if let (Role::Leader, Some(heir)) = (raft.role, heir) {
            let to = heir.id;
            match tokio::time::timeout(HAND_OVER_LIMIT, node.transfer_leader(to)).await {
                Ok(Ok(())) => info!(to, "leadership handed over"),
                Ok(Err(error)) => warn!(to, %error, "leadership not handed over"),
                Err(_) => warn!(to, "leadership not handed over in time"),
            }
        }
    }
}

/// Identity and encryption between machines are not built yet: until then a
/// scheduler serves its own machine only.
fn require_loopback(address: SocketAddr, key: &str) -> anyhow::Result<()> {
    if !address.ip().is_loopback() {
        bail!(
            "{key} address {address} is not on loopback, and this version has no TLS yet; \
             use 127.0.0.1 or [::1]"
        );
    }
    Ok(())
}

async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}; choose another with --{key}"))
}

/// Who this node is: as its data says, else as it is told to become.
async fn settle_identity(
    options: &SchedulerOptions,
    advertise: &str,
) -> anyhow::Result<(Identity, Directory)> {
    let folder = &options.data_dir;
    if let Some(identity) = present(folder)? {
        if options.formation == Formation::Bootstrap {
            info!(
                scheduler_id = identity.scheduler_id,
                "this directory has a cluster; coming back to it"
            );
        }
        if identity.address != advertise {
            bail!(
                "this scheduler is known to its cluster at {}, not at {advertise}; start it with --advertise {}",
                identity.address,
                identity.address
            );
        }
        return Ok((identity, Directory::MustExist));
    }
    match &options.formation {
        Formation::Existing => bail!(
            "{} holds no scheduler (was the disk unmounted?); start a new one with --bootstrap or --join",
            folder.display()
        ),
        Formation::Bootstrap => {
            make_folder(folder)?;
            let identity = Identity::new(identity::random_id()?, FOUNDER, advertise.to_owned());
            Ok((identity, Directory::MayCreate))
        }
        Formation::Join(servers) => {
            make_folder(folder)?;
            let key = identity::joining_key(folder)?;
            let reply = ask_to_join(servers, advertise, key).await?;
            let cluster_id = <[u8; 16]>::try_from(reply.cluster_id.as_ref())
                .ok()
                .context("the leader answered with a cluster id that is not 16 bytes")?;
            let identity = Identity::new(cluster_id, reply.node_id, advertise.to_owned());
            Ok((identity, Directory::MayCreate))
        }
    }
}

fn present(folder: &Path) -> anyhow::Result<Option<Identity>> {
    if folder.exists() && !folder.is_dir() {
        bail!("{} is not a directory", folder.display());
    }
    Identity::load(folder)
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))
}

/// Asks until somebody answers; each answer for one key is the same.
async fn ask_to_join(
    servers: &[String],
    advertise: &str,
    key: [u8; 16],
) -> anyhow::Result<v1::JoinReply> {
    const TRIES_MAX: usize = 100;
    let mut last = anyhow::anyhow!("no address to join");
    for attempt in 0..TRIES_MAX {
        let Some(server) = servers.get(attempt % servers.len().max(1)) else { break };
        match join_once(server, advertise, key).await {
            Ok(reply) => return Ok(reply),
            Err(error) => last = error.context(format!("join through {server}")),
        }
        tokio::time::sleep(JOIN_RETRY).await;
    }
    Err(last)
}

async fn join_once(server: &str, advertise: &str, key: [u8; 16]) -> anyhow::Result<v1::JoinReply> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{server}"))
        .with_context(|| format!("`{server}` is no address"))?
        .connect_timeout(Duration::from_millis(500))
        .timeout(Duration::from_secs(5));
    let channel = endpoint.connect().await.context("connect")?;
    let request = v1::JoinRequest {
        address: advertise.to_owned(),
        token: String::new(),
        instance_key: Bytes::copy_from_slice(&key),
    };
    let reply = OperatorClient::new(channel).join(request).await;
    reply.map(tonic::Response::into_inner).map_err(|status| anyhow::anyhow!("{}", status.message()))
}

async fn start_raft(
    options: &SchedulerOptions,
    identity: &Identity,
    directory: Directory,
    published: &Arc<Published>,
) -> anyhow::Result<Node> {
    let mut raft =
        RaftOptions::new(identity.scheduler_id, identity.cluster_id()?, identity.address.clone());
    raft.timers = options.timers;
    raft.snapshots.log_bytes_min = options.snapshot_log_bytes;
    let mut device = SledOptions::new(options.data_dir.join("raft"), directory);
    device.filesystem = match options.memory_disk {
        MemoryDisk::Refused => Filesystem::LocalDisk,
        MemoryDisk::Allowed => Filesystem::LocalOrMemory,
    };
    device.soft_limit_bytes = options.disk_soft_bytes;
    device.hard_limit_bytes = options.disk_hard_bytes;
    device.ballast_bytes = options.disk_ballast_bytes;
    let app = ClusterApp::new(published.clone());
    let transport = GrpcTransport::plain();
    let node = ProductionNode::start(raft, app, SledDevice::new(device), transport)
        .await
        .context("open the scheduler's store")?;
    // Only now does the directory hold what the identity promises.
    identity.save(&options.data_dir)?;
    Ok(node)
}

/// Forms or joins the cluster, where that has not happened yet.
async fn come_in(
    options: &SchedulerOptions,
    identity: &Identity,
    shared: &Shared,
) -> anyhow::Result<()> {
    let fresh = shared.node.status().members.is_empty();
    match &options.formation {
        Formation::Bootstrap if identity.scheduler_id == FOUNDER && fresh => {
            let members = BTreeMap::from([(FOUNDER, identity.address.clone())]);
            shared.node.bootstrap(members).await.context("form the cluster")?;
            found(shared, identity).await
        }
        Formation::Bootstrap if identity.scheduler_id == FOUNDER => {
            // A crash between forming and founding leaves a cluster that has
            // no id yet: founding again is refused where it was done.
            let shared = shared.clone();
            let identity = identity.clone();
            tokio::spawn(async move { found(&shared, &identity).await });
            Ok(())
        }
        Formation::Join(servers) => {
            keep_asking(
                servers.clone(),
                identity.clone(),
                options.data_dir.clone(),
                shared.clone(),
            );
            Ok(())
        }
        Formation::Bootstrap | Formation::Existing => Ok(()),
    }
}

async fn found(shared: &Shared, identity: &Identity) -> anyhow::Result<()> {
    let cluster_id = identity.cluster_id()?;
    let mut leader = shared.leader.clone();
    loop {
        let leading = leader.borrow_and_update().clone();
        if let Some(leading) = leading
            && leading.propose(Command::Found { cluster_id }).await.is_ok()
        {
            return Ok(());
        }
        leader.changed().await.context("wait for leadership")?;
    }
}

/// Asks to join until this node has a vote: the leader that was asked may have
/// fallen before it was done.
fn keep_asking(
    servers: Vec<String>,
    identity: Identity,
    data_dir: std::path::PathBuf,
    shared: Shared,
) {
    tokio::spawn(async move {
        for attempt in 0_usize.. {
            tokio::time::sleep(JOIN_RETRY).await;
            let raft = shared.node.status();
            if raft.members.iter().any(|member| member.id == raft.node_id && member.voter) {
                return;
            }
            let Ok(key) = identity::joining_key(&data_dir) else { return };
            let Some(server) = servers.get(attempt % servers.len().max(1)) else { return };
            if let Err(error) = join_once(server, &identity.address, key).await {
                warn!(server, %error, "not a voter yet");
            }
        }
    });
}

async fn serve_grpc(
    listener: TcpListener,
    shared: Shared,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    use v1::agents_server::AgentsServer;
    use v1::jobs_server::JobsServer;
    use v1::nodes_server::NodesServer;
    use v1::operator_server::OperatorServer;

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<JobsServer<JobsService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()
        .context("describe the services")?;
    let handler: Arc<dyn PeerHandler> = Arc::new(shared.node.clone());
    let jobs =
        JobsServer::new(JobsService(shared.clone())).max_decoding_message_size(REQUEST_BYTES_MAX);
    let agents = AgentsServer::new(AgentsService(shared.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX);
    let routes = Routes::new(jobs)
        .add_service(NodesServer::new(NodesService(shared.clone())))
        .add_service(OperatorServer::new(OperatorService::new(shared)))
        .add_service(agents)
        .add_service(PeerService::server(handler))
        .add_service(health_service)
        .add_service(reflection);
    Server::builder()
        .tcp_nodelay(true)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming(listener), stop.cancelled())
        .await
        .context("serve gRPC")
}

/// Begins and ends terms of leadership as Raft says.
async fn follow_leadership(
    node: Node,
    published: Arc<Published>,
    rules: berth_reconcile::LivenessRules,
    leader: watch::Sender<Option<Arc<Leader>>>,
    stop: CancellationToken,
) {
    let mut changes = node.status_changes();
    loop {
        let raft = changes.current();
        let present = leader.borrow().clone();
        let leads = raft.role == Role::Leader;
        let same = present.as_ref().is_some_and(|present| leads && present.term == raft.term);
        if !same {
            if let Some(old) = present {
                old.end();
                leader.send_replace(None);
            }
            // Leading begins when everything committed before is applied: a
            // decision on less could give a device twice in one view.
            if leads && node.read_index().await.is_ok() && node.status().term == raft.term {
                let term = raft.term;
                let begun = Leader::begin(term, node.clone(), published.clone(), rules);
                leader.send_replace(Some(begun));
            }
        }
        let undecided = leads && leader.borrow().is_none();
        let again = async {
            if undecided {
                tokio::time::sleep(BEGIN_RETRY).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_none() { break },
            () = again => {}
            () = stop.cancelled() => break,
        }
    }
    let last = leader.borrow().clone();
    if let Some(last) = last {
        last.end();
        leader.send_replace(None);
    }
}
