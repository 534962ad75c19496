//! The rows of nodes, and of what is on them that the cluster does not know or has given up.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use berth_model::{
    AllocationId, Claim, Device, Guards, JobId, Name, NodeCapacity, NodeId, NodeSpec, NodeState,
    NodeUse, SpecDigest, StateMs, TaskIndex, WallMs,
};

use crate::command::Purpose;
use crate::reservation::ReservationRow;
use crate::rows::AllocationRow;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRow {
    pub id: NodeId,
    pub name: Name,
    pub instance_key: [u8; 16],
    pub spec: Arc<NodeSpec>,
    pub state: NodeState,
    pub purpose: Purpose,
    /// Counts registrations; a command about an earlier one is stale. Zero for
    /// a node that has only said what is on it.
    pub session: u64,
    /// Counts changes of what should be on the node.
    pub generation: u64,
    pub used: NodeUse,
    pub live: BTreeSet<AllocationId>,
    /// When it entered its state.
    pub since: StateMs,
    /// Ports that a stranger holds, and until when they are left alone.
    pub blocked_ports: BTreeMap<u16, StateMs>,
    /// Nothing new is put on it before: it could not start a worker.
    pub rests_until: StateMs,
    /// The incarnation in which it last said all that is on it.
    pub stock_incarnation: u64,
    /// What runs on it and the cluster does not know; part of `used`.
    pub orphans: BTreeMap<AllocationId, OrphanRow>,
    /// What was given up on it and may run there still; part of `used` while it is ready.
    pub away: BTreeMap<AllocationId, AwayRow>,
    /// Places that are kept for what waits, the oldest first; `used` has what of them is free.
    pub reservations: Vec<ReservationRow>,
    /// Devices that an operator wants nothing new on, by uuid, also while they are away.
    pub cordoned_devices: BTreeSet<String>,
    /// What its host is short of. Whoever plans puts nothing new on it; apply does not ask, as
    /// what was planned a moment before breaks nothing.
    pub guards: Guards,
}

/// A worker that was given up while its node was silent, or whose place an earlier attempt
/// has taken back. Its devices are nobody else's until its agent has said what became of it;
/// a node that is not ready is given nothing, so there they need not be counted, and may even
/// have moved to another node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AwayRow {
    /// As it was when it was given up. Its claim is the part that its node has for it yet.
    pub row: Arc<AllocationRow>,
    /// Set: it is to end, for this reason.
    pub stop: Option<String>,
}

/// A worker that the backup did not know. It is kept, and what it holds is
/// given to nobody else, until it ends by itself or an operator ends it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct OrphanRow {
    /// What is kept from others; less than it holds where somebody else is
    /// known to hold the same.
    pub claim: Claim,
    /// What it runs; absent where it cannot be taken back any more.
    pub spec_digest: Option<SpecDigest>,
    pub namespace: String,
    pub job_name: String,
    /// When the cluster learned of it.
    pub found_at: WallMs,
    /// Why it was not taken back as what its id says.
    pub why: String,
    /// Set: it is to be ended, for this reason.
    pub stop: Option<String>,
}

/// A row changes with each of its allocations, so what follows from others is
/// left out: `live` and the devices and ports in `used` are those of the
/// allocations, which are rows of their own, and the specification changes only
/// with the session.
impl Hash for NodeRow {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.id.hash(hasher);
        self.name.hash(hasher);
        self.instance_key.hash(hasher);
        (self.spec.cpu, self.spec.memory, self.spec.devices.len()).hash(hasher);
        (self.state, self.purpose, self.since).hash(hasher);
        (self.session, self.generation).hash(hasher);
        (self.used.cpu, self.used.memory, self.live.len()).hash(hasher);
        (&self.blocked_ports, self.rests_until).hash(hasher);
        (self.stock_incarnation, &self.orphans, &self.cordoned_devices).hash(hasher);
        (&self.away, &self.reservations, self.guards).hash(hasher);
    }
}

impl NodeRow {
    /// Whether it is there, and meant for work.
    pub fn accepts_work(&self) -> bool {
        self.state == NodeState::Ready && self.purpose == Purpose::Work
    }

    /// Whether new work may be put on it now, as far as its host goes.
    pub fn takes_new_work(&self, now: StateMs) -> bool {
        self.takes_daemons(now) && self.guards.are_open()
    }

    /// The same for a daemon, whatever its host is short of: it belongs to its node and has nowhere
    /// else to go, and may be what watches over a host that runs short of something.
    pub fn takes_daemons(&self, now: StateMs) -> bool {
        self.accepts_work() && !self.rests(now)
    }

    /// What it has, beside what is used of it.
    pub fn capacity<'a>(&'a self, used: &'a NodeUse) -> NodeCapacity<'a> {
        NodeCapacity { spec: &self.spec, used, cordoned: &self.cordoned_devices }
    }

    /// Devices that nobody else may have: those of a node that is down may have
    /// moved to another.
    pub fn devices_in_use(&self) -> impl Iterator<Item = &Device> {
        let down = self.state == NodeState::Down;
        self.spec.devices.iter().filter(move |_| !down)
    }

    /// Whether an orphan on it is of this task, whichever instance.
    pub fn has_orphan_of_task(&self, job: JobId, task: TaskIndex) -> bool {
        self.orphans.keys().any(|id| (id.job, id.task) == (job, task))
    }

    /// Whether an attempt of this task that was given up on it may go on there yet.
    pub fn awaits_return_of(&self, job: JobId, task: TaskIndex) -> bool {
        let mut undecided = self.away.iter().filter(|(_, away)| away.stop.is_none());
        undecided.any(|(id, _)| (id.job, id.task) == (job, task))
    }

    /// Whether it has yet to say what is on it, in a cluster of this
    /// incarnation. Where nothing was ever restored nothing can be unknown.
    pub fn needs_stock(&self, incarnation: u64) -> bool {
        incarnation > 1 && self.stock_incarnation < incarnation
    }

    /// Whether it is left alone for now.
    pub fn rests(&self, now: StateMs) -> bool {
        self.rests_until > now
    }
}
