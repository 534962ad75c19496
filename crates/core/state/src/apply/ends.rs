//! What the end of an allocation means: its instance is done, waits again, or
//! waits for its backoff.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use berth_model::{
    AllocationId, AllocationState, DurationMs, EndCause, EndReport, JobKind, JobState, Outcome,
    StateMs, StopIntent, TaskSpec,
};

use super::let_go::Pace;
use super::{Step, bounded};
use crate::event::EventKind;
use crate::rows::{
    AllocationRow, FAILURES_MAX, FailureDetail, JobPhase, JobRow, NODE_REST_MS, PORT_BLOCK_MS,
    REASON_BYTES_MAX, Retry, STDERR_TAIL_BYTES_MAX,
};
use crate::table::StableHasher;

/// How an allocation came to its end.
pub(super) enum End<'a> {
    Reported(&'a EndReport),
    /// Its node is silent and it was given up.
    Lost(&'a str),
}

/// What becomes of the instance.
#[derive(Clone, Copy)]
pub(super) enum Next {
    /// It has ended with this outcome.
    Done(Outcome),
    /// It waits for a place again; nothing is held against it.
    Again(Outcome),
    /// The attempt failed and counts.
    Failed,
    /// It belongs to nothing any more.
    Forget(Outcome),
}

impl Step<'_> {
    /// Orders an allocation to end. A later order may only change the intent.
    pub(super) fn stop_allocation(&mut self, id: AllocationId, intent: StopIntent, reason: &str) {
        let Some(row) = self.state.allocations.get(&id).cloned() else { return };
        self.order_end(&row, intent, reason, Pace::Orderly);
        if row.state.stop_intent().is_none() {
            self.stop_with_gang(&row, intent, reason);
        }
    }

    /// The order for one alone, whatever it is a part of.
    pub(super) fn order_end(
        &mut self,
        row: &AllocationRow,
        intent: StopIntent,
        reason: &str,
        pace: Pace,
    ) {
        let id = row.id;
        let next = match row.state {
            AllocationState::Unkillable(_) => AllocationState::Unkillable(intent),
            AllocationState::Planned
            | AllocationState::Starting(_)
            | AllocationState::Running { .. }
            | AllocationState::Stopping(_) => AllocationState::Stopping(intent),
        };
        let draining = self.draining(row, intent, pace);
        if next == row.state && draining == row.draining {
            return;
        }
        let reason = bounded(reason, REASON_BYTES_MAX);
        self.state.edit_allocation(id, |row| {
            row.state = next;
            row.reason = reason.clone();
            row.draining = draining;
        });
        if row.state.stop_intent().is_none() {
            self.bump_generation(row.node);
            let reason = match draining {
                Some(draining) => {
                    let span = draining.by.since(self.now).0 / 1_000;
                    let told = format!("{reason}; its callers have up to {span} s");
                    bounded(&told, REASON_BYTES_MAX)
                }
                None => reason,
            };
            self.emit_allocation(id, row.node, EventKind::AllocationStopping { reason });
        }
    }

    /// Ends an allocation: frees what it held and decides about its instance.
    pub(super) fn end_allocation(&mut self, id: AllocationId, end: &End<'_>) {
        let Some(row) = self.state.remove_allocation(id) else { return };
        self.state.nodes.edit(&row.node, |node| {
            node.used.remove(&row.claim);
            node.live.remove(&id);
        });
        self.bump_generation(row.node);
        let node = row.node;
        self.record_end(&row, end);
        self.awaited_ended(node, id);
    }

    /// What the end means for its job.
    fn record_end(&mut self, row: &Arc<AllocationRow>, end: &End<'_>) {
        let id = row.id;
        let Some(job) = self.state.jobs.get(&id.job).cloned() else { return };
        let task = job.spec.tasks.get(usize::from(id.task.0)).cloned();
        let is_member = task.as_ref().is_some_and(|task| task.gang.is_some());
        let next = match next_for(&job, task.as_ref(), row, end) {
            next if is_member => self.next_of_member(&job, row, next),
            next => next,
        };
        self.block_port(row, end);
        self.rest_node(row, end);
        self.state.edit_job(id.job, |job| {
            job.live = job.live.saturating_sub(1);
            if let End::Reported(report) = end
                && job.started_at.is_none()
            {
                job.started_at = report.started_at;
            }
        });
        self.state.edit_task(id.job, id.task, |task| task.live = task.live.saturating_sub(1));
        let outcome = self.record(&job, task.as_ref(), row, end, next);
        let reason = reason_of(row, end);
        if is_member {
            self.end_with_gang(row, next, &reason);
        }
        let report = match end {
            // The end of its standard error is kept with the task's failures;
            // events and histories would hold a hundred thousand of them.
            End::Reported(report) => {
                Some(EndReport { stderr_tail: String::new(), ..(*report).clone() })
            }
            End::Lost(_) => None,
        };
        let kind = EventKind::AllocationEnded {
            outcome,
            reason: reason.clone(),
            row: row.clone(),
            report,
        };
        self.emit_allocation(id, row.node, kind);
        if matches!(next, Next::Failed) {
            self.note_failed(row, &reason);
        }
        self.settle_job(id.job, job.state());
    }

    /// Writes the instance's fate into its task and returns the outcome shown.
    fn record(
        &mut self,
        job: &JobRow,
        task: Option<&TaskSpec>,
        row: &AllocationRow,
        end: &End<'_>,
        next: Next,
    ) -> Outcome {
        let id = row.id;
        match next {
            Next::Done(outcome) => {
                if outcome == Outcome::Failed || outcome == Outcome::TimedOut {
                    self.record_failure(row, end);
                }
                self.finish_instance(job.kind(), id, outcome);
                outcome
            }
            Next::Forget(outcome) => {
                self.remember_attempt(id, 0, StateMs(0));
                outcome
            }
            Next::Again(outcome) => {
                let failures = self.failures_of(id);
                self.wait_again(job.kind(), id, failures, self.gang_held_back(id));
                outcome
            }
            Next::Failed => {
                self.record_failure(row, end);
                let policy = task.map(|task| task.restart);
                let settled = row.running_since.is_some_and(|since| {
                    policy.is_some_and(|policy| self.now.since(since) >= policy.backoff_max)
                });
                let failures = if settled { 1 } else { self.failures_of(id).saturating_add(1) };
                let again = policy
                    .filter(|policy| policy.attempts.is_none_or(|allowed| failures <= allowed));
                match again {
                    Some(policy) => {
                        let wait = jittered(policy.backoff_after(failures), id);
                        self.wait_again(job.kind(), id, failures, self.now.after(wait));
                        let kind = EventKind::RetryScheduled { wait_ms: wait.0 };
                        self.emit_allocation(id, row.node, kind);
                    }
                    None => self.finish_instance(job.kind(), id, Outcome::Failed),
                }
                Outcome::Failed
            }
        }
    }

    fn failures_of(&self, id: AllocationId) -> u32 {
        let task = self.state.tasks.get(&(id.job, id.task));
        task.map_or(0, |task| task.failures_of(id.instance.0))
    }

    /// Where an instance may come again, the attempts made must outlive it: its
    /// next allocation needs an id that was never used.
    pub(super) fn finish_instance(&mut self, kind: JobKind, id: AllocationId, outcome: Outcome) {
        let may_come_again = kind.is_named() || self.is_of_gang(id);
        self.state.edit_task(id.job, id.task, |task| {
            task.ended_mut(outcome).insert(id.instance.0);
            if !may_come_again {
                task.retries.remove(&id.instance.0);
            }
        });
        if may_come_again {
            self.remember_attempt(id, 0, StateMs(0));
        }
    }

    fn remember_attempt(&mut self, id: AllocationId, failures: u32, not_before: StateMs) {
        // One that was given up and is back is not the last that was begun.
        let task = self.state.tasks.get(&(id.job, id.task));
        let counted = task.map_or(id.attempt, |task| task.attempt_counted(id.instance.0));
        let attempt = counted.max(id.attempt.next());
        let retry = Retry { attempt, failures, not_before };
        self.state.edit_task(id.job, id.task, |task| {
            task.retries.insert(id.instance.0, retry);
        });
    }

    fn wait_again(&mut self, kind: JobKind, id: AllocationId, failures: u32, not_before: StateMs) {
        self.remember_attempt(id, failures, not_before);
        match kind {
            // A daemon's instances belong to nodes: the planner looks for
            // nodes without one.
            JobKind::Daemon => {}
            JobKind::Batch | JobKind::Service => self.state.edit_task(id.job, id.task, |task| {
                task.pending.insert(id.instance.0);
            }),
        }
        self.emit_job(id.job, EventKind::InstancesQueued { count: 1 });
    }

    fn record_failure(&mut self, row: &AllocationRow, end: &End<'_>) {
        let report = match end {
            End::Reported(report) => Some(*report),
            End::Lost(_) => None,
        };
        let detail = FailureDetail {
            allocation: row.id,
            node: row.node,
            reason: reason_of(row, end),
            exit_code: report.and_then(|report| report.exit_code),
            signal: report.and_then(|report| report.signal),
            stderr_tail: report
                .map(|report| bounded(&report.stderr_tail, STDERR_TAIL_BYTES_MAX))
                .unwrap_or_default(),
            finished_at: report.map_or(self.wall, |report| report.finished_at),
        };
        self.state.edit_task(row.id.job, row.id.task, |task| {
            if task.failures.len() >= FAILURES_MAX {
                task.failures.pop_front();
            }
            task.failures.push_back(detail);
        });
    }

    /// Else the node, being the emptiest, would draw in and fail everything.
    fn rest_node(&mut self, row: &AllocationRow, end: &End<'_>) {
        let End::Reported(report) = end else { return };
        if report.cause == EndCause::HostFault {
            let until = self.now.after(DurationMs(NODE_REST_MS));
            self.state.nodes.edit(&row.node, |node| node.rests_until = until);
        }
    }

    fn block_port(&mut self, row: &AllocationRow, end: &End<'_>) {
        let End::Reported(report) = end else { return };
        if report.cause != EndCause::PortTaken {
            return;
        }
        let (now, until) = (self.now, self.now.after(DurationMs(PORT_BLOCK_MS)));
        self.state.nodes.edit(&row.node, |node| {
            node.blocked_ports.retain(|_, until| *until > now);
            node.blocked_ports.extend(row.claim.ports.iter().map(|claim| (claim.port, until)));
        });
    }
}

fn next_for(job: &JobRow, task: Option<&TaskSpec>, row: &AllocationRow, end: &End<'_>) -> Next {
    let batch = job.kind() == JobKind::Batch;
    let finished_by_itself = match end {
        End::Reported(report) => report.cause == EndCause::Exited && report.exit_code == Some(0),
        End::Lost(_) => false,
    };
    if batch && finished_by_itself {
        return Next::Done(Outcome::Succeeded);
    }
    if let JobPhase::Ending(state) = job.phase {
        let outcome =
            if state == JobState::TimedOut { Outcome::TimedOut } else { Outcome::Cancelled };
        return Next::Done(outcome);
    }
    let wanted = task.is_some_and(|task| match job.kind() {
        JobKind::Service => row.id.instance.0 < task.count,
        JobKind::Batch | JobKind::Daemon => true,
    });
    match row.state.stop_intent() {
        _ if !wanted => Next::Forget(Outcome::Cancelled),
        Some(StopIntent::Cancel) if batch => Next::Done(Outcome::Cancelled),
        Some(StopIntent::Cancel) => Next::Forget(Outcome::Cancelled),
        Some(StopIntent::TimeOut) if batch => Next::Done(Outcome::TimedOut),
        Some(StopIntent::TimeOut | StopIntent::Unhealthy) => Next::Failed,
        Some(StopIntent::Drain | StopIntent::Replace) => Next::Again(Outcome::Cancelled),
        Some(StopIntent::Preempt) => Next::Again(Outcome::Preempted),
        None => match end {
            End::Lost(_) => Next::Again(Outcome::Lost),
            End::Reported(report) => next_after_report(report, job.kind()),
        },
    }
}

fn next_after_report(report: &EndReport, kind: JobKind) -> Next {
    match report.cause {
        EndCause::PortTaken | EndCause::HostFault => Next::Again(Outcome::Failed),
        EndCause::HostRebooted | EndCause::Fenced => Next::Again(Outcome::Lost),
        // Trying again cannot help a batch command that does not exist.
        EndCause::CannotStart if kind == JobKind::Batch => Next::Done(Outcome::Failed),
        EndCause::CannotStart
        | EndCause::Exited
        | EndCause::Stopped
        | EndCause::OutOfMemory
        | EndCause::Unseen => Next::Failed,
    }
}

fn reason_of(row: &AllocationRow, end: &End<'_>) -> String {
    let said = match end {
        End::Reported(report) => report.summary(),
        End::Lost(reason) => (*reason).to_owned(),
    };
    // Of one that was not told to end the reason says why it lives.
    let ordered = row.state.stop_intent().is_some() && !row.reason.is_empty();
    let text = match (!ordered, said.is_empty()) {
        (true, _) => said,
        (false, true) => row.reason.clone(),
        (false, false) => format!("{}; {said}", row.reason),
    };
    bounded(&text, REASON_BYTES_MAX)
}

/// Adds up to a quarter, by a hash of the id: many instances that failed
/// together do not come back together, and replicas agree.
fn jittered(wait: DurationMs, id: AllocationId) -> DurationMs {
    let mut hasher = StableHasher::default();
    id.hash(&mut hasher);
    let quarter = wait.0 / 4;
    DurationMs(wait.0.saturating_add(if quarter == 0 { 0 } else { hasher.finish() % quarter }))
}
