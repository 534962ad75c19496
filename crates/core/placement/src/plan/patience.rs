//! What has waited for long and finds no room has a place kept where others end by themselves:
//! else it waits for as long as smaller work takes whatever becomes free before enough of it has.
//! The places of what is less urgent make way, as it would if it ran.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{AllocationId, NodeId, NodeUse, PATIENCE};
use berth_state::reservation::{gives_way, may_end};
use berth_state::{ClusterState, ReservationRow, Right};

use super::{FAILURES_MAX, Run, Visit};
use crate::filters::{has_room, is_eligible};
use crate::search::{FitKey, SearchKey};

/// Places are kept patiently on one node of so many, or one place, whatever it takes: what is
/// free of them is nobody's meanwhile.
const NODES_PER_KEPT: usize = 16;
/// So many are remembered of a plan that might have places kept; hardly more than one has.
const WAITING_MAX: usize = 16;

/// The patient places that there are, and who might come to have one.
#[derive(Default)]
pub(super) struct Patience<'a> {
    places: Vec<Place<'a>>,
    /// Whether this plan keeps more of them.
    pub keeps: bool,
    /// Without room, in the order of the plan, with an instance of each.
    waiting: Vec<(Visit<'a>, u32)>,
}

/// What is kept on one node.
#[derive(Clone)]
struct Place<'a> {
    node: NodeId,
    row: &'a ReservationRow,
    /// Of its claims, what nobody else has.
    held: NodeUse,
}

/// What a visit would do where a patient place is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Begin at once.
    Begin,
    /// Have others end first.
    End,
}

/// Places that are out of the way of one visit, by the position of their node.
pub(super) struct Lifted<'a>(Vec<(usize, Place<'a>, Way)>);

/// Why a place is out of the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It is the visit's own, or makes way for it.
    Gone,
    /// What the visit takes of it is free again in time.
    InTime,
}

impl Lifted<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> Patience<'a> {
    pub fn of(view: &'a ClusterState) -> Patience<'a> {
        let rows = view.reservations().filter(|(.., row)| row.patient);
        let rows = rows.filter(|(id, _, row)| row.members.keys().next() == Some(id));
        let place = |(_, node, row): (_, _, &'a ReservationRow)| Place {
            node,
            row,
            held: row.held.clone(),
        };
        Patience { places: rows.map(place).collect(), ..Patience::default() }
    }
}

impl<'a> Run<'_, 'a> {
    /// Whether a place that is kept makes way for what is being visited.
    pub(super) fn makes_way(&self, visit: Visit<'a>, row: &ReservationRow) -> bool {
        let is_own = |id: &AllocationId| {
            let of_task = (id.job, id.task) == (visit.key.job, visit.key.task);
            of_task && visit.task.gang.is_some()
        };
        let gives_way = |id: &AllocationId| {
            let owner = self.view.jobs().get(&id.job);
            owner.is_some_and(|owner| gives_way(visit.asker(), owner))
        };
        row.patient && row.members.keys().next().is_some_and(|id| is_own(id) || gives_way(id))
    }

    /// Whether others have been asked to end for the place that is kept for it. One that is only
    /// waited for may be had elsewhere sooner.
    pub(super) fn is_kept_for_good(&self, visit: Visit<'a>, instance: u32) -> bool {
        let id = visit.allocation(self.view, instance);
        self.view.is_reserved(id.job, id.task, id.instance) && !self.view.is_reserved_patiently(id)
    }

    /// Takes places out of the way of an instance, or of a gang: those that make way for it, its
    /// own, and, if it is to begin at once, those that it leaves in time.
    pub(super) fn lift(&mut self, visit: Visit<'a>, instance: u32, wish: Wish) -> Lifted<'a> {
        if self.patience.places.is_empty() {
            return Lifted(Vec::new());
        }
        let own = visit.allocation(self.view, instance);
        let is_own = |id: &AllocationId| self.view.unit_of(*id) == self.view.unit_of(own);
        let way = |place: &Place<'_>| {
            if place.row.members.keys().any(is_own) {
                return Some(Way::Gone);
            }
            let begins = wish == Wish::Begin;
            if begins && place.row.has_time_for(self.view, visit.task, self.now) {
                return Some(Way::InTime);
            }
            self.makes_way(visit, place.row).then_some(Way::Gone)
        };
        let lifted = |place: &Place<'a>| {
            Some((self.roster.position_of(place.node)?, place.clone(), way(place)?))
        };
        let lifted: Vec<_> = self.patience.places.iter().filter_map(lifted).collect();
        for (position, place, _) in &lifted {
            self.roster.release(*position, &place.held, self.now);
        }
        Lifted(lifted)
    }

    /// Puts them back. Where this plan has given something since, from `placed` and `kept` on,
    /// what leaves in time is awaited with the others, and what is more urgent has the place.
    pub(super) fn lay(&mut self, lifted: Lifted<'a>, (placed, kept): (usize, usize)) {
        if lifted.is_empty() {
            return;
        }
        let mut given: BTreeMap<NodeId, NodeUse> = BTreeMap::new();
        for placement in &self.placements[placed..] {
            let claim = self.claim_of(placement).unwrap_or_default();
            given.entry(placement.node).or_default().add(&claim);
        }
        for one in &self.reservations[kept..] {
            given.entry(one.placement.node).or_default();
        }
        for (position, place, way) in lifted.0 {
            let at = self.patience.places.iter().position(|one| std::ptr::eq(one.row, place.row));
            let (Some(at), Some(theirs)) = (at, given.get(&place.node)) else {
                self.roster.hold(position, &place.held, self.now);
                continue;
            };
            match way {
                Way::InTime => {
                    let held = place.held.beyond(theirs);
                    self.roster.hold(position, &held, self.now);
                    self.patience.places[at].held = held;
                }
                Way::Gone => drop(self.patience.places.swap_remove(at)),
            }
        }
    }

    /// Nothing has room for an instance. Whoever plans, also beside an entry of the log, tells when
    /// it has waited for long: then there has to be a plan that keeps places.
    pub(super) fn is_without_room(&mut self, visit: Visit<'a>, instance: u32) {
        let patient_at = visit.job.submitted_ms.after(PATIENCE);
        if self.now < patient_at {
            return self.wake(patient_at);
        }
        let patience = &self.patience;
        let is_known = |(known, _): &(Visit<'_>, u32)| {
            (known.key.job, known.key.task) == (visit.key.job, visit.key.task)
        };
        if !patience.keeps
            || visit.failures(instance) >= FAILURES_MAX
            || patience.waiting.len() >= WAITING_MAX
            || patience.waiting.iter().any(is_known)
        {
            return;
        }
        let visit = Visit { right: Right::Patience, ..visit };
        self.patience.waiting.push((visit, instance));
    }

    /// Keeps places for those who have waited for long, the first in the queue first. Where one
    /// finds none only because what begins in this plan cannot be awaited yet, nobody behind it has
    /// any: it would be passed again and again.
    pub(super) fn keep_patiently(&mut self) {
        let mut nodes: BTreeSet<NodeId> =
            self.patience.places.iter().map(|place| place.node).collect();
        for (visit, instance) in std::mem::take(&mut self.patience.waiting) {
            let is_gang = visit.task.gang.is_some();
            let more = visit.of_unit() as usize;
            let is_first = nodes.is_empty();
            let may_keep = is_first || nodes.len() + more <= self.roster.len() / NODES_PER_KEPT;
            if self.meter.exhausted || !may_keep || self.has_no_room(visit, visit.of_unit()) {
                continue;
            }
            let before = self.reservations.len();
            let kept = match is_gang {
                true => self.reserve_gang_by(visit),
                false => {
                    let (fit, policy) = (FitKey::of(visit.request()), visit.job.spec.policy);
                    self.reserve_by(visit, &SearchKey { fit, policy }, instance)
                }
            };
            nodes.extend(self.reservations[before..].iter().map(|one| one.placement.node));
            if kept {
                self.report.has_place_kept(visit.key.job, visit.key.task);
            } else if self.has_just_lost(visit) {
                return;
            }
        }
    }

    /// Whether it might have a place, once all that ends by itself has ended, on a node of which
    /// this plan has given something.
    fn has_just_lost(&self, visit: Visit<'a>) -> bool {
        let given: BTreeSet<usize> = self.handed.iter().map(|handed| handed.position).collect();
        given.into_iter().any(|position| {
            let host = self.roster.host(position);
            let mut used = host.row.used.clone();
            for id in &host.row.live {
                let owner = self.view.jobs().get(&id.job);
                let live = self.view.allocations().get(id);
                if let Some((owner, live)) = owner.zip(live)
                    && may_end(visit.asker(), owner, live, self.now).is_ok()
                {
                    used.remove(&live.claim);
                }
            }
            host.is_open
                && is_eligible(&host.row, visit.request()).is_ok()
                && has_room(&host.row, &used, self.now, visit.task).is_ok()
        })
    }
}
