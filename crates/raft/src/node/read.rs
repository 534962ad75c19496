//! Linearizable reads. One round of asking the majority serves every read
//! that arrived before it began, and none that came later: a leader deposed
//! in between would answer them from the past.

use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{AsyncRuntime, ReadPolicy};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::propose::leader_of;
use super::{Core, RaftNode, ReadError};
use crate::app::App;
use crate::device::Device;
use crate::transport::{
    CallError, CallKind, Lane, PeerConnection, PeerHeader, PeerRefusal, PeerTransport,
};

/// Reads waiting for a round; more wait outside.
pub(super) const QUEUE_MAX: usize = 4096;

pub(super) type Request = oneshot::Sender<Result<u64, ReadError>>;

/// The answer to a peer that asked.
#[derive(Debug, Serialize, Deserialize)]
enum Told {
    Index(u64),
    NotLeader(Option<(u64, String)>),
    NoQuorum,
}

/// Runs rounds one after another until nobody can ask any more.
pub(super) async fn serve<A: App, RT: AsyncRuntime, D: Device>(
    raft: Core<A, RT, D>,
    mut queue: mpsc::Receiver<Request>,
    wait: Duration,
) {
    while let Some(first) = queue.recv().await {
        let mut asking = vec![first];
        while asking.len() < QUEUE_MAX
            && let Ok(next) = queue.try_recv()
        {
            asking.push(next);
        }
        let round = raft.get_read_linearizer(ReadPolicy::ReadIndex);
        let answer = match RT::timeout(wait, round).await {
            Err(_) => Err(ReadError::NoQuorum),
            Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index()),
            Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Stopped),
            Ok(Err(RaftError::APIError(error))) => Err(match error {
                LinearizableReadError::ForwardToLeader(forward) => {
                    ReadError::NoLeader { leader: leader_of(&forward) }
                }
                LinearizableReadError::QuorumNotEnough(_) => ReadError::NoQuorum,
            }),
        };
        for request in asking {
            // Whoever stopped waiting needs no answer.
            let _unheard = request.send(answer.clone());
        }
    }
}

impl<A: App, RT: AsyncRuntime, D: Device, T: PeerTransport> RaftNode<A, RT, D, T> {
    /// Waits until this node's application shows everything that was
    /// acknowledged anywhere before the call, and returns the index it has
    /// applied at least. Any member may be asked; a follower asks the leader.
    ///
    /// # Errors
    /// No majority or no leader answers, or this node is far behind.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        let needed = match self.lead_read().await {
            Err(ReadError::NoLeader { leader: Some(leader) }) => self.ask_leader(leader).await?,
            asked => asked?,
        };
        self.wait_applied(needed).await
    }

    /// Waits until the entry at `needed` is applied here.
    ///
    /// # Errors
    /// It is not within `propose_wait_max`, or the node has stopped.
    pub async fn wait_applied(&self, needed: u64) -> Result<u64, ReadError> {
        let mut applied = self.0.applied.clone();
        let wait = self.0.options.propose_wait_max;
        match RT::timeout(wait, applied.wait_until_ge(&needed)).await {
            Ok(Ok(applied)) => Ok(applied),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::Behind { applied: *applied.borrow_watched(), needed }),
        }
    }

    async fn lead_read(&self) -> Result<u64, ReadError> {
        let (sender, answer) = oneshot::channel();
        let sent = self.0.reads.send(sender).await;
        sent.map_err(|_| ReadError::Stopped)?;
        answer.await.unwrap_or(Err(ReadError::Stopped))
    }

    async fn ask_leader(&self, leader: (u64, String)) -> Result<u64, ReadError> {
        let header = PeerHeader {
            cluster_id: self.0.options.cluster_id,
            from_node: self.0.options.node_id,
            to_node: leader.0,
        };
        let connection = self.link_to(&leader);
        let wait = self.0.options.quorum_wait;
        let answer = connection.call(CallKind::ReadIndex, header, Bytes::new(), wait).await;
        let told = match answer {
            Ok(answer) => postcard::from_bytes(&answer),
            Err(CallError::Unreachable(_) | CallError::Timeout(_) | CallError::Refused(_)) => {
                return Err(ReadError::NoLeader { leader: Some(leader) });
            }
        };
        match told {
            Ok(Told::Index(index)) => Ok(index),
            Ok(Told::NoQuorum) => Err(ReadError::NoQuorum),
            Ok(Told::NotLeader(leader)) => Err(ReadError::NoLeader { leader }),
            Err(_) => Err(ReadError::NoLeader { leader: Some(leader) }),
        }
    }

    fn link_to(&self, leader: &(u64, String)) -> T::Connection {
        let mut link = self.0.leader_link.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*link {
            Some((id, address, connection)) if *id == leader.0 && *address == leader.1 => {
                connection.clone()
            }
            Some(_) | None => {
                let transport = &self.0.transport;
                let connection = transport.connect(leader.0, &leader.1, Lane::Heartbeat);
                *link = Some((leader.0, leader.1.clone(), connection.clone()));
                connection
            }
        }
    }

    /// A peer asks for the index of a read; it is not forwarded again.
    pub(super) async fn tell_read_index(&self) -> Result<Bytes, PeerRefusal> {
        let told = match self.lead_read().await {
            Ok(index) => Told::Index(index),
            Err(ReadError::NoLeader { leader }) => Told::NotLeader(leader),
            Err(ReadError::NoQuorum | ReadError::Behind { .. }) => Told::NoQuorum,
            Err(ReadError::Stopped) => return Err(PeerRefusal::Stopped),
        };
        crate::transport::network::encode(&told).map_err(PeerRefusal::Unreadable)
    }
}
