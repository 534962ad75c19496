//! Quotas: what a namespace has no room for is passed over, and holds up nobody else.

use std::collections::BTreeSet;

use berth_model::{Claim, JobId};

use super::{Run, Tally, Visit};
use crate::report::Why;

impl<'a> Run<'_, 'a> {
    /// Whether the quota of its namespace leaves no room for one more instance.
    pub(super) fn is_over_quota(&mut self, visit: Visit<'a>) -> bool {
        self.has_no_room(visit, 1)
    }

    /// Gives a gang its places unless they would pass the quota of its namespace.
    pub(super) fn place_gang_in_quota(&mut self, visit: Visit<'a>) -> Tally {
        let left = visit.row.pending.len();
        let before = self.done_before(visit);
        if !before.instances.is_empty() {
            let (placed, why) = (before.placed, before.why);
            return Tally { placed, left: left - u64::from(placed), why, ..Tally::default() };
        }
        let nothing = Tally { left, ..Tally::default() };
        let Some(visit) = self.of_round(visit, visit.task.count) else { return nothing };
        let is_whole = left == u64::from(visit.task.count);
        // What is kept for it counts already.
        if is_whole
            && !visit.has_kept_places(self.view)
            && left > 0
            && self.has_no_room(visit, visit.task.count)
        {
            return Tally { why: Some(Why::Quota), ..nothing };
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

    pub(super) fn has_no_room(&mut self, visit: Visit<'a>, count: u32) -> bool {
        self.rooms.check(self.view, &visit.job.spec, (visit.task, count)).is_err()
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
