//! The rows of the cluster state. Every row is immutable once in a table; a
//! change puts a new one in its place.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use berth_model::{
    AllocationId, AllocationState, Attempt, AverageUse, Claim, GangSeat, JobId, JobKind, JobSpec,
    JobState, Name, NodeId, Outcome, PolicyDefaults, RangeSet, SpecDigest, StateMs, TaskIndex,
    WallMs,
};

use crate::access::{Authority, RevocationRow, TokenRow};
use crate::namespace::NamespaceRow;
use crate::node::NodeRow;
use crate::node_reservation::NodeReservationRow;

/// The cluster as a whole.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ClusterRow {
    /// All zero until founded.
    pub id: [u8; 16],
    /// Raised by every restore from a backup.
    pub incarnation: u64,
    pub cluster_version: u32,
    /// The last job id given out.
    pub job_counter: u64,
    /// The last node id given out.
    pub node_counter: u64,
    /// The clocks of the last entry.
    pub state_ms: StateMs,
    pub wall_ms: WallMs,
    /// Schedulers that were ever admitted, by their id in Raft; ids are never
    /// used again. The first scheduler, which founded the cluster, is `FOUNDER`
    /// and has a row only once it was removed.
    pub schedulers: BTreeMap<u64, SchedulerRow>,
    /// Absent until the cluster was restored from a backup for the first time.
    pub restore: Option<RestoreRow>,
    /// What signs its certificates; absent where it speaks no TLS.
    pub authority: Option<Arc<Authority>>,
    /// When GPUs were fenced lately, by uuid: a brake counts them.
    pub fences: BTreeMap<String, StateMs>,
    /// What stands for a policy that a job leaves out.
    pub policies: PolicyDefaults,
}

/// The last restore from a backup.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RestoreRow {
    /// Random: tells two restores apart that were given the same incarnation.
    pub id: [u8; 16],
    /// Nodes of the backup that have not come back yet. Until all have, or
    /// somebody stops waiting, nothing is placed anywhere: what waits in the
    /// backup may run on one of them.
    pub awaited: BTreeSet<NodeId>,
    /// Nor is anything placed before: nodes that the backup does not know have
    /// so long to come.
    pub place_from: StateMs,
    /// When waiting ends by itself.
    pub await_until: StateMs,
    /// Jobs up to this one may have been there in the lost time; no attempt of
    /// theirs below the floor begins any more, since nobody knows which ones
    /// were used up.
    pub floor_jobs: JobId,
    pub attempt_floor: Attempt,
}

/// A scheduler that was admitted. What its seat says is a wish: the leader
/// changes Raft's membership until it is as wished.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SchedulerRow {
    pub instance_key: [u8; 16],
    pub address: String,
    /// None: removed, for good.
    pub seat: Option<Seat>,
}

/// What part a scheduler has in Raft.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Seat {
    /// Votes, and counts towards the majority.
    Voter,
    /// Receives the log and has no vote.
    Learner,
}

/// The scheduler that founded the cluster.
pub const FOUNDER: u64 = 1;

/// Schedulers that a cluster may admit in its life; dead ones count.
pub const SCHEDULERS_MAX: usize = 1000;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobRow {
    pub id: JobId,
    /// The current version's specification.
    pub spec: Arc<JobSpec>,
    pub digest: SpecDigest,
    pub version: u32,
    /// Earlier versions, oldest first; at most `VERSIONS_MAX` with the current.
    pub versions: Vec<JobVersionRow>,
    pub key: Option<String>,
    pub phase: JobPhase,
    pub held: bool,
    pub submitted_at: WallMs,
    pub submitted_ms: StateMs,
    pub started_at: Option<WallMs>,
    pub finished_at: Option<WallMs>,
    /// Why it is in its state; empty when the state says it all.
    pub reason: String,
    /// Live allocations of all its tasks.
    pub live: u32,
    /// How the current version gets on; none of a first version.
    pub rollout: Option<Rollout>,
    /// The latest version of which all that ran served when it was to give way to something else.
    pub proven: Option<u32>,
}

/// A version that takes the place of another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rollout {
    /// When one more of its replicas was ready than ever before, or it began.
    pub progressed_at: StateMs,
    /// As many of its replicas were ready at one time.
    pub ready_max: u32,
    /// It was given up: it takes no further places.
    pub failed: bool,
}

/// How far a job is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum JobPhase {
    Active,
    /// Nothing new starts; becomes `Ended` with this state when nothing lives.
    Ending(JobState),
    Ended {
        state: JobState,
        at: StateMs,
    },
}

/// An earlier version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobVersionRow {
    pub version: u32,
    pub spec: Arc<JobSpec>,
    pub digest: SpecDigest,
    pub submitted_at: WallMs,
}

/// All instances of one task. Ended and waiting ones are ranges; only live
/// attempts have rows of their own.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct TaskRow {
    /// Waiting for a place (a retry perhaps not yet).
    pub pending: RangeSet,
    /// By outcome; an instance is in at most one.
    pub succeeded: RangeSet,
    pub failed: RangeSet,
    pub cancelled: RangeSet,
    pub timed_out: RangeSet,
    pub lost: RangeSet,
    /// Instances with an attempt before the waiting one.
    pub retries: BTreeMap<u32, Retry>,
    /// The newest failures, at most `FAILURES_MAX`.
    pub failures: VecDeque<FailureDetail>,
    pub live: u32,
}

/// What is known of an instance that was tried before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Retry {
    /// The attempt that comes next, or is live.
    pub attempt: Attempt,
    /// Failed attempts that counted.
    pub failures: u32,
    /// Not to be placed before.
    pub not_before: StateMs,
}

/// A failed attempt.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FailureDetail {
    pub allocation: AllocationId,
    pub node: NodeId,
    pub reason: String,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// At most 4 KiB.
    pub stderr_tail: String,
    pub finished_at: WallMs,
}

/// A live attempt.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AllocationRow {
    pub id: AllocationId,
    pub node: NodeId,
    /// The version of the job that it runs.
    pub job_version: u32,
    pub spec_digest: SpecDigest,
    pub claim: Claim,
    pub state: AllocationState,
    /// Why it is being stopped, or why it lives again after it was given up; empty otherwise.
    pub reason: String,
    pub planned_at: StateMs,
    /// When the agent's first report of it running was applied.
    pub running_since: Option<StateMs>,
    /// By the node's clock.
    pub started_at: Option<WallMs>,
    pub score: ScoreParts,
    /// Of a member of a gang.
    pub seat: Option<GangSeat>,
    /// Of what is stopping: its callers are let go before its agent is told.
    pub draining: Option<Draining>,
}

/// A replica that takes no new requests, and ends those that it has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Draining {
    /// It ends then, whatever is under way.
    pub by: StateMs,
    /// The log index from which it is in no route.
    pub since_index: u64,
}

/// Why a node was chosen: the policy's parts in order, with their values.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ScoreParts {
    pub policy: String,
    pub parts: Vec<(String, i64)>,
    /// The log index of the view that was planned on.
    pub view_index: u64,
}

/// A remembered idempotency key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KeyRow {
    pub job: JobId,
    pub digest: SpecDigest,
    /// The version that the keyed submit made.
    pub version: u32,
    /// Set when the job is gone: when the key may be forgotten.
    pub forget_at: Option<StateMs>,
}

/// A row with its key, as snapshots hold it.
#[derive(Clone, PartialEq, Debug)]
pub enum Stored {
    Cluster(ClusterRow),
    Job(Arc<JobRow>),
    Task(JobId, TaskIndex, Arc<TaskRow>),
    Allocation(Arc<AllocationRow>),
    Node(Arc<NodeRow>),
    Key(Name, String, Arc<KeyRow>),
    Token(Arc<TokenRow>),
    Revocation(Arc<RevocationRow>),
    Namespace(Arc<NamespaceRow>),
    Average(Name, Arc<AverageUse>),
    NodeReservation(Arc<NodeReservationRow>),
}

/// Versions of a job that are kept, the current one included.
pub const VERSIONS_MAX: usize = 10;
/// Failed attempts of a task that are kept in detail.
pub const FAILURES_MAX: usize = 100;
/// The end of a failed worker's standard error that is kept, in bytes.
pub const STDERR_TAIL_BYTES_MAX: usize = 4096;
/// The longest reason that is kept, in bytes.
pub const REASON_BYTES_MAX: usize = 1024;
/// A taken port is left alone for this long.
pub const PORT_BLOCK_MS: u64 = 10 * 60 * 1000;
/// A node that could not start a worker is left alone for this long: enough
/// for what passes by itself, short enough that nobody has to help.
pub const NODE_REST_MS: u64 = 30 * 1000;

/// The digest stands for the specification: a row changes whenever one of its
/// allocations does, and hashing the whole specification each time would cost
/// more than the change.
impl Hash for JobRow {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.id.hash(hasher);
        self.digest.hash(hasher);
        self.version.hash(hasher);
        self.versions.hash(hasher);
        self.key.hash(hasher);
        self.phase.hash(hasher);
        self.held.hash(hasher);
        (self.submitted_at, self.submitted_ms).hash(hasher);
        (self.started_at, self.finished_at).hash(hasher);
        self.reason.hash(hasher);
        (self.live, self.rollout, self.proven).hash(hasher);
    }
}

impl Hash for JobVersionRow {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.version, self.digest, self.submitted_at).hash(hasher);
    }
}

impl JobRow {
    pub fn namespace(&self) -> &Name {
        &self.spec.namespace
    }

    pub fn name(&self) -> &Name {
        &self.spec.name
    }

    pub fn kind(&self) -> JobKind {
        self.spec.kind
    }

    /// The state that people see.
    pub fn state(&self) -> JobState {
        match self.phase {
            JobPhase::Ended { state, .. } => state,
            JobPhase::Active | JobPhase::Ending(_) if self.live > 0 => JobState::Running,
            JobPhase::Active => JobState::Queued,
            JobPhase::Ending(state) => state,
        }
    }

    pub fn is_ended(&self) -> bool {
        matches!(self.phase, JobPhase::Ended { .. })
    }

    /// Whether instances of it may be placed.
    pub fn places(&self) -> bool {
        self.phase == JobPhase::Active && !self.held
    }
}

impl TaskRow {
    /// The set that holds instances with this outcome; preempted ones wait.
    pub fn ended_mut(&mut self, outcome: Outcome) -> &mut RangeSet {
        match outcome {
            Outcome::Succeeded => &mut self.succeeded,
            Outcome::Failed => &mut self.failed,
            Outcome::Cancelled => &mut self.cancelled,
            Outcome::TimedOut => &mut self.timed_out,
            Outcome::Lost => &mut self.lost,
            Outcome::Preempted => &mut self.pending,
        }
    }

    /// How many instances have ended, whatever the outcome.
    pub fn ended(&self) -> u64 {
        self.succeeded.len()
            + self.failed.len()
            + self.cancelled.len()
            + self.timed_out.len()
            + self.lost.len()
    }

    /// How often in a row an instance has failed.
    pub fn failures_of(&self, instance: u32) -> u32 {
        self.retries.get(&instance).map_or(0, |retry| retry.failures)
    }

    /// A live attempt that was not counted up to: the first after a restore, or
    /// one that the backup did not know.
    pub(crate) fn count_attempt(&mut self, instance: u32, attempt: Attempt) {
        if self.attempt_counted(instance) < attempt {
            let known = self.retries.get(&instance).copied();
            let failures = known.map_or(0, |retry| retry.failures);
            let not_before = known.map_or(StateMs(0), |retry| retry.not_before);
            self.retries.insert(instance, Retry { attempt, failures, not_before });
        }
    }

    /// The attempt that a waiting or live instance is at, as was counted: one
    /// that begins after a restore may be far beyond it, see
    /// [`ClusterState::next_attempt`](crate::ClusterState::next_attempt).
    pub fn attempt_counted(&self, instance: u32) -> Attempt {
        self.retries.get(&instance).map_or(Attempt::FIRST, |retry| retry.attempt)
    }
}
