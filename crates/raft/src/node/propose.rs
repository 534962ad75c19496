//! Proposals, with an answer in bounded time whatever the cluster does.

use std::pin::pin;
use std::time::Duration;

use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader, RaftError};
use openraft::{AsyncRuntime, Instant};

use super::RaftNode;
use super::errors::ProposeError;
use crate::app::{App, PROPOSAL_BYTES_MAX, Proposal};
use crate::device::Device;
use crate::status::Role;
use crate::transport::PeerTransport;
use crate::types::Types;

/// How often a waiting proposal looks whether a majority still answers.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

pub(super) fn leader_of<A: App, RT: AsyncRuntime>(
    forward: &ForwardToLeader<Types<A, RT>>,
) -> Option<(u64, String)> {
    let address = forward.leader_node.as_ref().map(|node| node.addr.clone());
    forward.leader_id.map(|id| (id, address.unwrap_or_default()))
}

/// One attempt's end.
enum Attempt<A: App> {
    Applied(A::Reply),
    Failed(ProposeError),
    /// Nothing was proposed because a majority has been silent for a while.
    LeaseOver,
}

impl<A: App, RT: AsyncRuntime, D: Device, T: PeerTransport> RaftNode<A, RT, D, T> {
    /// Puts an entry into the log and waits until it is applied here. Any
    /// number may be under way at once.
    ///
    /// # Errors
    /// After at most `quorum_wait` (plus a lease) without a majority, or
    /// `propose_wait_max` with one. Only `OutcomeUnknown` leaves open whether
    /// the entry is applied.
    pub async fn propose(&self, proposal: Proposal<A>) -> Result<A::Reply, ProposeError> {
        if proposal.bytes.len() > PROPOSAL_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: proposal.bytes.len() });
        }
        if self.0.fatal.get().is_some() {
            return Err(ProposeError::Stopped);
        }
        let begun = RT::Instant::now();
        loop {
            match self.propose_once(proposal.clone()).await {
                Attempt::Applied(reply) => return Ok(reply),
                Attempt::Failed(error) => return Err(error),
                Attempt::LeaseOver if begun.elapsed() >= self.0.options.quorum_wait => {
                    return Err(ProposeError::NoQuorum);
                }
                Attempt::LeaseOver => RT::sleep(LOOK_PERIOD).await,
            }
        }
    }

    async fn propose_once(&self, proposal: Proposal<A>) -> Attempt<A> {
        let begun = RT::Instant::now();
        let mut alone_since = None;
        let mut writing = pin!(self.0.raft.client_write(proposal));
        let written = loop {
            match RT::timeout(LOOK_PERIOD, writing.as_mut()).await {
                Ok(written) => break written,
                Err(_) => {
                    let now = RT::Instant::now();
                    let since = if self.hears_majority() {
                        alone_since = None;
                        now
                    } else {
                        *alone_since.get_or_insert(now)
                    };
                    if now - since >= self.0.options.quorum_wait
                        || now - begun >= self.0.options.propose_wait_max
                    {
                        return Attempt::Failed(ProposeError::OutcomeUnknown);
                    }
                }
            }
        };
        match written {
            Ok(response) => match response.data.0 {
                Some(reply) => Attempt::Applied(reply),
                // Only entries of the protocol have no reply.
                None => Attempt::Failed(ProposeError::OutcomeUnknown),
            },
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                match forward.reason {
                    ForwardReason::LeaseExpired => Attempt::LeaseOver,
                    ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
                        Attempt::Failed(ProposeError::NotLeader { leader: leader_of(&forward) })
                    }
                }
            }
            Err(
                RaftError::APIError(
                    ClientWriteError::LogEntryDiscarded(_)
                    | ClientWriteError::ChangeMembershipError(_)
                    | ClientWriteError::PreconditionFailed(_),
                )
                | RaftError::Fatal(_),
            ) => Attempt::Failed(ProposeError::OutcomeUnknown),
        }
    }

    /// Whether this node leads and heard from a majority within its lease.
    fn hears_majority(&self) -> bool {
        let status = self.status();
        status.role == Role::Leader
            && status
                .millis_since_quorum
                .is_some_and(|millis| millis <= self.0.options.timers.election_max_ms)
    }
}
