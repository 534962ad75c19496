//! Quotas: what a namespace has no room for is passed over, and holds up nobody else.

use std::collections::BTreeSet;

use berth_model::{AllocationId, Claim, JobId};

use super::{Run, Tally, Visit};
use crate::report::Why;

impl<'a> Run<'_, 'a> {
    /// Gives a gang its places unless they would pass the quota of its namespace.
    pub(super) fn place_gang_in_quota(&mut self, visit: Visit<'a>) -> Tally {
        let left = visit.row.pending.len();
        let before = self.done_before(visit);
        if !before.instances.is_empty() {
            let (placed, why) = (before.placed, before.why);
            return Tally { placed, left: left - u64::from(placed), why, ..Tally::default() };
        }
        let nothing = Tally { left, ..Tally::default() };
        let Some(visit) = self.of_round(visit, 0) else { return nothing };
        let is_whole = left == u64::from(visit.task.count);
        if is_whole && left > 0 && self.has_no_room(visit, 0) {
            let is_kept = visit.has_kept_places(self.view);
            let why = Some(if is_kept { Why::Reserved } else { Why::Quota });
            return Tally { why, ..nothing };
        }
        let tally = self.place_gang(visit);
        if tally.why == Some(Why::NoNode) {
            self.leave_to_later(visit);
        }
        let is_done = tally.left == 0 || tally.why == Some(Why::Reserved);
        let instances: BTreeSet<u32> = (0..visit.task.count).filter(|_| is_done).collect();
        let from = if is_done { visit.task.count } else { 0 };
        self.settle(visit, &tally, (instances, from));
        tally
    }

    /// Whether the quota of its namespace leaves no room for an instance, or for all of a gang,
    /// beside what others have and are kept.
    pub(super) fn has_no_room(&mut self, visit: Visit<'a>, instance: u32) -> bool {
        let (asked, own) = ((visit.task, visit.of_unit()), self.kept_for(visit, instance));
        self.rooms.check(self.view, &visit.job.spec, asked, own).is_err()
    }

    /// The attempt, if a place is kept for it.
    pub(super) fn kept_for(&self, visit: Visit<'a>, instance: u32) -> Option<AllocationId> {
        let id = visit.allocation(self.view, instance);
        self.view.is_reserved(id.job, id.task, id.instance).then_some(id)
    }

    /// Counts what this plan hands out.
    pub(super) fn count_handed(&mut self, job: JobId, claim: &Claim) {
        if let Some(job) = self.view.jobs().get(&job) {
            self.rooms.take(self.view, &job.spec, claim.amounts());
            let shares = self.shares.iter_mut();
            shares.for_each(|shares| shares.take(job.namespace(), claim.amounts()));
        }
    }

    /// And what it takes back.
    pub(super) fn count_back(&mut self, job: JobId, claim: &Claim) {
        if let Some(job) = self.view.jobs().get(&job) {
            self.rooms.give_back(&job.spec, claim.amounts());
            let shares = self.shares.iter_mut();
            shares.for_each(|shares| shares.give_back(job.namespace(), claim.amounts()));
        }
    }
}
