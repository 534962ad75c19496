//! Why apply did not do what a command wished. Refusals are deterministic
//! values: every replica answers the same.

use berth_model::{
    AllocationId, DurationMs, JobId, Misfit, NODE_RESERVATIONS_MAX, Name, NodeId, OutOfRange,
    OverQuota, POOL_POLICIES_MAX, TokenId,
};
use thiserror::Error;

use crate::access::{JOIN_TTL_MS_MAX, REVOCATIONS_MAX, TOKENS_MAX};
use crate::namespace::NAMESPACE_ROWS_MAX;
use crate::reservation::NotAVictim;

#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    #[error("the cluster is not founded yet")]
    NotFounded,
    #[error("the cluster is founded already")]
    AlreadyFounded,
    #[error("no scheduler {0}")]
    NoSuchScheduler(u64),
    #[error("scheduler {0} was removed from the cluster; ids are never used again")]
    SchedulerRemoved(u64),
    #[error("this scheduler has joined as {scheduler}, at {address}")]
    SchedulerElsewhere { scheduler: u64, address: String },
    #[error("scheduler {0} has the last vote")]
    LastVoter(u64),
    #[error("cluster version {asked} does not follow {found}")]
    ClusterVersion { asked: u32, found: u32 },
    #[error("no job {0}")]
    NoSuchJob(JobId),
    #[error("no node {0}")]
    NoSuchNode(NodeId),
    #[error("no task at position {task} in job {job}")]
    NoSuchTask { job: JobId, task: u16 },
    #[error("key `{key}` was used for job {job} with another spec")]
    KeyConflict { key: String, job: JobId },
    #[error("job {job} is at version {found}, not {asked}")]
    VersionConflict { job: JobId, asked: u32, found: u32 },
    #[error("there is no job of this name at version {asked} yet")]
    NothingToUpdate { asked: u32 },
    #[error("job {job} has no version {version} to go back to")]
    NoSuchVersion { job: JobId, version: u32 },
    #[error("job {job} of this name is a {found}, the update is a {asked}")]
    KindChanged { job: JobId, found: &'static str, asked: &'static str },
    #[error("job {0} has ended")]
    JobEnded(JobId),
    #[error("job {0} has not ended; stop it first")]
    JobNotEnded(JobId),
    #[error("job {job} has {found} replicas, not {asked}")]
    ScaledMeanwhile { job: JobId, asked: u32, found: u32 },
    #[error("{0}")]
    Invalid(String),
    #[error("node name `{name}` belongs to another machine (node {node})")]
    NodeNameTaken { name: Name, node: NodeId },
    #[error("node {node} has no device `{uuid}`")]
    NoSuchDevice { uuid: String, node: NodeId },
    #[error(
        "device `{uuid}` is on node `{name}` already; an agent of another data directory runs there"
    )]
    DeviceElsewhere { uuid: String, name: Name },
    #[error("node {node} has a newer session")]
    StaleSession { node: NodeId },
    #[error("node {node} still has allocations")]
    NodeInUse { node: NodeId },
    #[error("allocation {0} is not waiting to be placed")]
    NotPending(AllocationId),
    #[error("allocation {allocation} does not fit: {misfit}")]
    DoesNotFit { allocation: AllocationId, misfit: Misfit },
    #[error("allocation {victim} does not end for another: {why}")]
    NotAVictim { victim: AllocationId, why: NotAVictim },
    #[error("a gang of job {job} starts with all {members} members at once, {found} can")]
    GangIncomplete { job: JobId, members: u32, found: u64 },
    #[error("an orphan still runs a part of a gang of job {job}")]
    GangOrphans { job: JobId },
    /// The first member that was refused; nothing of the gang was granted.
    #[error("no member of a gang of job {job} starts: {cause}")]
    GangRefused { job: JobId, cause: Box<Refusal> },
    #[error("no allocation {0}")]
    NoSuchAllocation(AllocationId),
    #[error("node `{name}` has yet to say what is on it")]
    StockNotTaken { name: Name },
    #[error("the cluster was restored and waits for its nodes, {awaited} of them known")]
    Awaiting { awaited: usize },
    #[error("it is too early to forget this")]
    TooEarly,
    #[error("this cluster was founded without TLS and has no tokens")]
    NotSecured,
    /// The one answer to every token that opens nothing, so that nobody learns
    /// from it which of a guess was right.
    #[error("the join token is not valid here")]
    JoinTokenRefused,
    #[error("a join token lives {} minutes at most, asked was {}", JOIN_TTL_MS_MAX / 60_000, shown(.asked))]
    JoinTtl { asked: Option<DurationMs> },
    #[error("no token {0}")]
    UnknownToken(TokenId),
    #[error("there is a token {0} with other contents already")]
    TokenExists(TokenId),
    #[error("the cluster has {TOKENS_MAX} tokens already; revoke some that nobody needs")]
    TooManyTokens,
    #[error("{REVOCATIONS_MAX} machines were revoked already")]
    TooManyRevocations,
    #[error(transparent)]
    OverQuota(#[from] OverQuota),
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    #[error("nothing is set for namespace `{0}`")]
    NoSuchNamespace(Name),
    #[error("namespace `{name}` is at version {found}, not {asked}")]
    NamespaceConflict { name: Name, asked: u32, found: u32 },
    #[error("namespace `{name}` is in use: jobs that have not ended: {jobs}")]
    NamespaceInUse { name: Name, jobs: usize },
    #[error("{NAMESPACE_ROWS_MAX} namespaces are set already; delete some that nobody needs")]
    TooManyNamespaces,
    #[error("no nodes are reserved as `{0}`")]
    NoSuchNodeReservation(Name),
    #[error("the reservation `{name}` of nodes is at version {found}, not {asked}")]
    NodeReservationConflict { name: Name, asked: u32, found: u32 },
    #[error("{both} is reserved as `{other}` at a time at which `{name}` would be in force")]
    ReservedTwice { name: Name, other: Name, both: String },
    #[error("nodes are reserved {NODE_RESERVATIONS_MAX} times already; end one that nobody needs")]
    TooManyNodeReservations,
    #[error(
        "{POOL_POLICIES_MAX} pools have a policy of their own already; unset one that nobody needs"
    )]
    TooManyPoolPolicies,
}

fn shown(span: &Option<DurationMs>) -> String {
    span.map_or_else(|| "no end".to_owned(), |span| format!("{} ms", span.0))
}
