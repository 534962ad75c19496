//! Gangs: all members are granted their places or none, and when one stops, ends or is given
//! up, the others follow. A world is over once one of its members has ended other than by
//! itself with success; nothing of the next begins before all of it has ended.

use std::collections::BTreeMap;

use berth_model::{
    AllocationId, GangSeat, JobId, JobKind, Misfit, NodeId, Outcome, StateMs, StopIntent,
    TaskIndex, TaskSpec,
};

use super::Step;
use super::ends::Next;
use super::let_go::Pace;
use crate::command::Placement;
use crate::event::EventKind;
use crate::refusal::Refusal;
use crate::rows::{AllocationRow, JobPhase, JobRow, Retry, TaskRow};
use crate::state::ClusterState;

impl JobRow {
    /// Whether the instances of a task of the current version are a gang.
    pub(crate) fn is_gang(&self, task: TaskIndex) -> bool {
        let spec = self.spec.tasks.get(usize::from(task.0));
        spec.is_some_and(|task| task.gang.is_some())
    }

    /// How many instances of a task the current version asks for.
    pub(crate) fn count_of(&self, task: TaskIndex) -> u32 {
        self.spec.tasks.get(usize::from(task.0)).map_or(0, |task| task.count)
    }

    /// Whether an orphan that is an instance of the task keeps it from being placed: of an
    /// exclusive job nothing runs twice, and of a gang no two worlds.
    pub fn waits_for_orphans(&self, task: TaskIndex) -> bool {
        self.spec.exclusive || self.is_gang(task)
    }
}

impl TaskRow {
    /// Whether a gang has failed for good, or was timed out: what is left of it only ends.
    fn is_given_up(&self) -> bool {
        !(self.failed.is_empty() && self.timed_out.is_empty() && self.cancelled.is_empty())
    }
}

impl ClusterState {
    /// Whether the instances of a task are placed as one.
    pub fn is_gang(&self, job: JobId, task: TaskIndex) -> bool {
        self.jobs.get(&job).is_some_and(|job| job.is_gang(task))
    }

    /// Whether the members of a gang that are to go on are all of one world, and none of them
    /// waits. Of a task that is none, and of a job that ends, nothing is asked.
    pub(crate) fn gang_is_whole(&self, job: &JobRow, task: TaskIndex) -> bool {
        let spec = job.spec.tasks.get(usize::from(task.0));
        let gang = spec.filter(|spec| spec.gang.is_some() && job.phase == JobPhase::Active);
        let (Some(spec), Some(row)) = (gang, self.tasks.get(&(job.id, task))) else { return true };
        let live = self.allocations_of_task(job.id, task);
        let mut goes_on = live.filter(|row| row.state.stop_intent().is_none()).peekable();
        let Some(Some(first)) = goes_on.peek().map(|row| row.seat.clone()) else {
            return goes_on.next().is_none();
        };
        let mut members = row.succeeded.len();
        for row in goes_on {
            let Some(seat) = &row.seat else { return false };
            let master = |seat: &GangSeat| (seat.master_address.clone(), seat.master_port);
            let is_at_home = seat.rank == row.id.instance.0 && seat.world_size == spec.count;
            if !is_at_home || master(seat) != master(&first) {
                return false;
            }
            members += 1;
        }
        members == u64::from(spec.count) && row.pending.is_empty()
    }
}

impl Step<'_> {
    /// The parts of a plan that count only together: those of a gang, else each by itself.
    pub(super) fn units<'p, T>(
        &self,
        parts: &'p [T],
        placement_of: impl Fn(&T) -> &Placement,
    ) -> Vec<(Unit, &'p [T])> {
        let task_of = |one: &T| (placement_of(one).job, placement_of(one).task);
        let of_gang = |(job, task)| self.state.is_gang(job, task);
        let together = |one: &T, next: &T| task_of(one) == task_of(next) && of_gang(task_of(one));
        let kind = |unit: &[T]| match unit.first() {
            Some(first) if of_gang(task_of(first)) => Unit::Gang,
            Some(_) | None => Unit::Single,
        };
        parts.chunk_by(together).map(|unit| (kind(unit), unit)).collect()
    }

    /// Grants all members their places. When one is refused nothing of it leaves a trace.
    pub(super) fn grant_gang(
        &mut self,
        members: &[Placement],
    ) -> Result<Vec<AllocationId>, Refusal> {
        let seats = self.seats(members)?;
        let before = self.state.clone();
        let (events, desired) = (self.events.len(), self.desired_changed.clone());
        let mut granted = Vec::with_capacity(members.len());
        for (placement, seat) in members.iter().zip(seats) {
            match self.grant(placement, Some(seat)) {
                Ok(id) => granted.push(id),
                Err(cause) => {
                    *self.state = before;
                    self.events.truncate(events);
                    self.desired_changed = desired;
                    return Err(Refusal::GangRefused {
                        job: placement.job,
                        cause: Box::new(cause),
                    });
                }
            }
        }
        Ok(granted)
    }

    /// The seats of the members, in their order, if they are the whole gang and all of it
    /// waits.
    pub(super) fn seats(&self, members: &[Placement]) -> Result<Vec<GangSeat>, Refusal> {
        let Some(Placement { job, task, .. }) = members.first() else { return Ok(Vec::new()) };
        let count = self.state.job_row(*job)?.count_of(*task);
        if self.state.has_orphan_of_task(*job, *task) {
            return Err(Refusal::GangOrphans { job: *job });
        }
        let row = self.state.tasks.get(&(*job, *task));
        let waiting = row.filter(|row| row.live == 0).map_or(0, |row| row.pending.len());
        let placed = members.len() as u64;
        let found = waiting.min(placed);
        if found != u64::from(count) || placed != found {
            return Err(Refusal::GangIncomplete { job: *job, members: count, found });
        }
        let mut by_rank: Vec<&Placement> = members.iter().collect();
        by_rank.sort_by_key(|placement| placement.instance);
        let (master_address, master_port) = self.master(by_rank[0])?;
        let mut nodes: BTreeMap<NodeId, (u32, u32)> = BTreeMap::new();
        let mut locals = BTreeMap::new();
        for placement in &by_rank {
            let next = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
            let (node_rank, members) = nodes.entry(placement.node).or_insert((next, 0));
            locals.insert(placement.instance, (*node_rank, *members));
            *members += 1;
        }
        let node_count = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        let seat = |placement: &Placement| {
            let (node_rank, local_rank) =
                locals.get(&placement.instance).copied().unwrap_or_default();
            GangSeat {
                rank: placement.instance.0,
                world_size: count,
                node_rank,
                node_count,
                local_rank,
                local_world_size: nodes.get(&placement.node).map_or(0, |(_, members)| *members),
                master_address: master_address.clone(),
                master_port,
            }
        };
        Ok(members.iter().map(seat).collect())
    }

    /// Where the members meet: on the node of the first of them, at the port that it claims.
    fn master(&self, first: &Placement) -> Result<(String, u16), Refusal> {
        let node = self.state.node_row(first.node)?;
        let mut ports = first.ports.iter().rev();
        let Some(port) = ports.find(|claim| claim.name.as_str() == TaskSpec::MASTER_PORT) else {
            let allocation = first.allocation();
            return Err(Refusal::DoesNotFit { allocation, misfit: Misfit::ClaimMismatch });
        };
        let host = node.spec.host().unwrap_or(node.name.as_str());
        Ok((host.to_owned(), port.port))
    }

    /// What the end of a member means for itself, where `next` is what it would mean by itself.
    pub(super) fn next_of_member(&self, job: &JobRow, row: &AllocationRow, next: Next) -> Next {
        let task = self.state.tasks.get(&(row.id.job, row.id.task));
        let Some(task) = task.filter(|_| job.phase == JobPhase::Active) else { return next };
        match next {
            // Another member of its world has ended otherwise: all of them run again.
            Next::Done(Outcome::Succeeded) if !task.pending.is_empty() => {
                Next::Again(Outcome::Cancelled)
            }
            Next::Again(_) | Next::Failed if task.is_given_up() => Next::Done(Outcome::Cancelled),
            Next::Forget(_) if task.is_given_up() && is_wanted(job, row) => {
                Next::Done(Outcome::Cancelled)
            }
            Next::Done(_) | Next::Again(_) | Next::Failed | Next::Forget(_) => next,
        }
    }

    /// A member was told to end: the others, which can do nothing without it, are told as well.
    pub(super) fn stop_with_gang(&mut self, row: &AllocationRow, intent: StopIntent, reason: &str) {
        let Some(job) = self.gang_at_work(row) else { return };
        // What is over for one is over for all; anything else begins again.
        let intent = match intent {
            StopIntent::Cancel | StopIntent::TimeOut if job.kind() == JobKind::Batch => intent,
            StopIntent::Preempt => intent,
            StopIntent::Cancel
            | StopIntent::TimeOut
            | StopIntent::Drain
            | StopIntent::Replace
            | StopIntent::Unhealthy => StopIntent::Replace,
        };
        let reason = format!("member {} of its gang is stopped: {reason}", row.id.instance.0);
        for other in self.others_of(row.id) {
            if other.state.stop_intent().is_none() {
                self.order_end(&other, intent, &reason, Pace::Orderly);
            }
        }
    }

    /// A member has ended, and `next` is what that means for it.
    pub(super) fn end_with_gang(&mut self, row: &AllocationRow, next: Next, reason: &str) {
        let Some(job) = self.gang_at_work(row) else { return };
        let id = row.id;
        let reason = format!("member {} of its gang has ended: {reason}", id.instance.0);
        match next {
            Next::Done(Outcome::Succeeded) => {}
            Next::Done(outcome) => self.give_gang_up(id, outcome, &reason),
            Next::Again(_) | Next::Forget(_) => self.begin_gang_again(id, &reason),
            Next::Failed => {
                let task = self.state.tasks.get(&(id.job, id.task));
                if task.is_some_and(|task| task.is_given_up()) {
                    return self.give_gang_up(id, Outcome::Failed, &reason);
                }
                self.count_failure_once(&job, id);
                // Theirs would be counted as well.
                for other in self.others_of(id) {
                    self.order_end(&other, StopIntent::Replace, &reason, Pace::AtOnce);
                }
                self.begin_gang_again(id, &reason);
            }
        }
    }

    /// All members wait again, those that live once they have ended.
    fn begin_gang_again(&mut self, id: AllocationId, reason: &str) {
        for other in self.others_of(id) {
            if other.state.stop_intent().is_none() {
                self.order_end(&other, StopIntent::Replace, reason, Pace::AtOnce);
            }
        }
        let task = self.state.tasks.get(&(id.job, id.task));
        let count = task.map_or(0, |task| task.succeeded.len());
        if count == 0 {
            return;
        }
        self.state.edit_task(id.job, id.task, |task| {
            let done = std::mem::take(&mut task.succeeded);
            for (start, end) in done.ranges() {
                task.pending.insert_range(start, end);
            }
        });
        self.emit_job(id.job, EventKind::InstancesQueued { count });
    }

    /// Nothing of it begins any more.
    fn give_gang_up(&mut self, id: AllocationId, outcome: Outcome, reason: &str) {
        let intent =
            if outcome == Outcome::TimedOut { StopIntent::TimeOut } else { StopIntent::Cancel };
        for other in self.others_of(id) {
            if other.state.stop_intent().is_none_or(|known| known != StopIntent::TimeOut) {
                self.order_end(&other, intent, reason, Pace::AtOnce);
            }
        }
        self.state.edit_task(id.job, id.task, |task| {
            let waiting = std::mem::take(&mut task.pending);
            for (start, end) in waiting.ranges() {
                task.cancelled.insert_range(start, end);
            }
        });
    }

    /// The failure of a member is its gang's: all count it, and wait out the same backoff.
    fn count_failure_once(&mut self, job: &JobRow, id: AllocationId) {
        let count = job.count_of(id.task);
        self.state.edit_task(id.job, id.task, |task| {
            let Some(known) = task.retries.get(&id.instance.0).copied() else { return };
            for instance in 0..count {
                let attempt = task.attempt_counted(instance);
                task.retries.insert(instance, Retry { attempt, ..known });
            }
        });
    }

    /// Until when a member that waits again is held back.
    pub(super) fn gang_held_back(&self, id: AllocationId) -> StateMs {
        let task = self.state.tasks.get(&(id.job, id.task)).filter(|_| self.is_of_gang(id));
        let retry = task.and_then(|task| task.retries.get(&id.instance.0));
        retry.map_or(StateMs(0), |retry| retry.not_before)
    }

    pub(super) fn is_of_gang(&self, id: AllocationId) -> bool {
        self.state.is_gang(id.job, id.task)
    }

    /// The job of a member whose others have to follow it.
    fn gang_at_work(&self, row: &AllocationRow) -> Option<std::sync::Arc<JobRow>> {
        let job = self.state.jobs.get(&row.id.job)?;
        (job.phase == JobPhase::Active && job.is_gang(row.id.task)).then(|| job.clone())
    }

    fn others_of(&self, id: AllocationId) -> Vec<std::sync::Arc<AllocationRow>> {
        let live = self.state.allocations_of_task(id.job, id.task);
        live.filter(|row| row.id != id).cloned().collect()
    }
}

/// What is granted at once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Single,
    Gang,
}

fn is_wanted(job: &JobRow, row: &AllocationRow) -> bool {
    let task = job.spec.tasks.get(usize::from(row.id.task.0));
    task.is_some_and(|task| row.id.instance.0 < task.count)
}
