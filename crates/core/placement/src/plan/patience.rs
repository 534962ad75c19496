//! What has waited for long and finds no room has a place kept where others end by themselves:
//! else it waits for as long as smaller work takes whatever becomes free before enough of it has.
//! The places of what is less urgent make way, as it would if it ran.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{AllocationId, NodeId, NodeUse, PATIENCE, fits};
use berth_state::reservation::{gives_way, may_end};
use berth_state::{ClusterState, ReservationRow, Right};

use super::{FAILURES_MAX, HuntKey, Run, Visit};
use crate::filters::has_room;
use crate::search::{FitKey, SearchKey};

/// Places are kept patiently on one node of so many, or one place, whatever it takes: what is
/// free of them is nobody's meanwhile.
const NODES_PER_KEPT: usize = 16;

/// The patient places that there are, and who might come to have one.
#[derive(Default)]
pub(super) struct Patience<'a> {
    places: Vec<Place<'a>>,
    /// Whether this plan keeps more of them.
    pub keeps: bool,
    /// Without room, in the order of the plan, with an instance of each; of equal requests the
    /// first.
    waiting: Vec<(Visit<'a>, u32)>,
    known: BTreeSet<HuntKey>,
    /// Whom places are out of the way of, while some are.
    own: Option<AllocationId>,
    /// What this plan has placed has the place of another. No more places are kept then: they
    /// would be asked for first, while that one is still there.
    pub made_way: bool,
}

/// What is kept on one node.
#[derive(Clone)]
struct Place<'a> {
    node: NodeId,
    row: &'a ReservationRow,
    /// Of its claims, what nobody else has.
    held: NodeUse,
}

/// Why a place is out of the way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// What the visit takes of it is free again in time.
    InTime,
    /// It is the visit's own, or makes way for it.
    Gone,
}

/// Places that are out of the way of one visit, by the position of their node.
pub(super) struct Lifted<'a> {
    visit: Visit<'a>,
    way: Way,
    places: Vec<(usize, Place<'a>)>,
}

impl Lifted<'_> {
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

impl<'a> Patience<'a> {
    pub fn of(view: &'a ClusterState) -> Patience<'a> {
        let nodes: BTreeSet<NodeId> = view.reservations().map(|(_, node, _)| node).collect();
        let rows = nodes.into_iter().filter_map(|node| view.nodes().get(&node));
        let rows = rows.flat_map(|node| node.reservations.iter().map(|row| (node.id, row)));
        let place = |(node, row): (NodeId, &'a ReservationRow)| {
            row.patient.then(|| Place { node, row, held: row.held.clone() })
        };
        Patience { places: rows.filter_map(place).collect(), ..Patience::default() }
    }
}

impl<'a> Run<'_, 'a> {
    /// Whether a place that is kept makes way for what is being visited.
    pub(super) fn makes_way(&self, visit: Visit<'a>, row: &ReservationRow) -> bool {
        let gives_way = |id: &AllocationId| {
            let owner = self.view.jobs().get(&id.job);
            owner.is_some_and(|owner| gives_way(visit.asker(), owner))
        };
        row.patient && (self.is_own(row) || row.members.keys().next().is_some_and(gives_way))
    }

    /// Whether others have been asked to end for the place that is kept for it. One that is only
    /// waited for may be had elsewhere sooner.
    pub(super) fn is_kept_for_good(&self, visit: Visit<'a>, instance: u32) -> bool {
        let id = visit.allocation(self.view, instance);
        self.view.is_reserved(id.job, id.task, id.instance) && !self.view.is_reserved_patiently(id)
    }

    /// Takes places out of the way of an instance, or of a gang: those that it leaves in time, or
    /// those that make way for it, its own among them. Apply asks in this order too.
    pub(super) fn lift(&mut self, visit: Visit<'a>, instance: u32, way: Way) -> Lifted<'a> {
        if self.patience.places.is_empty() {
            return Lifted { visit, way, places: Vec::new() };
        }
        self.patience.own = Some(visit.allocation(self.view, instance));
        let mut nodes = BTreeSet::new();
        let mut places = Vec::new();
        for place in &self.patience.places {
            let is_lifted = match way {
                // Of each node the first.
                Way::InTime => {
                    !self.is_own(place.row)
                        && place.row.has_time_for(self.view, visit.task, self.now)
                        && nodes.insert(place.node)
                }
                Way::Gone => self.makes_way(visit, place.row),
            };
            let position = self.roster.position_of(place.node).filter(|_| is_lifted);
            places.extend(position.map(|position| (position, place.clone())));
        }
        if !places.is_empty() && !self.meter.spend_all(places.len() as u64) {
            places.clear();
        }
        for (position, place) in &places {
            let part = match way {
                // Ports are not shared out anew.
                Way::InTime => place.held.without_ports(),
                Way::Gone => place.held.clone(),
            };
            self.roster.release(*position, &part, self.now);
        }
        Lifted { visit, way, places }
    }

    /// Puts them back. Where this plan has given something since, from `placed` and `kept` on,
    /// what leaves in time is awaited with the others, and what has no room beside them has their
    /// places.
    pub(super) fn lay(&mut self, lifted: Lifted<'a>, (placed, kept): (usize, usize)) {
        let mut given: BTreeMap<NodeId, NodeUse> = BTreeMap::new();
        for placement in &self.placements[placed..] {
            let claim = self.claim_of(placement).unwrap_or_default();
            given.entry(placement.node).or_default().add(&claim);
        }
        let reserved = self.reservations[kept..].iter().map(|one| one.placement.node);
        let reserved: BTreeSet<NodeId> = reserved.collect();
        let gone = |(position, place): &(usize, Place<'a>)| {
            let is_needed = reserved.contains(&place.node)
                || !self.fits_beside(*position, &lifted, placed)
                || (!given.is_empty() && self.is_own(place.row));
            lifted.way == Way::Gone && is_needed
        };
        let gone: Vec<bool> = lifted.places.iter().map(gone).collect();
        self.patience.made_way |= !given.is_empty() && gone.contains(&true);
        self.plans_again |= self.patience.made_way;
        for ((position, place), is_gone) in lifted.places.into_iter().zip(gone) {
            let places = &mut self.patience.places;
            let at = places.iter().position(|one| std::ptr::eq(one.row, place.row));
            let theirs = given.get(&place.node);
            if theirs.is_some() {
                // Nobody else may have its place, for whom this one makes no way.
                let handed = self.handed[placed..].iter_mut();
                handed.for_each(|handed| handed.priority = u8::MAX);
            }
            match (at, theirs) {
                (Some(at), _) if is_gone => drop(places.remove(at)),
                (Some(at), Some(theirs)) if lifted.way == Way::InTime => {
                    places[at].held = place.held.beyond(theirs);
                    self.roster.hold(position, &places[at].held, self.now);
                }
                _ => self.roster.hold(position, &place.held, self.now),
            }
        }
        self.patience.own = None;
    }

    /// Whether all that was given on a node, from `placed` on, has room beside the places that were
    /// lifted there. Its own goes with the first of it.
    fn fits_beside(&self, position: usize, lifted: &Lifted<'a>, placed: usize) -> bool {
        let host = self.roster.host(position);
        let given = self.placements[placed..].iter().enumerate();
        let given = given.filter(|(_, one)| one.node == host.row.id);
        let given: Vec<_> =
            given.filter_map(|(at, one)| Some((at, one, self.claim_of(one)?))).collect();
        let mut used = host.used().clone();
        given.iter().for_each(|(.., claim)| used.remove(claim));
        let here = lifted.places.iter().filter(|(at, _)| *at == position);
        let (own, others): (Vec<_>, Vec<_>) = here.partition(|(_, place)| self.is_own(place.row));
        others.iter().for_each(|(_, place)| used.add_held(&place.held));
        given.iter().all(|(at, placement, claim)| {
            let mut beside = used.clone();
            own.iter().filter(|_| *at == 0).for_each(|(_, place)| beside.add_held(&place.held));
            used.add(claim);
            let task = lifted.visit.task.of_instance(placement.instance);
            fits(host.row.capacity(&beside), &task, claim).is_ok()
        })
    }

    fn is_own(&self, row: &ReservationRow) -> bool {
        let own = self.patience.own.map(|own| self.view.unit_of(own));
        row.members.keys().next().is_some_and(|id| Some(self.view.unit_of(*id)) == own)
    }

    /// Nothing has room for an instance. Whoever plans, also beside an entry of the log, tells when
    /// it has waited for long: then there has to be a plan that keeps places.
    pub(super) fn is_without_room(&mut self, visit: Visit<'a>, instance: u32) {
        let patient_at = visit.job.submitted_ms.after(PATIENCE);
        if self.now < patient_at {
            return self.wake(patient_at);
        }
        if !self.patience.keeps || visit.failures(instance) >= FAILURES_MAX {
            return;
        }
        let visit = Visit { right: Right::Patience, ..visit };
        let key = self.hunt_key(visit, FitKey::of(visit.request()), visit.of_unit());
        if self.patience.known.insert(key) {
            self.patience.waiting.push((visit, instance));
        }
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
            if self.meter.exhausted || !may_keep || self.has_no_room(visit, instance) {
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
            host.takes(visit.request().later())
                && has_room(&host.row, &used, self.now, visit.task).is_ok()
        })
    }
}
