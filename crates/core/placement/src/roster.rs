//! The nodes as the planner keeps them from plan to plan, and which of them have changed, so
//! that what was reckoned about the others stays good. Within a plan nothing is ever freed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::{Claim, JobId, Name, NodeId, NodeUse, StateMs};
use berth_state::{ClusterState, NodeReservationRow, NodeRow, Table};

use crate::host::Host;
use crate::kinds::Kinds;
use crate::scarcity::Stock;
use crate::soft::{NodeLoad, SoftView};

/// Changes that are remembered at least; beyond twice the nodes a search that has missed them
/// is as well begun anew.
const CHANGES_KEPT_MIN: usize = 1024;

/// Positions in the order in which they changed; the oldest are forgotten.
#[derive(Default)]
pub(crate) struct Changes {
    positions: Vec<usize>,
    /// Changes that were forgotten before these.
    forgotten: usize,
}

impl Changes {
    fn push(&mut self, position: usize) {
        self.positions.push(position);
    }

    /// How many there have been.
    pub fn seen(&self) -> usize {
        self.forgotten + self.positions.len()
    }

    /// Those after so many; `None` if some of them are forgotten.
    pub fn after(&self, seen: usize) -> Option<&[usize]> {
        self.positions.get(seen.checked_sub(self.forgotten)?..)
    }

    fn forget(&mut self, nodes: usize) {
        let kept = CHANGES_KEPT_MIN.max(nodes * 2);
        if self.positions.len() > 2 * kept {
            let old = self.positions.len() - kept;
            self.positions.drain(..old);
            self.forgotten += old;
        }
    }
}

/// All nodes, in the order of their ids.
#[derive(Default)]
pub(crate) struct Roster {
    hosts: Vec<Host>,
    pub kinds: Kinds,
    /// As last seen.
    nodes: Table<NodeId, NodeRow>,
    loads: Table<NodeId, NodeLoad>,
    reserved: Table<Name, NodeReservationRow>,
    seen_at: StateMs,
    /// Positions where something changes by itself as time passes: a rest or the block of a
    /// port ends, or the node is reserved soon.
    timed: BTreeSet<usize>,
    /// Positions of which the last plan has handed something out.
    handed_out: Vec<usize>,
    /// Positions that have changed, so that each search can catch up.
    pub changes: Changes,
    /// Positions whose load has changed. Every agent reports it every second, and most
    /// policies do not ask for it.
    pub load_changes: Changes,
    /// Positions by the kind of their first device, those without any first.
    groups: Vec<Vec<usize>>,
    /// Of each position: its group, and where it is in it.
    places: Vec<(usize, usize)>,
    /// By kind of device.
    stocks: Vec<Stock>,
    /// Of all hosts' processors.
    cpu: Stock,
}

impl Roster {
    /// Takes in a view. Costs O(what has changed since the last), unless that was of another
    /// cluster, later, or a node is gone: then everything is looked at anew.
    pub fn observe(&mut self, view: &ClusterState, soft: &SoftView, now: StateMs) -> Continuity {
        self.changes.forget(self.hosts.len());
        self.load_changes.forget(self.hosts.len());
        let continuity = match self.update(view, soft, now) {
            Some(()) => Continuity::Same,
            None => {
                *self = Roster::default();
                for row in view.nodes().values() {
                    self.append(view, row, soft, now);
                }
                Continuity::Anew
            }
        };
        self.nodes = view.nodes().clone();
        self.loads = soft.loads.clone();
        self.reserved = view.node_reservations().clone();
        self.seen_at = now;
        continuity
    }

    /// `None` if positions would have to move.
    fn update(&mut self, view: &ClusterState, soft: &SoftView, now: StateMs) -> Option<()> {
        let reserved = view.node_reservations();
        let others_are_reserved = reserved.changes_since(&self.reserved).next().is_some();
        if self.hosts.is_empty() || now < self.seen_at || others_are_reserved {
            return None;
        }
        for position in std::mem::take(&mut self.handed_out) {
            self.change(position, |host, _| host.take_back(now));
            self.changes.push(position);
        }
        let nodes = self.nodes.clone();
        for (id, row) in view.nodes().changes_since(&nodes) {
            let row = row?;
            match self.position_of(*id) {
                Some(position) => {
                    self.change(position, |host, kinds| host.set(row.clone(), now, kinds));
                    self.hosts[position].holds = view.holds_on(row, now);
                    if group_of(&self.hosts[position]) != self.places[position].0 {
                        return None;
                    }
                    self.note(position, now);
                }
                None if self.hosts.last().is_none_or(|last| last.row.id < *id) => {
                    self.append(view, row, soft, now);
                }
                None => return None,
            }
        }
        let loads = self.loads.clone();
        for (id, load) in soft.loads.changes_since(&loads) {
            if let Some(position) = self.position_of(*id) {
                self.hosts[position].load = load.map(|load| **load);
                self.load_changes.push(position);
            }
        }
        for position in self.timed.clone() {
            self.change(position, |host, _| host.take_back(now));
            self.hosts[position].holds = view.holds_on(&self.hosts[position].row, now);
            self.note(position, now);
        }
        Some(())
    }

    fn append(&mut self, view: &ClusterState, row: &Arc<NodeRow>, soft: &SoftView, now: StateMs) {
        let load = soft.loads.get(&row.id).map(|load| **load);
        let mut host = Host::new(row.clone(), load, now, &mut self.kinds);
        host.holds = view.holds_on(row, now);
        let (position, group) = (self.hosts.len(), group_of(&host));
        if self.groups.len() <= group {
            self.groups.resize(group + 1, Vec::new());
        }
        self.places.push((group, self.groups[group].len()));
        self.groups[group].push(position);
        self.hosts.push(host);
        self.count(position, u64::wrapping_add);
        self.note(position, now);
    }

    /// Changes a host, and with it what there is of each kind.
    fn change(&mut self, position: usize, change: impl FnOnce(&mut Host, &mut Kinds)) {
        self.count(position, u64::wrapping_sub);
        change(&mut self.hosts[position], &mut self.kinds);
        self.count(position, u64::wrapping_add);
    }

    /// Adds what a host has to the stocks, or takes it off again.
    fn count(&mut self, position: usize, sum: fn(u64, u64) -> u64) {
        self.stocks.resize(self.kinds.len(), Stock::default());
        let host = &self.hosts[position];
        self.cpu.capacity_milli = sum(self.cpu.capacity_milli, host.row.spec.cpu.0);
        self.cpu.idle_milli = sum(self.cpu.idle_milli, host.cpu_free);
        for spot in self.hosts[position].spots.iter().filter(|spot| spot.takes_work) {
            let stock = &mut self.stocks[spot.kind];
            stock.capacity_milli = sum(stock.capacity_milli, 1000);
            if spot.is_free() {
                stock.idle_milli = sum(stock.idle_milli, 1000);
            }
        }
    }

    fn note(&mut self, position: usize, now: StateMs) {
        let Host { row, holds, .. } = &self.hosts[position];
        let waits = row.rests(now) || row.blocked_ports.values().any(|until| *until > now);
        if waits || holds.iter().any(|hold| hold.left.is_some()) {
            self.timed.insert(position);
        } else {
            self.timed.remove(&position);
        }
        self.changes.push(position);
    }

    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    pub fn host(&self, position: usize) -> &Host {
        &self.hosts[position]
    }

    /// Positions by the kind of their first device, those without any first.
    pub fn groups(&self) -> &[Vec<usize>] {
        &self.groups
    }

    /// The group of a position, and where it is in it.
    pub fn place(&self, position: usize) -> (usize, usize) {
        self.places[position]
    }

    /// What there is, by kind of device.
    pub fn stocks(&self) -> &[Stock] {
        &self.stocks
    }

    /// Of all nodes' processors.
    pub fn cpu(&self) -> Stock {
        self.cpu
    }

    /// Where a node is.
    pub fn position_of(&self, node: NodeId) -> Option<usize> {
        self.hosts.binary_search_by_key(&node, |host| host.row.id).ok()
    }

    /// When the first of the nodes that rest may be given work again.
    pub fn rest_ends(&self, now: StateMs) -> Option<StateMs> {
        let timed = self.timed.iter().map(|position| &self.hosts[*position].row);
        timed.filter(|row| row.accepts_work() && row.rests(now)).map(|row| row.rests_until).min()
    }

    /// Hands a claim out.
    pub fn hand_out(&mut self, position: usize, claim: &Claim, now: StateMs) {
        self.give(position, |host| host.hand_out(claim, now));
    }

    /// Hands out what is held of a place that is kept.
    pub fn hold(&mut self, position: usize, held: &NodeUse, now: StateMs) {
        self.give(position, |host| host.hold(held, now));
    }

    /// As if a place that is kept were not.
    pub fn release(&mut self, position: usize, held: &NodeUse, now: StateMs) {
        self.give(position, |host| host.release(held, now));
    }

    fn give(&mut self, position: usize, give: impl FnOnce(&mut Host)) {
        self.change(position, |host, _| give(host));
        self.handed_out.push(position);
        self.changes.push(position);
    }

    /// Takes back a claim that this plan has handed out.
    pub fn hand_back(&mut self, position: usize, claim: &Claim, now: StateMs) {
        self.change(position, |host, _| host.hand_back(claim, now));
        self.changes.push(position);
    }
}

/// 0 for a node without devices, else one more than the kind of its first.
fn group_of(host: &Host) -> usize {
    host.spots.first().map_or(0, |spot| spot.kind + 1)
}

/// Whether what was reckoned on the roster before is still about the same positions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Continuity {
    Same,
    Anew,
}

/// Where the live instances of one job are, this plan's included.
pub(crate) struct Census {
    pub job: JobId,
    on_node: BTreeMap<NodeId, u32>,
    in_zone: BTreeMap<Name, u32>,
}

impl Census {
    pub fn of(view: &ClusterState, job: JobId) -> Census {
        let mut census = Census { job, on_node: BTreeMap::new(), in_zone: BTreeMap::new() };
        for allocation in view.allocations_of(job) {
            if let Some(row) = view.nodes().get(&allocation.node) {
                census.add(row);
            }
        }
        census
    }

    pub fn add(&mut self, row: &NodeRow) {
        *self.on_node.entry(row.id).or_default() += 1;
        match self.in_zone.get_mut(&row.spec.zone) {
            Some(count) => *count += 1,
            None => {
                self.in_zone.insert(row.spec.zone.clone(), 1);
            }
        }
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
