//! Three nodes over gRPC and sled, on loopback, in real time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_raft::device::sled::{Directory, SledDevice, SledOptions};
use berth_raft::transport::grpc::GrpcTransport;
use berth_raft::transport::service::{self, PeerService};
use berth_raft::transport::{
    CallError, CallKind, Lane, PeerConnection, PeerHandler, PeerHeader, PeerRefusal, PeerTransport,
};
use berth_raft::{
    FatalReason, ProductionNode, ProposeError, RaftOptions, Role, SnapshotPolicy, StartError,
    Timers,
};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::model::options;
use crate::register::{Register, Shown, State, add, add_padded, show};

type Node = ProductionNode<Register>;

const CLUSTER: [u8; 16] = [3; 16];
const WAIT: Duration = Duration::from_secs(20);

struct Server {
    node: Node,
    shown: Shown,
    stop: Option<oneshot::Sender<()>>,
    done: tokio::task::JoinHandle<()>,
}

struct Cluster {
    folder: tempfile::TempDir,
    addresses: BTreeMap<u64, String>,
    servers: BTreeMap<u64, Server>,
    snapshots: SnapshotPolicy,
}

fn raft_options(id: u64, address: &str, snapshots: SnapshotPolicy) -> RaftOptions {
    let mut options = RaftOptions::new(id, CLUSTER, address);
    options.snapshots = snapshots;
    // The machine running this is busy with other tests.
    options.timers = Timers { heartbeat_ms: 100, election_min_ms: 400, election_max_ms: 800 };
    options
}

fn disk(folder: &Path, id: u64, directory: Directory) -> SledOptions {
    options(&folder.join(format!("node-{id}")), directory)
}

async fn serve(
    node: &Node,
    listener: TcpListener,
) -> (oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let service = PeerService::server(Arc::new(node.clone()));
    let done = tokio::spawn(async move {
        let server = tonic::transport::Server::builder().add_service(service);
        // Ends the connections too: a peer must not go on talking to a node
        // that was replaced by its next life in this same process.
        let stopped = async { drop(stopped.await) };
        let incoming = service::incoming(listener);
        server.serve_with_incoming_shutdown(incoming, stopped).await.unwrap();
    });
    (stop, done)
}

impl Cluster {
    async fn new(snapshots: SnapshotPolicy) -> Self {
        let mut cluster = Self {
            folder: tempfile::tempdir().unwrap(),
            addresses: BTreeMap::new(),
            servers: BTreeMap::new(),
            snapshots,
        };
        for id in 1..=3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            cluster.addresses.insert(id, address);
            cluster.start(id, listener, Directory::MayCreate).await;
        }
        let members = cluster.addresses.clone();
        cluster.node(1).bootstrap(members).await.unwrap();
        cluster
    }

    async fn start(&mut self, id: u64, listener: TcpListener, directory: Directory) {
        let (app, shown) = Register::new();
        let node = Node::start(
            raft_options(id, &self.addresses[&id], self.snapshots),
            app,
            SledDevice::new(disk(self.folder.path(), id, directory)),
            GrpcTransport::plain(),
        )
        .await
        .unwrap();
        let (stop, done) = serve(&node, listener).await;
        let server = Server { node, shown, stop: Some(stop), done };
        self.servers.insert(id, server);
    }

    async fn restart(&mut self, id: u64) {
        let listener = TcpListener::bind(&self.addresses[&id]).await.unwrap();
        self.start(id, listener, Directory::MustExist).await;
    }

    fn node(&self, id: u64) -> Node {
        self.servers[&id].node.clone()
    }

    async fn kill(&mut self, id: u64) {
        let mut server = self.servers.remove(&id).unwrap();
        drop(server.stop.take());
        server.done.await.unwrap();
        server.node.shutdown().await;
    }

    /// A leader that all running nodes follow.
    async fn leader(&self) -> u64 {
        let agreed = async {
            loop {
                let leaders = self.servers.values().map(|server| server.node.status().leader);
                let leaders: Vec<_> = leaders.map(|leader| leader.map(|(id, _)| id)).collect();
                if let Some(leader) = leaders[0]
                    && leaders.iter().all(|other| *other == Some(leader))
                    && self.servers.contains_key(&leader)
                    && self.node(leader).status().role == Role::Leader
                {
                    return leader;
                }
                tokio::task::yield_now().await;
                let mut changes = self.servers.values().next().unwrap().node.status_changes();
                let _either =
                    tokio::time::timeout(Duration::from_millis(50), changes.changed()).await;
            }
        };
        tokio::time::timeout(WAIT, agreed).await.expect("no leader in time")
    }

    /// Proposes to whoever leads until it is surely applied once; these
    /// entries may be applied twice, which the caller allows for.
    async fn propose(&self, value: u64) {
        let proposed = async {
            loop {
                let leader = self.leader().await;
                match self.node(leader).propose(add(value)).await {
                    Ok(_) => return,
                    Err(error) => assert_ne!(error, ProposeError::Stopped),
                }
            }
        };
        tokio::time::timeout(WAIT, proposed).await.expect("no proposal accepted");
    }

    async fn converge(&self) -> State {
        let index = {
            let leader = self.leader().await;
            self.node(leader).read_index().await.unwrap()
        };
        for server in self.servers.values() {
            server.node.wait_applied(index).await.unwrap();
        }
        let states: Vec<_> = self.servers.values().map(|server| show(&server.shown)).collect();
        assert!(states.iter().all(|state| *state == states[0]));
        states[0].clone()
    }

    async fn stop(mut self) {
        let ids: Vec<_> = self.servers.keys().copied().collect();
        for id in ids {
            self.kill(id).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_killed_leader_is_replaced_and_comes_back() {
    let mut cluster = Cluster::new(SnapshotPolicy::DEFAULT).await;
    for value in 0..50 {
        cluster.propose(value).await;
    }
    let first = cluster.leader().await;
    cluster.kill(first).await;
    let begun = Instant::now();
    cluster.propose(50).await;
    let failover = begun.elapsed();
    assert!(failover < Duration::from_secs(5), "{failover:?}");
    assert_ne!(cluster.leader().await, first);
    cluster.restart(first).await;
    let state = cluster.converge().await;
    let mut values = state.values.to_vec();
    values.dedup();
    assert_eq!(values, (0..=50).collect::<Vec<_>>());
    // All at once: everything comes back from the disks.
    for id in [1, 2, 3] {
        cluster.kill(id).await;
    }
    for id in [1, 2, 3] {
        cluster.restart(id).await;
    }
    cluster.propose(51).await;
    assert_eq!(cluster.converge().await.values.len(), state.values.len() + 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f17_a_lagging_follower_gets_a_snapshot_over_the_wire() {
    // Small enough that a snapshot is due by itself; large enough that it
    // travels in several pieces.
    let policy = SnapshotPolicy { log_bytes_min: 1 << 20, entries_kept: 10 };
    let mut cluster = Cluster::new(policy).await;
    let leader = cluster.leader().await;
    let follower = if leader == 1 { 2 } else { 1 };
    cluster.kill(follower).await;
    let node = cluster.node(leader);
    for batch in 0..5_u64 {
        let values = batch * 100..(batch + 1) * 100;
        let proposals = values.map(|value| node.propose(add_padded(value, 10_000)));
        for reply in futures::future::join_all(proposals).await {
            reply.unwrap();
        }
    }
    let mut changes = node.status_changes();
    let purged = changes.wait_for(|status| status.purged_index > Some(200));
    tokio::time::timeout(WAIT, purged).await.unwrap().unwrap();
    cluster.restart(follower).await;
    let state = cluster.converge().await;
    assert_eq!(state.values.len(), 500);
    // What it has applied is told before what it was sent.
    let mut changes = cluster.node(follower).status_changes();
    let sent = changes.wait_for(|status| status.snapshot_index > Some(200));
    tokio::time::timeout(WAIT, sent).await.unwrap().unwrap();
    // It starts again from what it was sent.
    cluster.kill(follower).await;
    let checked = berth_raft::device::sled::verify(
        &disk(cluster.folder.path(), follower, Directory::MustExist).data_dir,
    );
    assert_eq!(checked.unwrap(), vec![]);
    cluster.restart(follower).await;
    assert_eq!(cluster.converge().await, state);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_when_asked() {
    let cluster = Cluster::new(SnapshotPolicy::DEFAULT).await;
    cluster.propose(1).await;
    let first = cluster.leader().await;
    let second = if first == 3 { 1 } else { first + 1 };
    let begun = Instant::now();
    cluster.node(first).transfer_leader(second).await.unwrap();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(cluster.leader().await, second);
    cluster.propose(2).await;
    assert_eq!(*cluster.converge().await.values, vec![1, 2]);
    let refused = cluster.node(first).propose(add(3)).await;
    let leader = (second, cluster.addresses[&second].clone());
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(leader) }));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_serves_alone_and_grows() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut cluster = Cluster {
        folder,
        addresses: BTreeMap::from([(1, address.clone())]),
        servers: BTreeMap::new(),
        snapshots: SnapshotPolicy::DEFAULT,
    };
    cluster.start(1, listener, Directory::MayCreate).await;
    cluster.node(1).bootstrap([(1, address)].into()).await.unwrap();
    cluster.propose(1).await;
    cluster.node(1).read_index().await.unwrap();
    assert_eq!(cluster.node(1).status().millis_since_quorum, Some(0));
    cluster.kill(1).await;
    cluster.restart(1).await;
    cluster.propose(2).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    cluster.addresses.insert(2, address.clone());
    cluster.start(2, listener, Directory::MayCreate).await;
    cluster.node(1).add_learner(2, address).await.unwrap();
    cluster.node(1).promote([2].into()).await.unwrap();
    cluster.propose(3).await;
    assert_eq!(*cluster.converge().await.values, vec![1, 2, 3]);
    cluster.node(2).read_index().await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f20_wrong_peers_are_refused_and_dead_ones_are_unreachable_at_once() {
    let cluster = Cluster::new(SnapshotPolicy::DEFAULT).await;
    let transport = GrpcTransport::plain();
    let to_first = transport.connect(1, &cluster.addresses[&1], Lane::Log);
    let header = |cluster_id, to_node| PeerHeader { cluster_id, from_node: 2, to_node };
    let call = async |connection: &_, header, kind| {
        let connection: &<GrpcTransport as PeerTransport>::Connection = connection;
        connection.call(kind, header, Bytes::from_static(b"\xff"), Duration::from_secs(5)).await
    };
    assert_eq!(
        call(&to_first, header([4; 16], 1), CallKind::Vote).await,
        Err(CallError::Refused(PeerRefusal::WrongCluster))
    );
    assert_eq!(
        call(&to_first, header(CLUSTER, 3), CallKind::Vote).await,
        Err(CallError::Refused(PeerRefusal::WrongNode { expected: 3, actual: 1 }))
    );
    let garbled = call(&to_first, header(CLUSTER, 1), CallKind::Append).await;
    assert!(matches!(garbled, Err(CallError::Refused(PeerRefusal::Unreadable(_)))), "{garbled:?}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = listener.local_addr().unwrap().to_string();
    drop(listener);
    let begun = Instant::now();
    let to_dead = transport.connect(9, &dead, Lane::Log);
    let unreachable = call(&to_dead, header(CLUSTER, 9), CallKind::Vote).await;
    assert!(matches!(unreachable, Err(CallError::Unreachable(_))), "{unreachable:?}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_in_transit_is_refused() {
    let mut cluster = Cluster::new(SnapshotPolicy::DEFAULT).await;
    cluster.propose(1).await;
    let node = cluster.node(1);
    let piece = |offset, crc32c, last| berth_raft::transport::Piece {
        offset,
        data: Bytes::from_static(b"no snapshot"),
        crc32c,
        last,
    };
    let header = PeerHeader { cluster_id: CLUSTER, from_node: 2, to_node: 1 };
    let right = 0xd51c_3b05;
    for pieces in [vec![], vec![piece(5, right, true)], vec![piece(0, 1, true)]] {
        let pieces = futures::stream::iter(pieces.into_iter().map(Ok));
        let handler: &dyn PeerHandler = &node;
        let refused = handler.handle_snapshot(header.clone(), Bytes::new(), Box::pin(pieces)).await;
        assert!(refused.is_err(), "{refused:?}");
    }
    let leftovers: Vec<PathBuf> = std::fs::read_dir(cluster.folder.path().join("node-1/snapshots"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(leftovers, Vec::<PathBuf>::new());
    // A node whose snapshot was damaged on disk does not start from nothing.
    cluster.kill(1).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_a_damaged_snapshot_on_disk_is_refused() {
    let policy = SnapshotPolicy { log_bytes_min: 1 << 30, entries_kept: 1 };
    let mut cluster = Cluster::new(policy).await;
    for value in 0..600 {
        if value % 100 == 0 {
            cluster.propose(value).await;
        } else {
            let leader = cluster.leader().await;
            cluster.node(leader).propose(add(value)).await.unwrap();
        }
    }
    let node = cluster.node(1);
    cluster.converge().await;
    node.trigger_snapshot().await;
    let mut changes = node.status_changes();
    let purged = changes.wait_for(|status| status.purged_index > Some(200));
    tokio::time::timeout(WAIT, purged).await.unwrap().unwrap();
    drop((node, changes));
    cluster.kill(1).await;
    let folder = disk(cluster.folder.path(), 1, Directory::MustExist).data_dir;
    let snapshots = std::fs::read_dir(folder.join("snapshots")).unwrap();
    let file = snapshots.map(|entry| entry.unwrap().path()).next().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let problems = berth_raft::device::sled::verify(&folder).unwrap();
    assert!(problems.iter().any(|problem| problem.file == file), "{problems:?}");
    let (app, _) = Register::new();
    let refused = Node::start(
        raft_options(1, &cluster.addresses[&1], policy),
        app,
        SledDevice::new(disk(cluster.folder.path(), 1, Directory::MustExist)),
        GrpcTransport::plain(),
    )
    .await;
    match refused {
        Err(StartError::Open(error)) => {
            assert!(error.to_string().contains(&*file.to_string_lossy()), "{error}");
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("started from a damaged snapshot"),
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_is_told_and_proposals_after_it_are_refused() {
    let cluster = Cluster::new(SnapshotPolicy::DEFAULT).await;
    let leader = cluster.leader().await;
    let node = cluster.node(leader);
    node.shutdown().await;
    assert_eq!(node.fatal().await, FatalReason::Shutdown);
    assert_eq!(node.propose(add(1)).await, Err(ProposeError::Stopped));
    cluster.stop().await;
}
