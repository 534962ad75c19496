//! Where something is guaranteed a plan has two rounds: what namespaces are sure of comes before
//! what is lent. Nothing is lent that would have to be given back at once.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{JobId, JobKind, TaskIndex};
use berth_state::{QueueKey, Right};

use super::turns::Next;
use super::{Run, Tally, Visit};
use crate::report::Why;

/// Who has places in a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Round {
    /// Everything: nothing is guaranteed.
    Only,
    /// What namespaces are sure of, and daemons, which belong to their nodes.
    Sure,
    /// The rest.
    Lent,
}

/// What earlier visits came to for a task, so that the next leaves it alone.
#[derive(Default)]
pub(super) struct Done {
    pub instances: BTreeSet<u32>,
    pub placed: u32,
    pub why: Option<Why>,
    /// The first instance that was not looked at, or has to be once more.
    pub from: u32,
}

/// By task.
pub(super) type AllDone = BTreeMap<(JobId, TaskIndex), Done>;

impl<'a> Run<'_, 'a> {
    pub(super) fn rounds(&mut self, tasks: impl Iterator<Item = QueueKey>) {
        if !self.view.has_guarantees() {
            return self.pass(tasks);
        }
        let view = self.view;
        let is_daemon = |key: &QueueKey| {
            view.jobs().get(&key.job).is_some_and(|job| job.kind() == JobKind::Daemon)
        };
        let may_be_sure = |key: &QueueKey| {
            let job = view.jobs().get(&key.job);
            job.is_some_and(|job| view.guarantee(job.namespace()).is_some())
        };
        let tasks: Vec<QueueKey> = tasks.collect();
        self.round = Round::Sure;
        let first = tasks.iter().filter(|key| is_daemon(key) || may_be_sure(key));
        self.pass(first.copied());
        self.round = Round::Lent;
        self.pass(tasks.into_iter().filter(|key| !is_daemon(key)));
    }

    /// The visit as it asks for an instance, or for a gang; `None` if that is not for this round.
    pub(super) fn of_round(&mut self, visit: Visit<'a>, instance: u32) -> Option<Visit<'a>> {
        let right = match self.round {
            Round::Only => Right::Priority,
            Round::Sure | Round::Lent => {
                let (asked, own) = ((visit.task, visit.of_unit()), self.kept_for(visit, instance));
                self.rooms.right(self.view, &visit.job.spec, asked, own)
            }
        };
        let waits = self.waits_to_take.contains(visit.job.namespace());
        let is_for_it = !waits && (self.round != Round::Sure || right == Right::Guarantee);
        is_for_it.then_some(Visit { right, ..visit })
    }

    /// Something sure has no room. Where this plan may keep no places, as with each entry of the
    /// log, the next that may will take it back, if nothing of its namespace is placed before.
    pub(super) fn leave_to_later(&mut self, visit: Visit<'a>) {
        if visit.right == Right::Guarantee && self.meter.keeps_nothing() {
            self.meter.held_back = true;
            self.waits_to_take.insert(visit.job.namespace().clone());
        }
    }

    /// What earlier visits did for a task.
    pub(super) fn done_before(&mut self, visit: Visit<'a>) -> Done {
        let task = (visit.key.job, visit.key.task);
        self.done.remove(&task).unwrap_or_default()
    }

    /// Remembers what came of a visit, if the task is visited again.
    pub(super) fn settle(
        &mut self,
        visit: Visit<'a>,
        tally: &Tally,
        (instances, from): (BTreeSet<u32>, u32),
    ) {
        let is_over = self.round != Round::Sure && tally.next == Next::Done;
        if !is_over && from > 0 {
            let (placed, why) = (tally.placed, tally.why);
            let task = (visit.key.job, visit.key.task);
            self.done.insert(task, Done { instances, placed, why, from });
        }
    }
}
