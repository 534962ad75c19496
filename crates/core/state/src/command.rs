//! What may be asked of the cluster state. A command is a wish: apply may
//! refuse it, and then nothing changes.

use std::sync::Arc;

use berth_model::{
    AllocationId, Attempt, Claim, DeviceClaim, Drain, EndReport, Guards, InstanceIndex, JobId,
    JobSpec, Machine, Name, NamespaceSpec, NodeId, NodeReservation, NodeSpec, Policy, PortClaim,
    SpecDigest, StartPhase, StateMs, StopIntent, TaskIndex, TaskSpec, TokenId, WallMs,
};

use crate::access::{JoinProof, NewToken, Security};
use crate::rows::{JobRow, ScoreParts, Seat};

/// One log entry: what several proposers wanted at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// The leader's cluster clock; never below that of the entry before.
    pub state_ms: StateMs,
    /// The leader's wall clock; for display, and for what people set by the calendar.
    pub wall_ms: WallMs,
    /// The version of the program that proposed it.
    pub proposer: String,
    pub commands: Vec<Command>,
}

/// One wish.
#[derive(Clone, PartialEq, Debug)]
pub enum Command {
    /// The first command of a cluster's life.
    Found {
        cluster_id: [u8; 16],
        /// Set: the cluster speaks TLS and asks for tokens, from the start.
        security: Option<Arc<Security>>,
    },
    /// Gives a new scheduler its id; the same key gets the same id again.
    AdmitScheduler {
        instance_key: [u8; 16],
        address: String,
        seat: Seat,
        /// In a cluster with an authority, and in no other.
        proof: Option<JoinProof>,
    },
    /// A learner is to have a vote.
    PromoteScheduler {
        scheduler: u64,
    },
    /// A scheduler is to leave, and its id never to come back.
    RemoveScheduler {
        scheduler: u64,
    },
    /// Every voter understands this version: decisions may follow its rules.
    RaiseClusterVersion {
        version: u32,
    },
    Submit(SubmitJob),
    ChangeJob {
        job: JobId,
        if_version: Option<u32>,
        change: JobChange,
    },
    /// An agent has come (back) with this inventory. Begins a session.
    RegisterNode {
        name: Name,
        instance_key: [u8; 16],
        spec: Arc<NodeSpec>,
    },
    /// What is on a node, told once in each incarnation before the node may
    /// register. Long lists come in several commands; the last says so.
    TakeStock {
        name: Name,
        instance_key: [u8; 16],
        spec: Arc<NodeSpec>,
        stock: Stock,
    },
    /// An operator wants these orphans ended.
    StopOrphans {
        node: NodeId,
        orphans: Vec<AllocationId>,
        reason: String,
    },
    /// The agent has said everything that is on it, and these, orphans or given up, are not.
    ForgetOrphans {
        node: NodeId,
        session: u64,
        orphans: Vec<AllocationId>,
    },
    /// Nobody waits any longer for nodes that a restored cluster misses.
    StopAwaiting,
    /// The leader has not heard from a node's session for too long.
    DisconnectNode {
        node: NodeId,
        session: u64,
    },
    /// Nothing on the node counts any more: what is left there is lost.
    DownNode {
        node: NodeId,
        session: u64,
    },
    SetSchedulable {
        node: NodeId,
        purpose: Purpose,
    },
    /// What an operator wants of one device. It holds whatever the node's agent says.
    SetDevicePurpose {
        node: NodeId,
        uuid: String,
        purpose: DevicePurpose,
    },
    /// What the host of a node is short of, or is no longer.
    SetGuards {
        node: NodeId,
        guards: Guards,
    },
    /// These allocations of a silent node are given up.
    LoseAllocations {
        node: NodeId,
        session: u64,
        allocations: Vec<AllocationId>,
        reason: String,
    },
    Place {
        placements: Vec<Placement>,
    },
    /// Places are kept until those that hold them have ended, who are asked to.
    Reserve {
        reservations: Vec<Reservation>,
    },
    /// Places are kept no longer.
    Unreserve {
        allocations: Vec<AllocationId>,
        reason: String,
    },
    StopAllocations {
        allocations: Vec<AllocationId>,
        intent: StopIntent,
        reason: String,
    },
    /// Nobody waits any more for the callers of these, which are stopping.
    LetGo {
        allocations: Vec<AllocationId>,
        reason: String,
    },
    /// A service whose replicas follow its load is to have `count` of them, in the place of `from`.
    Scale {
        job: JobId,
        from: u32,
        count: u32,
        reason: String,
    },
    /// What an agent saw; stale attempts are ignored.
    Observe {
        node: NodeId,
        observations: Vec<Observation>,
    },
    /// The job's time is over: what is left of it is timed out.
    ExpireJob {
        job: JobId,
    },
    /// No further replica of this version gets ready: it takes no more places.
    FailUpdate {
        job: JobId,
        version: u32,
        reason: String,
    },
    /// Retention: jobs that ended, keys and nodes that nobody needs any more.
    Reap {
        jobs: Vec<JobId>,
        nodes: Vec<NodeId>,
        keys: Vec<(Name, String)>,
    },
    CreateToken(NewToken),
    RevokeToken {
        token: TokenId,
    },
    /// An agent or a gateway comes in with a token that works once.
    UseJoinToken {
        proof: JoinProof,
        machine: Machine,
        name: Name,
        pool: Option<Name>,
    },
    /// Whatever was certified for a machine until now counts no more.
    RevokeMachine {
        machine: Machine,
        name: String,
    },
    /// What an administrator sets for a namespace.
    ApplyNamespace {
        spec: Arc<NamespaceSpec>,
        /// Only if it stands at this version; 0: only if nothing is set.
        if_version: Option<u32>,
    },
    /// Nothing is set for a namespace any more.
    DeleteNamespace {
        name: Name,
        if_version: Option<u32>,
    },
    /// Nodes are reserved, or otherwise than before.
    ReserveNodes {
        spec: Arc<NodeReservation>,
        /// Only if it stands at this version; 0: only if there is none.
        if_version: Option<u32>,
    },
    /// A reservation of nodes is ended by somebody.
    FreeNodes {
        name: Name,
        if_version: Option<u32>,
    },
    /// The time of a reservation of nodes has come: it begins, or is over.
    TurnNodeReservation {
        name: Name,
    },
    /// What a job gets that leaves its policy out: one that names `pool`, or any.
    SetPolicyDefault {
        pool: Option<Name>,
        /// `None`: nothing is set any more.
        policy: Option<Policy>,
    },
}

/// A new job, or a new version of a named one.
#[derive(Clone, PartialEq, Debug)]
pub struct SubmitJob {
    /// At most `KEY_BYTES_MAX` bytes; scoped to the namespace.
    pub key: Option<String>,
    pub spec: Arc<JobSpec>,
    /// Over the encoded specification; what a repeated key is compared by.
    pub digest: SpecDigest,
    /// Only if the named job stands at this version.
    pub if_version: Option<u32>,
}

/// A change of a job by a person.
#[derive(Clone, PartialEq, Debug)]
pub enum JobChange {
    Stop {
        reason: String,
    },
    /// Every live allocation is replaced.
    Restart,
    /// Nothing new is placed until released.
    Hold,
    Release,
    /// 0 means the version before the current one.
    Rollback {
        to_version: u32,
    },
    /// Forget an ended job at once.
    Purge,
}

/// What a node is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Purpose {
    Work,
    /// Keeps what it runs and takes nothing new.
    Cordoned,
    /// Is being emptied.
    Draining(Drain),
}

/// What a device is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DevicePurpose {
    Work,
    /// Keeps what runs on it and takes nothing new.
    Cordoned,
}

/// An instance proposed for a node and named devices.
#[derive(Clone, PartialEq, Debug)]
pub struct Placement {
    pub job: JobId,
    pub task: TaskIndex,
    pub instance: InstanceIndex,
    /// The attempt that would begin; another one is refused as stale.
    pub attempt: Attempt,
    pub node: NodeId,
    pub devices: Vec<DeviceClaim>,
    pub ports: Vec<PortClaim>,
    pub score: ScoreParts,
}

impl Placement {
    /// Of an attempt, with what of a claim is not its task's.
    pub fn new(id: AllocationId, node: NodeId, claim: Claim, score: ScoreParts) -> Placement {
        Placement {
            job: id.job,
            task: id.task,
            instance: id.instance,
            attempt: id.attempt,
            node,
            devices: claim.devices,
            ports: claim.ports,
            score,
        }
    }

    /// What it would take, and for which task; `None` if the job has no such.
    pub fn claim_of<'a>(&self, job: &'a JobRow) -> Option<(&'a TaskSpec, Claim)> {
        let task = job.spec.tasks.get(usize::from(self.task.0))?;
        let (devices, ports) = (self.devices.clone(), self.ports.clone());
        Some((task, Claim { cpu: task.cpu, memory: task.memory, devices, ports }))
    }

    /// The attempt that would begin.
    pub fn allocation(&self) -> AllocationId {
        let Placement { job, task, instance, attempt, .. } = self;
        AllocationId { job: *job, task: *task, instance: *instance, attempt: *attempt }
    }
}

/// A placement on a node where others end first.
#[derive(Clone, PartialEq, Debug)]
pub struct Reservation {
    pub placement: Placement,
    /// Allocations on the same node without which it fits.
    pub awaits: Vec<AllocationId>,
    /// Nobody is asked to end: those end by themselves. All members of a gang wait alike.
    pub patient: bool,
}

/// What an agent saw of one allocation.
#[derive(Clone, PartialEq, Debug)]
pub struct Observation {
    pub allocation: AllocationId,
    pub observed: Observed,
}

/// What of the cluster's work is on a node, or part of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Stock {
    /// Allocations of the cluster that have ended there.
    pub ended: Vec<(AllocationId, EndReport)>,
    /// Allocations of the cluster of which the node knows nothing.
    pub absent: Vec<AllocationId>,
    /// Everything that runs there; what the cluster knows to be there is as it
    /// was.
    pub unknown: Vec<Unknown>,
    /// Nothing more comes after this.
    pub complete: bool,
}

/// A worker that the cluster does not know.
#[derive(Clone, PartialEq, Debug)]
pub struct Unknown {
    pub allocation: AllocationId,
    pub namespace: String,
    pub job_name: String,
    pub spec_digest: SpecDigest,
    pub claim: Claim,
}

/// The observed state of an attempt.
#[derive(Clone, PartialEq, Debug)]
pub enum Observed {
    Starting(StartPhase),
    Running {
        ready: bool,
        started_at: WallMs,
    },
    /// Its health check has failed often enough; it is to be replaced.
    Unhealthy {
        detail: String,
    },
    Stopping,
    Unkillable,
    Ended(EndReport),
}

/// The longest idempotency key, in bytes.
pub const KEY_BYTES_MAX: usize = 256;

impl Command {
    /// A constant name for metrics and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Found { .. } => "found",
            Command::AdmitScheduler { .. } => "admit-scheduler",
            Command::PromoteScheduler { .. } => "promote-scheduler",
            Command::RemoveScheduler { .. } => "remove-scheduler",
            Command::RaiseClusterVersion { .. } => "raise-cluster-version",
            Command::Submit(_) => "submit",
            Command::ChangeJob { .. } => "change-job",
            Command::RegisterNode { .. } => "register-node",
            Command::TakeStock { .. } => "take-stock",
            Command::StopOrphans { .. } => "stop-orphans",
            Command::ForgetOrphans { .. } => "forget-orphans",
            Command::StopAwaiting => "stop-awaiting",
            Command::DisconnectNode { .. } => "disconnect-node",
            Command::DownNode { .. } => "down-node",
            Command::SetSchedulable { .. } => "set-schedulable",
            Command::SetDevicePurpose { .. } => "set-device-purpose",
            Command::SetGuards { .. } => "set-guards",
            Command::LoseAllocations { .. } => "lose-allocations",
            Command::Place { .. } => "place",
            Command::Reserve { .. } => "reserve",
            Command::Unreserve { .. } => "unreserve",
            Command::StopAllocations { .. } => "stop-allocations",
            Command::LetGo { .. } => "let-go",
            Command::Scale { .. } => "scale",
            Command::Observe { .. } => "observe",
            Command::ExpireJob { .. } => "expire-job",
            Command::FailUpdate { .. } => "fail-update",
            Command::Reap { .. } => "reap",
            Command::CreateToken(_) => "create-token",
            Command::RevokeToken { .. } => "revoke-token",
            Command::UseJoinToken { .. } => "use-join-token",
            Command::RevokeMachine { .. } => "revoke-machine",
            Command::ApplyNamespace { .. } => "apply-namespace",
            Command::DeleteNamespace { .. } => "delete-namespace",
            Command::ReserveNodes { .. } => "reserve-nodes",
            Command::FreeNodes { .. } => "free-nodes",
            Command::TurnNodeReservation { .. } => "turn-node-reservation",
            Command::SetPolicyDefault { .. } => "set-policy-default",
        }
    }
}
