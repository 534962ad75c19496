//! What becomes of an attempt that was given up and is back: of two attempts of one instance
//! exactly one goes on, and work that was finished is not done again. Decides, and changes
//! nothing.

use berth_model::{
    AllocationState, EndCause, EndReport, JobKind, NodeState, NodeUse, OnReturn, StopIntent,
    may_stay,
};

use super::Step;
use crate::command::Purpose;
use crate::node::{AwayRow, NodeRow};
use crate::rows::{AllocationRow, JobPhase};

pub(super) const UNWANTED: &str = "its job no longer asks for it";

/// What becomes of an attempt that is back.
pub(super) enum Fate {
    GoesOn(String),
    Ends(String),
}

impl Step<'_> {
    /// Whether the end of an attempt that was given up is the end of its instance. What is done
    /// needs no room, no place among those that may run at once and no node that is in use, and
    /// an order to end that came after it changes nothing. A job that keeps the replacement
    /// wants none of what is done beside it, and an exclusive one that lives is never given up.
    pub(super) fn finishes(&self, away: &AwayRow, report: &EndReport) -> bool {
        let (row, id) = (&away.row, away.row.id);
        let Some(job) = self.state.jobs.get(&id.job) else { return false };
        let Some(task) = self.state.tasks.get(&(id.job, id.task)) else { return false };
        let rival = self.state.rival(id);
        let replaces = job.spec.exclusive || job.spec.on_return == OnReturn::KeepReplacement;
        let is_replaced =
            replaces && rival.as_ref().is_some_and(|rival| id.attempt < rival.id.attempt);
        report.cause == EndCause::Exited
            && report.exit_code == Some(0)
            && job.kind() == JobKind::Batch
            && job.phase == JobPhase::Active
            && !job.is_gang(id.task)
            && (job.version, job.digest) == (row.job_version, row.spec_digest)
            && (rival.is_some() || task.pending.contains(id.instance.0))
            && !is_replaced
    }

    /// Of an attempt that runs on its node, which is ready, and is in this state now.
    pub(super) fn fate(&self, node: &NodeRow, away: &AwayRow, is: AllocationState) -> Fate {
        let id = away.row.id;
        let unwanted = || Fate::Ends(UNWANTED.to_owned());
        let Some(job) = self.state.jobs.get(&id.job).filter(|_| self.state.may_return(&away.row))
        else {
            return unwanted();
        };
        let mut others: NodeUse = node.used.clone();
        others.remove(&away.row.claim);
        if let Err(misfit) = may_stay(node.capacity(&others), &away.row.claim) {
            return Fate::Ends(format!("its node has no room for it any more: {misfit}"));
        }
        let Some(rival) = self.state.rival(id) else {
            let task = self.state.tasks.get(&(id.job, id.task));
            let spec = job.spec.tasks.get(usize::from(id.task.0));
            let room = task.zip(spec).is_some_and(|(task, spec)| task.live < spec.parallel_max());
            return if room {
                Fate::GoesOn("its node is back, and nothing had taken its place before".to_owned())
            } else {
                Fate::Ends("as many instances as may run at once do".to_owned())
            };
        };
        let ends = match rival.state.stop_intent() {
            Some(StopIntent::Cancel | StopIntent::TimeOut | StopIntent::Replace) => {
                return unwanted();
            }
            Some(StopIntent::Drain | StopIntent::Unhealthy | StopIntent::Preempt) => true,
            None => false,
        };
        let there = self.state.nodes.get(&rival.node);
        if there.is_none_or(|row| row.state != NodeState::Ready) {
            let attempt = rival.id.attempt.0;
            return Fate::GoesOn(format!("its node is back, and that of attempt {attempt} is not"));
        }
        if let Purpose::Draining(_) = node.purpose {
            return Fate::Ends(
                "its node is being drained, and another attempt is elsewhere".to_owned(),
            );
        }
        if ends {
            return Fate::GoesOn(format!(
                "its node is back, and attempt {} ends",
                rival.id.attempt.0
            ));
        }
        // What was missing was room, and the node that is back has brought it.
        if rival.planned_at >= node.since && !has_begun(&rival) {
            return Fate::GoesOn(
                "its node is back, and nothing had taken its place before".to_owned(),
            );
        }
        by_policy(job.spec.on_return, &away.row, is, &rival)
    }
}

/// Whether its worker was seen: one that was is not ended for an original that says late that
/// it is back, unless the policy is so.
fn has_begun(row: &AllocationRow) -> bool {
    row.running_since.is_some()
}

/// The one of two attempts that was begun first is the original, whichever of them is live.
fn by_policy(
    on_return: OnReturn,
    back: &AllocationRow,
    is: AllocationState,
    rival: &AllocationRow,
) -> Fate {
    let policy = on_return.name();
    let attempt = rival.id.attempt.0;
    let keeps = || Fate::GoesOn(format!("its node is back ({policy}, not attempt {attempt})"));
    let yields = |why: &str| Fate::Ends(format!("attempt {attempt} {why} ({policy})"));
    let serves = |state| state == AllocationState::Running { ready: true };
    let is_original = back.id.attempt < rival.id.attempt;
    match (on_return, is_original) {
        (OnReturn::KeepReplacement, true) => yields("has taken its place"),
        (OnReturn::KeepOriginal, false) => yields("was there before it"),
        (OnReturn::KeepReplacement, false) | (OnReturn::KeepOriginal, true) => keeps(),
        (OnReturn::KeepLongestRunning, true | false) if serves(rival.state) && !serves(is) => {
            yields("alone is ready")
        }
        (OnReturn::KeepLongestRunning, true | false) => {
            match (back.running_since, rival.running_since) {
                (Some(back), Some(rival)) if rival < back => yields("has run longer"),
                (Some(_) | None, Some(_) | None) => keeps(),
            }
        }
    }
}
