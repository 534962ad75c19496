//! Choosing among the nodes that fit. A search ranks them once; requests that
//! are alike share it, and a placement re-ranks only the node that it changed,
//! so the cost of an instance does not grow with the number of nodes.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{AllocationId, GpuRequest, JobId, Misfit, Name, Policy, StateMs};

use crate::budget::Meter;
use crate::filters::{Request, has_room, is_eligible};
use crate::policies::{RoundRobin, Score, Surroundings, score, turn};
use crate::scratch::{Census, Scratch, Slot};

/// Everything about a request that decides where it fits: requests with equal
/// keys fit the same nodes, whoever makes them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct FitKey<'a> {
    cpu_milli: u64,
    memory_bytes: u64,
    port_count: usize,
    in_container: bool,
    gpu: Option<&'a GpuRequest>,
    labels: &'a BTreeMap<String, String>,
    pool: Option<&'a Name>,
    node: Option<&'a Name>,
}

/// A fit key with what else decides the ranking. Jobs share a search even under
/// `spread`, which looks at the job: what differs from one job to the next is
/// only the nodes where either has instances.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct SearchKey<'a> {
    pub fit: FitKey<'a>,
    pub policy: Policy,
}

/// The nodes that fit one kind of request, best first.
pub(crate) struct Search<'a> {
    request: Request<'a>,
    policy: Policy,
    /// Positions of eligible nodes, ascending: the ring of `round-robin`.
    ring: Vec<usize>,
    /// The current score of each position that has room.
    scores: Vec<Option<Score>>,
    /// The same scores in order, by zone where the policy compares zones.
    order: BTreeMap<Option<&'a Name>, BTreeSet<(Score, usize)>>,
    /// The job whose instances the ranking counts, under `spread`.
    ranked_for: Option<JobId>,
    /// Positions that are ranked as having instances of it.
    homes: BTreeSet<usize>,
    /// Changes of the scratch that this search has taken in.
    changes_seen: usize,
    pub last_used: u64,
    /// When a port that stood in the way is no longer blocked.
    pub port_wakeup: Option<StateMs>,
}

/// What a search sees of the plan around it.
#[derive(Clone, Copy)]
pub(crate) struct Surface<'p, 'a> {
    pub scratch: &'p Scratch<'a>,
    pub census: Option<&'p Census<'a>>,
    pub now: StateMs,
    /// Where a search begins that the budget does not let see every node.
    pub first: usize,
}

impl<'a> FitKey<'a> {
    pub fn of(request: Request<'a>) -> FitKey<'a> {
        let Request { task, constraints } = request;
        FitKey {
            cpu_milli: task.cpu.0,
            memory_bytes: task.memory.0,
            port_count: task.ports.len(),
            in_container: task.driver.image().is_some(),
            gpu: task.gpu.as_ref(),
            labels: &constraints.labels,
            pool: constraints.pool.as_ref(),
            node: constraints.node.as_ref(),
        }
    }
}

impl<'a> Search<'a> {
    /// Looks at every node, or as many as the budget allows: what it found of a
    /// part is still good for one choice, and the start moves on with each
    /// view, so that no node is left out for ever.
    pub fn build(
        request: Request<'a>,
        policy: Policy,
        surface: Surface<'_, 'a>,
        meter: &mut Meter,
    ) -> Search<'a> {
        let count = surface.scratch.len();
        let mut search = Search {
            request,
            policy,
            ring: Vec::new(),
            scores: vec![None; count],
            order: BTreeMap::new(),
            ranked_for: surface.census.map(|census| census.job),
            homes: BTreeSet::new(),
            changes_seen: surface.scratch.changes().len(),
            last_used: 0,
            port_wakeup: None,
        };
        let complete = meter.left() >= count as u64;
        let first = if complete { 0 } else { surface.first % count.max(1) };
        for position in (first..count).chain(0..first) {
            if !meter.spend() {
                break;
            }
            if is_eligible(surface.scratch.slot(position).row, request).is_ok() {
                search.ring.push(position);
                search.rank(position, surface);
            }
        }
        search.ring.sort_unstable();
        search
    }

    /// The best node for an instance, after taking in what has changed; `None`
    /// when nothing fits.
    pub fn best(
        &mut self,
        allocation: AllocationId,
        surface: Surface<'_, 'a>,
        meter: &mut Meter,
    ) -> Option<(usize, Score)> {
        self.catch_up(surface, meter);
        match self.policy {
            Policy::LeastLoaded | Policy::BestFit => {
                let (score, position) = self.order.get(&None)?.first()?;
                Some((*position, *score))
            }
            Policy::RoundRobin => self.next_in_turn(allocation, surface),
            Policy::Spread => self.best_of_zones(surface),
        }
    }

    fn catch_up(&mut self, surface: Surface<'_, 'a>, meter: &mut Meter) {
        let changes = surface.scratch.changes();
        let mut missed: BTreeSet<usize> = changes[self.changes_seen..].iter().copied().collect();
        self.changes_seen = changes.len();
        let job = surface.census.map(|census| census.job);
        if self.policy == Policy::Spread && job != self.ranked_for {
            missed.append(&mut self.homes);
            let homes = surface.census.into_iter().flat_map(Census::nodes);
            missed.extend(homes.filter_map(|node| surface.scratch.position_of(node)));
            self.ranked_for = job;
        }
        for position in missed {
            if self.scores[position].is_some() {
                // Exhaustion shows at the next choice: a ranking half brought
                // up to date could hand out what is no longer there.
                meter.spend();
                self.rank(position, surface);
            }
        }
    }

    /// Ranks one eligible node anew.
    fn rank(&mut self, position: usize, surface: Surface<'_, 'a>) {
        let slot = surface.scratch.slot(position);
        let zone = self.zone_key(slot);
        if let Some(old) = self.scores[position].take()
            && let Some(zone) = self.order.get_mut(&zone)
        {
            zone.remove(&(old, position));
        }
        match has_room(slot.row, slot.used(), surface.now, self.request.task) {
            Ok(()) => {
                let on_node = surface.census.map_or(0, |census| census.on_node(slot.row.id));
                if on_node > 0 {
                    self.homes.insert(position);
                }
                let around = Surroundings { on_node, ..Surroundings::NONE };
                let task = self.request.task;
                let new = score(self.policy, task, slot.row.id, slot.standing(), around);
                self.scores[position] = Some(new);
                self.order.entry(zone).or_default().insert((new, position));
            }
            Err(misfit) => self.note_blocked_ports(&misfit, slot, surface.now),
        }
    }

    fn zone_key(&self, slot: &Slot<'a>) -> Option<&'a Name> {
        match self.policy {
            Policy::Spread => Some(&slot.row.spec.zone),
            Policy::LeastLoaded | Policy::RoundRobin | Policy::BestFit => None,
        }
    }

    fn note_blocked_ports(&mut self, misfit: &Misfit, slot: &Slot<'a>, now: StateMs) {
        if matches!(misfit, Misfit::PortsBusy { .. }) {
            let blocks = slot.row.blocked_ports.values().copied().filter(|until| *until > now);
            self.port_wakeup = self.port_wakeup.into_iter().chain(blocks).min();
        }
    }

    fn next_in_turn(
        &self,
        allocation: AllocationId,
        surface: Surface<'_, 'a>,
    ) -> Option<(usize, Score)> {
        let open = self.order.get(&None)?;
        let start = turn(allocation, self.ring.len());
        let whose = *self.ring.get(start)?;
        // Ranked scores differ by the node alone, so the order is that of the
        // nodes: the first at or after the turn is found in O(log n).
        let node = surface.scratch.slot(whose).row.id;
        let from = (Score::RoundRobin(RoundRobin { passed_over: 0, node }), whose);
        let (_, position) = open.range(from..).next().or_else(|| open.first())?;
        let rank = self.ring.binary_search(position).ok()?;
        let passed_over = (rank + self.ring.len() - start) % self.ring.len();
        let passed_over = u32::try_from(passed_over).unwrap_or(u32::MAX);
        let node = surface.scratch.slot(*position).row.id;
        Some((*position, Score::RoundRobin(RoundRobin { passed_over, node })))
    }

    /// The zones' counts decide between zones and not within one, so the best
    /// of all is the best of the best of each.
    fn best_of_zones(&self, surface: Surface<'_, 'a>) -> Option<(usize, Score)> {
        let best_of = |(zone, ranked): (&Option<&'a Name>, &BTreeSet<(Score, usize)>)| {
            let (mut score, position) = *ranked.first()?;
            if let (Score::Spread(spread), Some(zone), Some(census)) =
                (&mut score, zone, surface.census)
            {
                spread.in_zone = census.in_zone(zone);
            }
            Some((score, position))
        };
        let (score, position) = self.order.iter().filter_map(best_of).min()?;
        Some((position, score))
    }
}
