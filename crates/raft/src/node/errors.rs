//! What can be answered instead of a result. The variants tell apart what
//! surely did not happen from what may have.

use crate::app::PROPOSAL_BYTES_MAX;
use crate::device::OpenError;
use crate::options::OptionError;

/// Why a node was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is refused.
    #[error(transparent)]
    Options(#[from] OptionError),
    /// The data was refused.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What was stored could not be brought back to life.
    #[error("recover state: {0}")]
    Recover(String),
    /// A thread could not be started, or blocking work not be run.
    #[error("start node")]
    Io(#[from] std::io::Error),
}

/// Why a proposal has no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was proposed; the leader takes proposals, if one is known.
    #[error("this node does not lead{}", show(.leader.as_ref()))]
    NotLeader { leader: Option<(u64, String)> },
    /// Nothing was proposed: no majority answers this leader.
    #[error("no quorum: a majority of the schedulers does not answer")]
    NoQuorum,
    /// The entry may or may not be applied, now or later; retry with the same
    /// idempotency key.
    #[error("outcome unknown: retry with the same idempotency key")]
    OutcomeUnknown,
    /// Nothing was proposed: it is too large.
    #[error("proposal of {bytes} bytes exceeds {PROPOSAL_BYTES_MAX}")]
    TooLarge { bytes: usize },
    /// Nothing was proposed: the node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Why a linearizable read cannot be served here now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader is known, or the one that was known does not lead any more.
    #[error("no leader answers{}", show(.leader.as_ref()))]
    NoLeader { leader: Option<(u64, String)> },
    /// The leader is not sure that it leads.
    #[error("no quorum: a majority of the schedulers does not answer")]
    NoQuorum,
    /// This node is too far behind to serve the read in time.
    #[error("this node has applied up to {applied}, the read needs {needed}")]
    Behind { applied: u64, needed: u64 },
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Why a cluster was not founded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// This node already has a log or a vote.
    #[error("this node is already part of a cluster")]
    AlreadyDone,
    /// The founding members must include this node.
    #[error("this node is not among the members")]
    NotAMember,
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Why the members were not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Only a leader changes members.
    #[error("this node does not lead{}", show(.leader.as_ref()))]
    NotLeader { leader: Option<(u64, String)> },
    /// One change at a time.
    #[error("another change of members is under way")]
    InProgress,
    /// No such member, or not one this can be done with.
    #[error("node {0} is not a member this can be done with")]
    NotAMember(u64),
    /// The id is taken; ids are never reused.
    #[error("node id {0} is already a member under another address; ids are never reused")]
    IdTaken(u64),
    /// The last voter cannot be removed.
    #[error("node {0} is the last voter")]
    LastVoter(u64),
    /// It may still happen.
    #[error("no answer in time; look at the members, the change may still happen")]
    OutcomeUnknown,
    /// The consensus library's own reason.
    #[error("{0}")]
    Refused(String),
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

fn show(leader: Option<&(u64, String)>) -> String {
    leader.map_or_else(String::new, |(id, address)| format!("; node {id} at {address} does"))
}
