//! What has waited for long and finds no room has a place kept where others end by themselves:
//! else it waits for as long as smaller work takes whatever becomes free before enough of it has.
//! The places of what is less urgent make way, as it would if it ran.

use std::collections::BTreeSet;

use berth_model::{AllocationId, NodeId, PATIENCE};
use berth_state::reservation::gives_way;
use berth_state::{ClusterState, ReservationRow, Right};

use super::{FAILURES_MAX, Run, Visit};
use crate::search::{FitKey, SearchKey};

/// Places are kept patiently on one node of so many, or one place, whatever it takes: what is
/// free of them is nobody's meanwhile.
const NODES_PER_KEPT: usize = 16;
/// So many are remembered of a plan that might have places kept; hardly more than one has.
const WAITING_MAX: usize = 16;

/// The patient places that there are, and who might come to have one.
#[derive(Default)]
pub(super) struct Patience<'a> {
    rows: Vec<(NodeId, &'a ReservationRow)>,
    /// Whether this plan keeps more of them.
    pub keeps: bool,
    /// Without room, in the order of the plan, with an instance of each.
    waiting: Vec<(Visit<'a>, u32)>,
}

/// Places that have made way for one visit, by the position of their node.
pub(super) type Lifted<'a> = Vec<(usize, &'a ReservationRow)>;

impl<'a> Patience<'a> {
    pub fn of(view: &'a ClusterState) -> Patience<'a> {
        let rows = view.reservations().filter(|(.., row)| row.patient);
        let rows = rows.filter(|(id, _, row)| row.members.keys().next() == Some(id));
        Patience { rows: rows.map(|(_, node, row)| (node, row)).collect(), ..Patience::default() }
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

    /// Takes the places away that make way for an instance, or for a gang.
    pub(super) fn lift(&mut self, visit: Visit<'a>, instance: u32) -> Lifted<'a> {
        let own = visit.allocation(self.view, instance);
        let rows = self.patience.rows.iter();
        let rows =
            rows.filter(|(_, row)| row.members.contains_key(&own) || self.makes_way(visit, row));
        let at = |node: &NodeId| self.roster.position_of(*node);
        let lifted: Lifted<'a> = rows.filter_map(|(node, row)| Some((at(node)?, *row))).collect();
        for (position, row) in &lifted {
            self.roster.release(*position, &row.held, self.now);
        }
        lifted
    }

    /// Puts them back, except on nodes of which this plan has given something since: from
    /// `placed` and `kept` on.
    pub(super) fn lay(&mut self, lifted: Lifted<'a>, (placed, kept): (usize, usize)) {
        let placements = self.placements[placed..].iter();
        let reservations = self.reservations[kept..].iter().map(|one| &one.placement);
        let given: BTreeSet<NodeId> =
            placements.chain(reservations).map(|placement| placement.node).collect();
        for (position, row) in lifted {
            let node = self.roster.host(position).row.id;
            match given.contains(&node) {
                true => self.patience.rows.retain(|(at, _)| *at != node),
                false => self.roster.hold(position, &row.held, self.now),
            }
        }
    }

    /// Nothing has room for an instance.
    pub(super) fn is_without_room(&mut self, visit: Visit<'a>, instance: u32) {
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
        let patient_at = visit.job.submitted_ms.after(PATIENCE);
        match self.now < patient_at {
            true => self.wake(patient_at),
            false => {
                let visit = Visit { right: Right::Patience, ..visit };
                self.patience.waiting.push((visit, instance));
            }
        }
    }

    /// Keeps places for those who have waited for long, the first in the queue first.
    pub(super) fn keep_patiently(&mut self) {
        let mut nodes: BTreeSet<NodeId> =
            self.patience.rows.iter().map(|(node, _)| *node).collect();
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
            }
        }
    }
}
