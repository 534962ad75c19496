//! Starting a node: open the device, prove that log and snapshots meet, bring
//! the application back, then take part.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use openraft::async_runtime::Watch;
use openraft::errors::{InitializeError, RaftError};
use openraft::{AsyncRuntime, BasicNode, Raft};
use tokio::sync::{Notify, mpsc};

use super::background;
use super::errors::{BootstrapError, StartError};
use super::{Inner, RaftNode, read};
use crate::app::App;
use crate::device::snapshots::SnapshotStore;
use crate::device::{Device, OpenError, Opened, Position};
use crate::fatal::FatalCell;
use crate::log::{Cache, LogStore, WriterHandle};
use crate::machine::{Machine, Shared, offload};
use crate::options::RaftOptions;
use crate::snapshot;
use crate::status::{RaftStatus, StatusWatch};
use crate::transport::network::{Network, NetworkOf};
use crate::transport::{PeerHeader, PeerTransport};
use crate::types::{SnapshotMeta, StoredMembership};

impl<A: App, RT: AsyncRuntime, D: Device, T: PeerTransport> RaftNode<A, RT, D, T> {
    /// Starts a node from what its device holds. It takes part at once if it
    /// is a member; a new one waits for `bootstrap` or to be added.
    ///
    /// # Errors
    /// A setting or the data is refused, with the way out in the text.
    pub async fn start(
        options: RaftOptions,
        app: A,
        device: D,
        transport: T,
    ) -> Result<Self, StartError> {
        let config = options.library_config()?;
        let fatal = FatalCell::default();
        let (identity, cell) = (options.identity(), fatal.clone());
        let opened = offload::<RT, _>(D::PLACE, move || Ok(device.open(identity, &cell))).await??;
        let Opened { log, recovered, snapshots, health, keep } = opened;
        let (store, purged) = (snapshots.clone(), recovered.purged);
        let cluster_id = options.cluster_id;
        let newest =
            offload::<RT, _>(D::PLACE, move || Ok(choose_snapshot(&store, cluster_id, purged)))
                .await??;
        let cache = Cache::<A>::new(recovered).map_err(|error| unreadable(&error))?;
        let (writer, writer_end) =
            WriterHandle::start::<_, RT>(log, D::PLACE, health.clone(), fatal.clone())?;
        let shared = Arc::new(Shared {
            cluster_id,
            place: D::PLACE,
            fatal: fatal.clone(),
            snapshot_due: Notify::new(),
            snapshot_log_bytes_min: options.snapshots.log_bytes_min,
            newest: Mutex::new(newest),
        });
        let (applied_watch, applied) = RT::Watch::channel(0);
        let answerer = app.answerer();
        let machine = Machine::<A, RT, D::Snapshots> {
            app,
            store: snapshots.clone(),
            shared: shared.clone(),
            applied: None,
            membership: StoredMembership::default(),
            applied_watch: Mutex::new(applied_watch),
            bytes_since_snapshot: 0,
        };
        let raft = Raft::new(
            options.node_id,
            Arc::new(config),
            NetworkOf(network(&options, &transport, &snapshots), PhantomData),
            LogStore::new(cache, writer),
            machine,
        )
        .await
        .map_err(|error| {
            let reason = fatal.get().map(|reason| reason.to_string());
            StartError::Recover(reason.unwrap_or_else(|| error.to_string()))
        })?;
        let (status_sender, status) = RT::Watch::channel(RaftStatus::initial(options.node_id));
        let (reads, read_queue) = mpsc::channel(read::QUEUE_MAX);
        background::spawn_all::<A, RT, D>(&raft, &shared, &health, status_sender);
        drop(RT::spawn(read::serve::<A, RT, D>(raft.clone(), read_queue, options.quorum_wait)));
        Ok(Self(Arc::new(Inner {
            options,
            raft,
            transport,
            snapshots,
            shared,
            health,
            fatal,
            applied,
            status: StatusWatch(status),
            reads,
            changing_members: AtomicBool::new(false),
            leader_heard: Mutex::new(None),
            leader_link: Mutex::new(None),
            writer_end: Mutex::new(Some(writer_end)),
            keep: Mutex::new(Some(keep)),
            answerer,
        })))
    }

    /// Founds a cluster of these members, this node among them. Call it on
    /// one pristine node, once in the life of a cluster.
    ///
    /// # Errors
    /// The node is part of a cluster already, or not among the members.
    pub async fn bootstrap(&self, members: BTreeMap<u64, String>) -> Result<(), BootstrapError> {
        let members: BTreeMap<u64, BasicNode> =
            members.into_iter().map(|(id, address)| (id, BasicNode::new(address))).collect();
        let done = self.0.raft.initialize(members).await;
        done.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_)) => BootstrapError::AlreadyDone,
            RaftError::APIError(InitializeError::NotInMembers(_)) => BootstrapError::NotAMember,
            RaftError::Fatal(_) => BootstrapError::Stopped,
        })
    }
}

fn network<T: PeerTransport, S: SnapshotStore>(
    options: &RaftOptions,
    transport: &T,
    snapshots: &S,
) -> Network<T, S> {
    Network {
        transport: transport.clone(),
        store: snapshots.clone(),
        header: PeerHeader {
            cluster_id: options.cluster_id,
            from_node: options.node_id,
            // Each connection puts its own peer in here.
            to_node: options.node_id,
        },
        acknowledged: Arc::default(),
    }
}

fn unreadable(error: &std::io::Error) -> StartError {
    StartError::Recover(error.to_string())
}

/// The newest snapshot that is whole. Damaged ones are passed over as long as
/// an older one is whole and the log reaches back to it.
fn choose_snapshot<S: SnapshotStore>(
    store: &S,
    cluster_id: [u8; 16],
    purged: Option<Position>,
) -> Result<Option<(SnapshotMeta, u64)>, OpenError> {
    let folder = store.describe(Position { term: 0, index: 0 }.into());
    let io = |action| OpenError::io(action, folder.parent().unwrap_or(&folder));
    let names = store.list().map_err(io("list"))?;
    let mut damaged = None;
    for name in names.into_iter().rev() {
        let checked =
            store.open(name).and_then(|(mut source, _)| snapshot::check(&mut *source, cluster_id));
        match checked {
            Ok((meta, length)) => {
                let reaches = purged.is_none_or(|purged| purged.index <= name.index);
                if reaches && snapshot::name_of(&meta).is_ok_and(|inside| inside == name) {
                    return Ok(Some((meta, length)));
                }
            }
            Err(error) => {
                let file = store.describe(name);
                tracing::error!(file = %file.display(), error = %error, "snapshot is damaged");
                let problem = OpenError::damaged(file, Some(name.index), error.to_string());
                damaged.get_or_insert(problem);
            }
        }
    }
    match (purged, damaged) {
        (None, _) => Ok(None),
        (Some(_), Some(problem)) => Err(problem),
        (Some(purged), None) => {
            let what = "no snapshot reaches back to the beginning of the log";
            Err(OpenError::damaged(folder, Some(purged.index), what))
        }
    }
}
