//! The nodes as one plan sees them: the view's, with what this plan has handed
//! out so far laid over it. Within a plan nothing is ever freed.

use std::collections::BTreeMap;

use berth_model::{Claim, JobId, Name, NodeId, NodeUse, StateMs};
use berth_state::{ClusterState, NodeRow};

use crate::soft::{NodeLoad, SoftView};
use crate::terms::Standing;

/// The nodes that take work, in the order of their ids.
pub(crate) struct Scratch<'a> {
    slots: Vec<Slot<'a>>,
    /// Positions whose use has changed, in order, so that each search can catch
    /// up with what happened since it last looked.
    changes: Vec<usize>,
}

/// One node.
pub(crate) struct Slot<'a> {
    pub row: &'a NodeRow,
    load: Option<&'a NodeLoad>,
    /// A copy from the first placement on.
    changed: Option<NodeUse>,
}

impl<'a> Scratch<'a> {
    pub fn new(view: &'a ClusterState, soft: &'a SoftView, now: StateMs) -> Scratch<'a> {
        let nodes = view.nodes().values();
        let accepting = nodes.filter(|row| row.accepts_work() && !row.rests(now));
        let slot = |row: &'a std::sync::Arc<NodeRow>| Slot {
            row: row.as_ref(),
            load: soft.loads.get(&row.id),
            changed: None,
        };
        Scratch { slots: accepting.map(slot).collect(), changes: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn slot(&self, position: usize) -> &Slot<'a> {
        &self.slots[position]
    }

    /// Where a node is, if it takes work.
    pub fn position_of(&self, node: NodeId) -> Option<usize> {
        self.slots.binary_search_by_key(&node, |slot| slot.row.id).ok()
    }

    pub fn changes(&self) -> &[usize] {
        &self.changes
    }

    /// Hands a claim out.
    pub fn hand_out(&mut self, position: usize, claim: &Claim) {
        let slot = &mut self.slots[position];
        slot.changed.get_or_insert_with(|| slot.row.used.clone()).add(claim);
        self.changes.push(position);
    }
}

impl Slot<'_> {
    pub fn used(&self) -> &NodeUse {
        self.changed.as_ref().unwrap_or(&self.row.used)
    }

    pub fn standing(&self) -> Standing<'_> {
        Standing { spec: &self.row.spec, used: self.used(), load: self.load }
    }
}

/// Where the live instances of one job are, this plan's included.
pub(crate) struct Census<'a> {
    pub job: JobId,
    on_node: BTreeMap<NodeId, u32>,
    in_zone: BTreeMap<&'a Name, u32>,
}

impl<'a> Census<'a> {
    pub fn of(view: &'a ClusterState, job: JobId) -> Census<'a> {
        let mut census = Census { job, on_node: BTreeMap::new(), in_zone: BTreeMap::new() };
        for allocation in view.allocations_of(job) {
            if let Some(row) = view.nodes().get(&allocation.node) {
                census.add(row);
            }
        }
        census
    }

    pub fn add(&mut self, row: &'a NodeRow) {
        *self.on_node.entry(row.id).or_default() += 1;
        *self.in_zone.entry(&row.spec.zone).or_default() += 1;
    }

    /// The nodes that have any.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.on_node.keys().copied()
    }

    pub fn on_node(&self, node: NodeId) -> u32 {
        self.on_node.get(&node).copied().unwrap_or(0)
    }

    pub fn in_zone(&self, zone: &Name) -> u32 {
        self.in_zone.get(zone).copied().unwrap_or(0)
    }
}
