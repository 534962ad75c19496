//! The cluster state: tables of rows, and indices over them that are never
//! stored because the rows imply them.

use std::sync::Arc;

use berth_model::{
    AllocationId, Amounts, AverageUse, JobId, Machine, Name, NodeId, StateMs, TaskIndex, TokenId,
};
use imbl::{OrdMap, OrdSet};

use crate::access::{RevocationRow, TokenRow};
use crate::event::Event;
use crate::namespace::NamespaceRow;
use crate::node::NodeRow;
use crate::node_reservation::NodeReservationRow;
use crate::refusal::Refusal;
use crate::reservation::Reserved;
use crate::rows::{AllocationRow, ClusterRow, JobRow, KeyRow, TaskRow};
use crate::table::Table;

/// The replicated state of a cluster. A clone costs O(1) and is a view.
#[derive(Clone, Debug, Default)]
pub struct ClusterState {
    pub(crate) applied_index: u64,
    pub(crate) cluster: ClusterRow,
    pub(crate) jobs: Table<JobId, JobRow>,
    pub(crate) tasks: Table<(JobId, TaskIndex), TaskRow>,
    pub(crate) allocations: Table<AllocationId, AllocationRow>,
    pub(crate) nodes: Table<NodeId, NodeRow>,
    pub(crate) keys: Table<(Name, String), KeyRow>,
    pub(crate) tokens: Table<TokenId, TokenRow>,
    pub(crate) revocations: Table<(Machine, String), RevocationRow>,
    pub(crate) namespaces: Table<Name, NamespaceRow>,
    /// What they held until their holdings last changed.
    pub(crate) averages: Table<Name, AverageUse>,
    pub(crate) node_reservations: Table<Name, NodeReservationRow>,
    pub(crate) index: Indices,
}

/// What the rows imply, kept beside them for speed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Indices {
    /// Tasks with waiting instances of jobs that may place, in queue order.
    pub queue: OrdSet<QueueKey>,
    /// Jobs by namespace and name.
    pub names: OrdSet<(Name, Name, JobId)>,
    /// Ended jobs, by when they ended.
    pub finished: OrdSet<(StateMs, JobId)>,
    pub node_names: OrdMap<Name, NodeId>,
    /// Which node has a device, by uuid; of nodes that are down none.
    pub device_nodes: OrdMap<String, NodeId>,
    /// The same, by namespace first.
    pub finished_in: OrdSet<(Name, StateMs, JobId)>,
    /// Instances of ended jobs, by namespace.
    pub finished_instances: OrdMap<Name, u64>,
    /// Keys whose job is gone, by when they may be forgotten.
    pub stale_keys: OrdSet<(StateMs, Name, String)>,
    /// Daemon jobs that may place.
    pub daemons: OrdSet<JobId>,
    /// Batch jobs with a deadline that have not ended, by when it passes.
    pub deadlines: OrdSet<(StateMs, JobId)>,
    /// Jobs with something live that may be ended for others, by their priority.
    pub endable: OrdSet<(u8, JobId)>,
    /// Whom places are kept for, and on which node.
    pub reserved: Reserved,
    /// Tokens that expire, by when.
    pub token_expiries: OrdSet<(StateMs, TokenId)>,
    /// What each namespace holds and queues; of those that do neither nothing.
    pub usage: OrdMap<Name, Amounts>,
    /// What of it may not be ended for others.
    pub barred: OrdMap<Name, Amounts>,
    /// What of it ends already.
    pub ending: OrdMap<Name, Amounts>,
    /// Namespaces that hold nothing any more, and whose average is remembered, by its time.
    pub idle: OrdSet<(StateMs, Name)>,
    /// Namespaces to which something is guaranteed.
    pub guaranteed: OrdSet<Name>,
}

/// A task's place in the queue. Priority and age are one number, fixed at
/// submit: waiting makes every task more urgent at the same rate, so passing
/// time never reorders the queue, and a task of any priority comes first after
/// at most `priority difference × AGE_MS_PER_POINT`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueKey {
    /// Submit time less the head start that its priority gives; smaller is
    /// earlier.
    pub virtual_submit_ms: i64,
    pub job: JobId,
    pub task: TaskIndex,
}

/// Waiting this long weighs as much as one point of priority.
pub const AGE_MS_PER_POINT: i64 = 60_000;

/// What applying an entry came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// One answer per command, in order.
    pub replies: Vec<Result<Reply, Refusal>>,
    pub events: Vec<Event>,
}

/// What a command that was not refused came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Done,
    Submitted {
        job: JobId,
        version: u32,
        /// The key had been used for the same spec before.
        existed: bool,
    },
    Registered {
        node: NodeId,
        session: u64,
    },
    /// The id that a new scheduler takes part in Raft with.
    Admitted {
        scheduler: u64,
    },
    /// A machine may be certified, with this in its certificate.
    LetIn {
        times_revoked: u32,
    },
    /// Which placements were granted; the others are refused with the reason,
    /// and what they were for goes on waiting.
    Placed {
        granted: Vec<AllocationId>,
        refused: Vec<Refusal>,
    },
    /// The version at which what is set for a namespace stands now.
    NamespaceSet {
        version: u32,
    },
    /// The version at which a reservation of nodes stands now.
    NodesReserved {
        version: u32,
    },
    /// How many observations changed something.
    Observed {
        changed: u32,
    },
}

impl QueueKey {
    pub fn new(priority: u8, submitted: StateMs, job: JobId, task: TaskIndex) -> QueueKey {
        let submitted = i64::try_from(submitted.0).unwrap_or(i64::MAX);
        let head_start = i64::from(priority) * AGE_MS_PER_POINT;
        QueueKey { virtual_submit_ms: submitted.saturating_sub(head_start), job, task }
    }
}

impl ClusterState {
    /// The log index of the last entry that was applied.
    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }

    pub fn cluster(&self) -> &ClusterRow {
        &self.cluster
    }

    pub fn jobs(&self) -> &Table<JobId, JobRow> {
        &self.jobs
    }

    pub fn tasks(&self) -> &Table<(JobId, TaskIndex), TaskRow> {
        &self.tasks
    }

    pub fn allocations(&self) -> &Table<AllocationId, AllocationRow> {
        &self.allocations
    }

    pub fn nodes(&self) -> &Table<NodeId, NodeRow> {
        &self.nodes
    }

    pub fn keys(&self) -> &Table<(Name, String), KeyRow> {
        &self.keys
    }

    /// Tasks with waiting instances, most urgent first.
    pub fn queue(&self) -> impl Iterator<Item = &QueueKey> {
        self.index.queue.iter()
    }

    /// Whether no task has a waiting instance.
    pub fn queue_is_empty(&self) -> bool {
        self.index.queue.is_empty()
    }

    pub fn queue_len(&self) -> usize {
        self.index.queue.len()
    }

    /// Daemon jobs that may place, by id.
    pub fn daemons(&self) -> impl Iterator<Item = JobId> + '_ {
        self.index.daemons.iter().copied()
    }

    /// A hash over everything replicated, equal on all replicas that have
    /// applied the same entries and run the same build. O(1).
    pub fn hash(&self) -> u64 {
        use std::hash::{Hash, Hasher};
        let mut hasher = crate::table::StableHasher::default();
        self.cluster.hash(&mut hasher);
        for sum in [
            self.jobs.hash(),
            self.tasks.hash(),
            self.allocations.hash(),
            self.nodes.hash(),
            self.keys.hash(),
            self.tokens.hash(),
            self.revocations.hash(),
            self.namespaces.hash(),
            self.averages.hash(),
            self.node_reservations.hash(),
        ] {
            hasher.write_u64(sum);
        }
        hasher.finish()
    }

    pub(crate) fn job_row(&self, job: JobId) -> Result<&Arc<JobRow>, Refusal> {
        self.jobs.get(&job).ok_or(Refusal::NoSuchJob(job))
    }

    pub(crate) fn node_row(&self, node: NodeId) -> Result<&Arc<NodeRow>, Refusal> {
        self.nodes.get(&node).ok_or(Refusal::NoSuchNode(node))
    }
}
