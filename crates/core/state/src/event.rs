//! What apply says has happened. Everything that wakes, notifies, delivers or
//! records does so because of an event.

use std::sync::Arc;

use berth_model::{
    AllocationId, AllocationState, DeviceHealth, EndReport, Guards, JobId, JobState, Machine, Name,
    NodeId, NodeState, Outcome, Policy, TokenId,
};

use crate::rows::{AllocationRow, Seat};

/// One thing that happened while an entry was applied.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    pub job: Option<JobId>,
    pub allocation: Option<AllocationId>,
    pub node: Option<NodeId>,
    pub kind: EventKind,
}

#[derive(Clone, PartialEq, Debug)]
pub enum EventKind {
    JobSubmitted {
        namespace: Name,
        name: Name,
    },
    /// Its load asks for more or fewer.
    ReplicasScaled {
        from: u32,
        to: u32,
        reason: String,
    },
    JobUpdated {
        version: u32,
    },
    /// A version that does not get ready takes no more places.
    UpdateFailed {
        version: u32,
        reason: String,
    },
    JobHeld,
    JobReleased,
    JobStopping {
        reason: String,
    },
    JobStateChanged {
        state: JobState,
        reason: String,
    },
    JobReaped,
    /// Instances wait for a place, and did not before.
    InstancesQueued {
        count: u64,
    },
    AllocationPlanned,
    /// A place is kept for it until so many others have ended.
    PlaceReserved {
        awaited: u32,
    },
    /// Its place is kept no longer; it goes on waiting.
    ReservationDropped {
        reason: String,
    },
    AllocationStateChanged {
        state: AllocationState,
    },
    AllocationStopping {
        reason: String,
    },
    /// Its row is gone from the state; this is the last that is seen of it.
    AllocationEnded {
        outcome: Outcome,
        reason: String,
        row: Arc<AllocationRow>,
        /// What the agent saw; absent where nobody did.
        report: Option<EndReport>,
    },
    /// The instance will be tried again after this many milliseconds.
    RetryScheduled {
        wait_ms: u64,
    },
    NodeRegistered {
        name: Name,
    },
    NodeStateChanged {
        state: NodeState,
    },
    NodePurposeChanged {
        purpose: crate::command::Purpose,
    },
    DevicePurposeChanged {
        uuid: String,
        purpose: crate::command::DevicePurpose,
    },
    /// Its host is short of something else than before, or of nothing.
    NodeGuarded {
        guards: Guards,
    },
    DeviceHealthChanged {
        uuid: String,
        health: DeviceHealth,
        /// Why it is not healthy; empty if it is.
        reason: String,
    },
    NodeReaped,
    /// A worker that was given up while its node was silent goes on.
    AllocationReturned {
        reason: String,
    },
    /// A worker of an earlier incarnation is known again.
    AllocationAdopted,
    /// A worker is there that the cluster does not know.
    OrphanFound {
        why: String,
    },
    OrphanStopping {
        reason: String,
    },
    OrphanEnded,
    /// A restored cluster waits for no node any more; so many have not come.
    AwaitingEnded {
        missing: usize,
    },
    /// The node's desired state has a new generation.
    DesiredChanged {
        generation: u64,
    },
    ClusterFounded,
    SchedulerAdmitted {
        scheduler: u64,
        seat: Seat,
    },
    SchedulerPromoted {
        scheduler: u64,
    },
    SchedulerRemoved {
        scheduler: u64,
    },
    ClusterVersionRaised {
        version: u32,
    },
    /// Never with the secret or anything made of it.
    TokenCreated {
        id: TokenId,
        label: String,
    },
    TokenRevoked {
        id: TokenId,
        label: String,
    },
    /// An agent or a gateway was let in.
    MachineJoined {
        machine: Machine,
        name: Name,
    },
    MachineRevoked {
        machine: Machine,
        name: String,
    },
    /// Something else is set for it.
    NamespaceChanged {
        name: Name,
        version: u32,
    },
    /// Nothing is set for it any more.
    NamespaceDeleted {
        name: Name,
    },
    /// A reservation of nodes was set, or changed.
    NodesReserved {
        name: Name,
        version: u32,
    },
    /// It is in force from now on.
    ReservationBegun {
        name: Name,
    },
    /// It is gone: its time was over, or somebody ended it.
    NodesFreed {
        name: Name,
        over: bool,
    },
    /// Of a pool, or of the cluster; `None`: nothing is set for it any more.
    PolicyDefaultChanged {
        pool: Option<Name>,
        policy: Option<Policy>,
    },
}

impl EventKind {
    /// The constant name by which people and programs know it.
    pub fn name(&self) -> &'static str {
        match self {
            EventKind::JobSubmitted { .. } => "job-submitted",
            EventKind::ReplicasScaled { .. } => "replicas-scaled",
            EventKind::JobUpdated { .. } => "job-updated",
            EventKind::UpdateFailed { .. } => "update-failed",
            EventKind::JobHeld => "job-held",
            EventKind::JobReleased => "job-released",
            EventKind::JobStopping { .. } => "job-stopping",
            EventKind::JobStateChanged { .. } => "job-state",
            EventKind::JobReaped => "job-reaped",
            EventKind::InstancesQueued { .. } => "instances-queued",
            EventKind::AllocationPlanned => "allocation-planned",
            EventKind::PlaceReserved { .. } => "place-reserved",
            EventKind::ReservationDropped { .. } => "reservation-dropped",
            EventKind::AllocationStateChanged { .. } => "allocation-state",
            EventKind::AllocationStopping { .. } => "allocation-stopping",
            EventKind::AllocationEnded { .. } => "allocation-ended",
            EventKind::RetryScheduled { .. } => "retry-scheduled",
            EventKind::NodeRegistered { .. } => "node-registered",
            EventKind::NodeStateChanged { .. } => "node-state",
            EventKind::NodePurposeChanged { .. } => "node-purpose",
            EventKind::DevicePurposeChanged { .. } => "device-purpose",
            EventKind::NodeGuarded { .. } => "node-guard",
            EventKind::DeviceHealthChanged { .. } => "device-health",
            EventKind::NodeReaped => "node-reaped",
            EventKind::AllocationReturned { .. } => "allocation-returned",
            EventKind::AllocationAdopted => "allocation-adopted",
            EventKind::OrphanFound { .. } => "orphan-found",
            EventKind::OrphanStopping { .. } => "orphan-stopping",
            EventKind::OrphanEnded => "orphan-ended",
            EventKind::AwaitingEnded { .. } => "awaiting-ended",
            EventKind::DesiredChanged { .. } => "desired-changed",
            EventKind::ClusterFounded => "cluster-founded",
            EventKind::SchedulerAdmitted { .. } => "scheduler-admitted",
            EventKind::SchedulerPromoted { .. } => "scheduler-promoted",
            EventKind::SchedulerRemoved { .. } => "scheduler-removed",
            EventKind::ClusterVersionRaised { .. } => "cluster-version",
            EventKind::TokenCreated { .. } => "token-created",
            EventKind::TokenRevoked { .. } => "token-revoked",
            EventKind::MachineJoined { .. } => "machine-joined",
            EventKind::MachineRevoked { .. } => "machine-revoked",
            EventKind::NamespaceChanged { .. } => "namespace-changed",
            EventKind::NamespaceDeleted { .. } => "namespace-deleted",
            EventKind::NodesReserved { .. } => "nodes-reserved",
            EventKind::ReservationBegun { .. } => "reservation-begun",
            EventKind::NodesFreed { .. } => "nodes-freed",
            EventKind::PolicyDefaultChanged { .. } => "policy-default",
        }
    }
}
