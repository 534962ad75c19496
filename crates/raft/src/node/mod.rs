//! A running node: the handle everything else talks to.

mod ask;
mod background;
mod errors;
mod membership;
mod peer;
mod propose;
mod read;
mod start;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::async_runtime::Watch;
use openraft::async_runtime::WatchReceiver as _;
use openraft::{AsyncRuntime, Instant as _, Raft};
use tokio::sync::mpsc;

pub use ask::PeerLink;
pub use errors::{BootstrapError, MembershipError, ProposeError, ReadError, StartError};

use crate::app::{Answerer, App};
use crate::device::{Device, DiskHealth};
use crate::fatal::{FatalCell, FatalReason};
use crate::log::WriterEnd;
use crate::machine::{Machine, Shared};
use crate::options::RaftOptions;
use crate::status::{RaftStatus, Role, StatusWatch};
use crate::transport::PeerTransport;
use crate::types::Types;

pub(crate) type Core<A, RT, D> = Raft<Types<A, RT>, Machine<A, RT, <D as Device>::Snapshots>>;

type AppliedReceiver<RT> = <<RT as AsyncRuntime>::Watch as Watch>::Receiver<u64>;

struct Inner<A: App, RT: AsyncRuntime, D: Device, T: PeerTransport> {
    options: RaftOptions,
    raft: Core<A, RT, D>,
    transport: T,
    snapshots: D::Snapshots,
    shared: Arc<Shared>,
    health: Arc<DiskHealth>,
    fatal: FatalCell,
    applied: AppliedReceiver<RT>,
    status: StatusWatch<RT>,
    reads: mpsc::Sender<read::Request>,
    changing_members: AtomicBool,
    /// When the leader was last heard here. The lock guards single reads and
    /// writes.
    leader_heard: Mutex<Option<RT::Instant>>,
    /// The connection reads are forwarded over, and whom it leads to.
    leader_link: Mutex<Option<(u64, String, T::Connection)>>,
    writer_end: Mutex<Option<WriterEnd>>,
    /// The device's locks and threads; given back at shutdown.
    keep: Mutex<Option<Box<dyn Send + Sync>>>,
    answerer: Answerer,
}

/// A node of the cluster. Clones are handles to the same node; it runs until
/// `shutdown` or until `fatal` resolves, whether or not a handle is left.
pub struct RaftNode<A: App, RT: AsyncRuntime, D: Device, T: PeerTransport>(Arc<Inner<A, RT, D, T>>);

impl<A: App, RT: AsyncRuntime, D: Device, T: PeerTransport> Clone for RaftNode<A, RT, D, T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A: App, RT: AsyncRuntime, D: Device, T: PeerTransport> RaftNode<A, RT, D, T> {
    /// This node's id.
    #[must_use]
    pub fn node_id(&self) -> u64 {
        self.0.options.node_id
    }

    /// The node's state now.
    #[must_use]
    pub fn status(&self) -> RaftStatus {
        let metrics = self.0.raft.metrics().borrow_watched().clone();
        RaftStatus::read(&metrics)
    }

    /// Milliseconds since this node was last sure of a leader: a leader since a
    /// majority last answered it, another since the leader last spoke to it.
    /// `None`: not since it started.
    #[must_use]
    pub fn leader_heard_ms(&self) -> Option<u64> {
        let status = self.status();
        if status.role == Role::Leader {
            return status.millis_since_quorum;
        }
        let heard = *self.0.leader_heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.map(|heard| u64::try_from(heard.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn hear_leader(&self) {
        let mut heard = self.0.leader_heard.lock().unwrap_or_else(PoisonError::into_inner);
        *heard = Some(RT::Instant::now());
    }

    /// Follows the node's state.
    #[must_use]
    pub fn status_changes(&self) -> StatusWatch<RT> {
        self.0.status.clone()
    }

    /// Whether free disk space is below the soft limit: new submissions
    /// should be refused, everything else still taken.
    #[must_use]
    pub fn disk_is_low(&self) -> bool {
        self.0.health.is_low()
    }

    /// Free bytes on the data disk at the last look, once a second.
    #[must_use]
    pub fn disk_free_bytes(&self) -> u64 {
        self.0.health.free_bytes()
    }

    /// Asks for a snapshot now; it is taken in the background.
    pub async fn trigger_snapshot(&self) {
        // A core that has stopped takes no snapshot, and `fatal` says why.
        let _stopped = self.0.raft.trigger().snapshot().await;
    }

    /// Resolves when the node has stopped, with the reason. The process
    /// should then exit, non-zero unless it was a shutdown: a node never
    /// recovers within its process.
    pub async fn fatal(&self) -> FatalReason {
        self.0.fatal.wait().await
    }

    /// Stops the node and closes its device. Hand leadership over first.
    pub async fn shutdown(&self) {
        const WRITER_WAIT: Duration = Duration::from_secs(10);
        self.0.fatal.set(FatalReason::Shutdown);
        if let Err(error) = self.0.raft.shutdown().await {
            tracing::warn!(error = %error, "consensus core ended badly");
        }
        let end = {
            let mut end = self.0.writer_end.lock().unwrap_or_else(PoisonError::into_inner);
            end.take()
        };
        if let Some(end) = end
            && RT::timeout(WRITER_WAIT, end).await.is_err()
        {
            tracing::warn!("log writer did not end in time");
        }
        let keep = {
            let mut keep = self.0.keep.lock().unwrap_or_else(PoisonError::into_inner);
            keep.take()
        };
        drop(keep);
    }
}
