//! A decision as a value: what it was made on and what it came to, so that it can be written down
//! and made anew elsewhere. The state itself does not use it.

use berth_model::{
    Constraints, CpuMilli, GpuRequest, JobId, MemoryBytes, Name, NodeId, StateMs, TaskIndex,
};

use crate::command::{Placement, Reservation};
use crate::lending::Right;
use crate::node_reservation::Permit;
use crate::state::ClusterState;
use crate::table::Table;

/// The last measurements of a node, each absent where nobody measured it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct NodeLoad {
    /// Mean utilisation of the node's GPUs, 0 to 1000.
    pub gpu_util_milli: Option<u32>,
    /// Memory in use on all of the node's GPUs together.
    pub gpu_memory_used: Option<MemoryBytes>,
    pub cpu_used: Option<CpuMilli>,
    pub memory_used: Option<MemoryBytes>,
    /// Use of the node's network bandwidth, 0 to 1000.
    pub network_used_milli: Option<u32>,
}

/// A decision of a planner.
#[derive(Clone, Debug)]
pub struct Decision {
    pub inputs: Inputs,
    pub made: Made,
}

/// Everything that a decision depends on.
#[derive(Clone, Debug)]
pub struct Inputs {
    pub view: ClusterState,
    pub now: StateMs,
    pub scope: Scope,
    pub bounds: WorkBounds,
    pub loads: Table<NodeId, NodeLoad>,
    /// What the mix was reckoned from.
    pub asked: Vec<Asked>,
    /// For whom the planner had found that nobody ends.
    pub gave_up: Vec<GaveUp>,
    /// Where its work ended, if that was before all was done.
    pub stop: Option<Stop>,
}

/// For whom it was planned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    Everything,
    Jobs(Vec<JobId>),
}

/// The bounds of one plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WorkBounds {
    pub candidates_examined_max: u64,
    pub placements_max: u32,
    pub reservations_max: u32,
}

/// Tasks of one kind that the cluster was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    pub cpu: CpuMilli,
    pub gpu: Option<GpuRequest>,
    pub instances: u64,
}

/// A kind of request for which nobody ends before a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GaveUp {
    pub cpu: CpuMilli,
    pub memory: MemoryBytes,
    pub port_count: u32,
    pub in_container: bool,
    pub gpu: Option<GpuRequest>,
    pub constraints: Constraints,
    /// Of which nodes that are reserved it may be.
    pub permit: Permit,
    pub priority: u8,
    /// Of a gang that is placed as one.
    pub members: u32,
    /// Where something is guaranteed, whose and by what right.
    pub by: Option<(Name, Right)>,
    pub until: StateMs,
}

/// Where a plan stopped because its budget of work was spent: told by what it had done, not by
/// what that had cost, since a planner that knows the nodes already spends less on the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stop {
    /// The step at which nothing was left, counted from 1.
    pub step: u64,
    /// Where that step was a choice among nodes: which of them had been looked at.
    pub seen: Option<Seen>,
}

/// Positions of nodes, in the order of their ids, that a search had looked at: `count` of them,
/// from `first` on round and round below `of`, and then those from `of` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    pub first: u64,
    pub of: u64,
    pub count: u64,
}

/// What a decision came to.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Made {
    /// In the order in which they were decided.
    pub placements: Vec<Placement>,
    /// Places that are kept, and who ends for them.
    pub reservations: Vec<Reservation>,
    /// In queue order; a report names a bounded number of them.
    pub waiting: Vec<Waiting>,
    /// How many more tasks are left waiting.
    pub waiting_left_off: u64,
    pub next_wakeup: Option<StateMs>,
    /// Something may have a place for which others end, which the bounds did not allow.
    pub held_back: bool,
    /// There is more to plan at once.
    pub exhausted: bool,
}

/// A task of which something was left waiting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    pub job: JobId,
    pub task: TaskIndex,
    pub placed: u32,
    /// Instances that go on waiting.
    pub left: u64,
    /// The stable name of what stood in the way.
    pub why: String,
}
