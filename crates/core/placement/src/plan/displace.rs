//! A plan does not give to what has waited long what something urgent would take from it at once:
//! age may put the less urgent first, and then it gives way before it has begun.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::outranks;
use berth_state::Right;
use berth_state::reservation::may_preempt;

use super::{Run, Visit};
use crate::filters::has_room;
use crate::victims::{Candidate, Lenders, cheapest};

impl<'a> Run<'_, 'a> {
    /// Takes back as few as possible of this plan's placements of what is less urgent, so that the
    /// instance has room on one of their nodes; false if that is not enough anywhere.
    ///
    /// Costs O(placements) for each instance that finds no room.
    pub(super) fn displace(&mut self, visit: Visit<'a>) -> bool {
        let priority = visit.job.spec.priority;
        if !outranks(priority, self.least_placed) || !may_preempt(&visit.job.spec) {
            return false;
        }
        let mut by_node: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, handed) in self.handed.iter().enumerate() {
            let owner = self.view.jobs().get(&self.placements[at].job);
            let is_own = owner.is_some_and(|owner| owner.namespace() == visit.job.namespace());
            // What a namespace is sure of gives way to its own alone.
            let gives_way = handed.right == Right::Priority || is_own;
            if gives_way && outranks(priority, handed.priority) {
                by_node.entry(handed.position).or_default().push(at);
            }
        }
        let mut best: Option<(u32, usize, BTreeSet<usize>)> = None;
        for (position, handed) in by_node {
            let host = self.roster.host(position);
            if !host.takes(visit.request()) {
                continue;
            }
            let claims = handed.iter().map(|at| self.claim_of(&self.placements[*at]));
            let Some(claims) = claims.collect::<Option<Vec<_>>>() else { continue };
            let candidate = |(at, claim): (&usize, _)| {
                Candidate::alone(self.placements[*at].allocation(), claim, 0)
            };
            let candidates: Vec<Candidate<'_>> =
                handed.iter().zip(&claims).map(candidate).collect();
            let fits = |used: &_| has_room(&host.row, used, self.now, visit.task).is_ok();
            let Some(set) = cheapest(host.used(), &candidates, &Lenders::new(), fits) else {
                continue;
            };
            let count = set.price.victims;
            if best.as_ref().is_none_or(|(fewest, ..)| count < *fewest) {
                let chosen = set.chosen.into_iter().map(|at| handed[at]).collect();
                best = Some((count, position, chosen));
            }
        }
        let Some((_, position, chosen)) = best else { return false };
        for at in chosen.iter().rev() {
            let placement = self.placements.remove(*at);
            self.handed.remove(*at);
            if let Some(claim) = self.claim_of(&placement) {
                self.roster.hand_back(position, &claim, self.now);
                self.count_back(placement.job, &claim);
            }
            self.meter.placed = self.meter.placed.saturating_sub(1);
        }
        // More may be free now than it takes, also for those that were passed over.
        self.dead.clear();
        self.hunts.clear();
        self.plans_again = true;
        true
    }
}
