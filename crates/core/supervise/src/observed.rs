//! What is on the node, as far as the agent knows.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::AllocationId;

use crate::desired::Desired;
use crate::lease::Lease;

/// Everything on the node that a decision looks at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observed {
    pub allocations: BTreeMap<AllocationId, Allocation>,
    /// Wishes that are not on disk yet and must not be begun with.
    pub not_durable: BTreeSet<AllocationId>,
    /// Wishes for a device that something here still holds; see
    /// [`occupied`](crate::occupied).
    pub occupied: BTreeSet<AllocationId>,
    /// The incarnation that was last told what is here, and may not have
    /// answered yet with what it wants; zero if none ever asked.
    pub told_incarnation: u64,
    /// Orphans that an operator wants ended, as the cluster last said.
    pub orphans_to_end: BTreeSet<AllocationId>,
    pub lease: Lease,
    pub link: Link,
}

/// Whether a report can be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    Up,
    Down,
}

/// One allocation that the agent has begun to act on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allocation {
    pub worker: Worker,
    /// The latest incarnation of the cluster that wanted it; zero if unknown.
    pub wanted_in: u64,
    /// Raised whenever there is something new to say of it.
    pub revision: u64,
    /// The revision that was last sent over the present link.
    pub sent: Option<u64>,
    /// The revision that the cluster last acknowledged.
    pub acknowledged: Option<u64>,
}

/// Where its worker is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Worker {
    /// Being prepared; nothing was launched.
    Preparing,
    /// A launch was asked for; what came of it is not known yet.
    Launching,
    Running,
    /// Asked to end.
    Stopping,
    /// Killed, and something is still there.
    Unkillable,
    /// Its processes have lost what supervised them.
    Abandoned,
    Ended,
}

impl Allocation {
    /// One that the agent begins to act on.
    #[must_use]
    pub fn new(worker: Worker, wanted_in: u64) -> Allocation {
        Allocation { worker, wanted_in, revision: 1, sent: None, acknowledged: None }
    }

    /// There is something new to say.
    pub fn touch(&mut self) {
        self.revision += 1;
    }

    /// The cluster knows all there is to say.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        self.acknowledged == Some(self.revision)
    }
}

impl Observed {
    /// Nothing is here and nobody listens.
    #[must_use]
    pub fn nothing(lease: Lease) -> Observed {
        Observed {
            allocations: BTreeMap::new(),
            not_durable: BTreeSet::new(),
            occupied: BTreeSet::new(),
            told_incarnation: 0,
            orphans_to_end: BTreeSet::new(),
            lease,
            link: Link::Down,
        }
    }

    /// Notes which incarnation wants what is here, and returns what it had not
    /// wanted before: from now on its absence from desired state is an order
    /// to stop it.
    pub fn note_wanted<T>(&mut self, desired: &Desired<T>) -> Vec<AllocationId> {
        let incarnation = desired.version.incarnation;
        let mut newly_wanted = Vec::new();
        for (id, allocation) in &mut self.allocations {
            if allocation.wanted_in < incarnation && desired.rows.contains_key(id) {
                allocation.wanted_in = incarnation;
                newly_wanted.push(*id);
            }
        }
        newly_wanted
    }

    /// A new link: everything is to be said again.
    pub fn link_up(&mut self) {
        self.link = Link::Up;
        for allocation in self.allocations.values_mut() {
            allocation.sent = None;
        }
    }
}
