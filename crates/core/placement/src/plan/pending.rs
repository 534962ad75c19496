//! The waiting instances of a task, one after the other, until one has no place: then none behind
//! it has.

use std::collections::BTreeSet;

use super::patience::Way;
use super::rounds::Done;
use super::turns::Next;
use super::{Run, Tally, Visit};
use crate::report::Why;
use crate::search::{FitKey, SearchKey};

/// What became of an instance.
enum Fate {
    Placed,
    /// It has a place until others have ended there.
    Kept,
    /// Those behind it may have places.
    PassedOver(Why),
    /// Nor has any behind it.
    Ends(Option<Why>),
}

impl<'a> Run<'_, 'a> {
    pub(super) fn place_pending(&mut self, visit: Visit<'a>) -> Tally {
        let policy = visit.job.spec.policy;
        let key = SearchKey { fit: FitKey::of(visit.request()), policy };
        let kept: BTreeSet<u32> = self
            .view
            .reservations_of(visit.key.job, visit.key.task)
            .map(|(id, _)| id.instance.0)
            .collect();
        let Done { instances: mut seen, placed, why, mut from } = self.done_before(visit);
        // Those for which a place is kept count already.
        let given = kept.union(&seen).count();
        let taken = visit.row.live.saturating_add(u32::try_from(given).unwrap_or(u32::MAX));
        let mut parallel_left = visit.task.parallel_max().saturating_sub(taken);
        let mut tally = Tally { placed, left: 0, why, next: Next::Done };
        let (earlier, first) = (seen.len(), from);
        for instance in visit.row.pending.iter().filter(|instance| *instance >= first) {
            from = instance;
            if seen.len() - earlier >= self.turn_instances {
                tally.next = Next::More;
                break;
            }
            let Some(visit) = self.of_round(visit, instance) else { break };
            let is_kept = kept.contains(&instance);
            if parallel_left == 0 && !is_kept {
                tally.why = Some(Why::ParallelLimit);
                break;
            }
            let mut goes_on = true;
            match self.place_instance(visit, &key, (instance, is_kept)) {
                Fate::Placed => tally.placed += 1,
                Fate::Kept => {
                    tally.why = Some(Why::Reserved);
                    goes_on = self.meter.spend();
                }
                Fate::PassedOver(why) => {
                    tally.why = Some(why);
                    from = instance.saturating_add(1);
                    continue;
                }
                Fate::Ends(why) => {
                    tally.why = why.or(tally.why);
                    break;
                }
            }
            seen.insert(instance);
            from = instance.saturating_add(1);
            // One for which a place is kept is counted already.
            parallel_left -= u32::from(!is_kept);
            if !goes_on {
                break;
            }
        }
        if self.meter.exhausted {
            tally.why = Some(Why::Budget);
        }
        tally.left = visit.row.pending.len() - u64::from(tally.placed);
        self.settle(visit, &tally, (seen, from));
        tally
    }

    /// What becomes of one that waits.
    fn place_instance(
        &mut self,
        visit: Visit<'a>,
        key: &SearchKey,
        (instance, is_kept): (u32, bool),
    ) -> Fate {
        if let Some(at) = visit.waits_until(instance, self.now) {
            self.wake(at);
            let may_go_on = self.meter.spend();
            let why = Why::Backoff;
            return if may_go_on { Fate::PassedOver(why) } else { Fate::Ends(Some(why)) };
        }
        if visit.would_be_twice(self.view, instance) {
            return Fate::PassedOver(Why::Orphan);
        }
        if !self.meter.may_place() {
            return Fate::Ends(None);
        }
        if self.has_no_room(visit, instance) {
            return Fate::Ends(Some(if is_kept { Why::Reserved } else { Why::Quota }));
        }
        let fits = !self.dead.contains(&key.fit) && self.place_one(visit, key, instance);
        if fits || (self.displace(visit) && self.place_one(visit, key, instance)) {
            self.plans_again |= is_kept;
            return Fate::Placed;
        }
        let before = (self.placements.len(), self.reservations.len());
        let lifted = self.lift(visit, instance, Way::InTime);
        let begins = !lifted.is_empty() && self.place_one(visit, key, instance);
        self.lay(lifted, before);
        if begins {
            self.plans_again |= is_kept;
            return Fate::Placed;
        }
        let lifted = self.lift(visit, instance, Way::Gone);
        let fate = if !lifted.is_empty() && self.place_one(visit, key, instance) {
            self.plans_again |= is_kept;
            Fate::Placed
        } else if self.is_kept_for_good(visit, instance)
            || self.reserve(visit, key, instance)
            || is_kept
        {
            Fate::Kept
        } else {
            self.leave_to_later(visit);
            self.is_without_room(visit, instance);
            Fate::Ends(Some(Why::NoNode))
        };
        self.lay(lifted, before);
        fate
    }
}
