//! What was given up on a silent node and may run there still. When the node is back, its
//! agent says what became of it; until then nobody else gets what it holds. Of two attempts
//! of one instance exactly one goes on: here is decided which.

use std::sync::Arc;

use berth_model::{
    AllocationId, AllocationState, Attempt, DurationMs, EndCause, JobId, JobKind, NodeId,
    NodeState, NodeUse, OnReturn, Outcome, StateMs, StopIntent, may_stay,
};

use super::ends::End;
use super::{Step, bounded};
use crate::command::{Observed, Purpose};
use crate::event::EventKind;
use crate::rows::{AllocationRow, AwayRow, JobPhase, NodeRow, REASON_BYTES_MAX, Retry};
use crate::state::ClusterState;

/// An instance waits so long for its original to be heard of, once that one's node is back: an agent
/// says what it has in the first second of its session.
const RETURN_WAIT_MS: u64 = 5_000;
const UNWANTED: &str = "its job no longer asks for it";

impl AwayRow {
    /// Whether what an agent observed of it would change anything.
    pub(crate) fn is_news(&self, observed: &Observed) -> bool {
        match observed {
            Observed::Ended(_) => true,
            Observed::Running { .. } | Observed::Unhealthy { .. } => self.stop.is_none(),
            Observed::Starting(_) | Observed::Stopping | Observed::Unkillable => false,
        }
    }
}

impl ClusterState {
    /// What is wanted of those that were given up on a node: to go on until it is decided, or
    /// to end, for this reason. Those whose specification is forgotten cannot be named to an
    /// agent, and are wanted no more.
    pub fn away<'a>(
        &'a self,
        node: &'a NodeRow,
    ) -> impl Iterator<Item = (&'a AllocationRow, Option<String>)> {
        let is_known = |row: &AllocationRow| {
            let job = self.jobs.get(&row.id.job);
            job.is_some_and(|job| {
                let mut versions = job.versions.iter().map(|old| old.digest);
                job.digest == row.spec_digest || versions.any(|digest| digest == row.spec_digest)
            })
        };
        node.away.values().filter(move |away| is_known(&away.row)).map(|away| {
            let unwanted = || (!self.may_return(&away.row)).then(|| UNWANTED.to_owned());
            (&*away.row, away.stop.clone().or_else(unwanted))
        })
    }

    /// Whether its job would have an attempt that was given up back: it runs what the job asks
    /// for now, of an instance that is not done. What is exclusive has ended with its lease.
    pub(crate) fn may_return(&self, row: &AllocationRow) -> bool {
        let id = row.id;
        let Some(job) = self.jobs.get(&id.job) else { return false };
        let Some(task) = self.tasks.get(&(id.job, id.task)) else { return false };
        let instance = id.instance.0;
        let open = match job.kind() {
            JobKind::Batch | JobKind::Service => task.pending.contains(instance),
            JobKind::Daemon => !task.failed.contains(instance),
        };
        job.phase == JobPhase::Active
            && (job.version, job.digest) == (row.job_version, row.spec_digest)
            && !job.spec.exclusive
            && (open || self.is_live(id))
    }

    /// The live attempt of the instance of `id`, which is not it.
    fn rival(&self, id: AllocationId) -> Option<Arc<AllocationRow>> {
        let first = AllocationId { attempt: Attempt(0), ..id };
        let last = AllocationId { attempt: Attempt(u32::MAX), ..id };
        self.allocations.range(first..=last).next().map(|(_, row)| row.clone())
    }
}

/// What becomes of an attempt that is back.
enum Fate {
    GoesOn(String),
    Ends(String),
}

impl Step<'_> {
    /// Gives up an allocation of a silent node; what may run there is remembered. Only what
    /// ran may go on: to begin a worker beside its replacement helps nobody.
    pub(super) fn give_up(&mut self, id: AllocationId, reason: &str) {
        let Some(row) = self.state.allocations.get(&id).cloned() else { return };
        self.end_allocation(id, &End::Lost(reason));
        let runs = matches!(row.state, AllocationState::Running { .. });
        let goes_on = runs && self.state.may_return(&row);
        let stop = (!goes_on).then(|| bounded(reason, REASON_BYTES_MAX));
        self.state.nodes.edit(&row.node, |node| {
            node.away.insert(id, AwayRow { row: row.clone(), stop });
        });
    }

    /// Its node is ready again: what was given up there holds what it held. What has no room
    /// any more is nobody's, and its agent ends it.
    pub(super) fn count_away(&mut self, node: NodeId) {
        let Some(row) = self.state.nodes.get(&node).cloned() else { return };
        if row.away.is_empty() {
            return;
        }
        self.state.nodes.edit(&node, |row| {
            for (id, away) in std::mem::take(&mut row.away) {
                let claim = &away.row.claim;
                if may_stay(row.capacity(&row.used), claim).is_ok() {
                    row.used.add(claim);
                    row.away.insert(id, away);
                }
            }
        });
        self.bump_generation(node);
        let row = self.state.nodes.get(&node).cloned();
        let away = row.iter().flat_map(|row| &row.away);
        for (id, _) in away.filter(|(_, away)| away.stop.is_none()) {
            self.hold_place(*id);
        }
    }

    /// Its agent is about to say that it runs: nothing is begun in its place meanwhile.
    fn hold_place(&mut self, id: AllocationId) {
        let until = self.now.after(DurationMs(RETURN_WAIT_MS));
        self.state.edit_task(id.job, id.task, |task| {
            if let Some(retry) = task.retries.get_mut(&id.instance.0) {
                retry.not_before = retry.not_before.max(until);
            }
        });
    }

    /// What its agent says of one that was given up. Whether it changed anything.
    pub(super) fn observe_away(
        &mut self,
        node: NodeId,
        id: AllocationId,
        observed: &Observed,
    ) -> bool {
        let row = self.state.nodes.get(&node).cloned();
        let away = row.as_ref().and_then(|row| row.away.get(&id));
        let (Some(row), Some(away)) = (&row, away) else { return false };
        if !away.is_news(observed) {
            return false;
        }
        if row.state != NodeState::Ready {
            // From before the node fell silent again: only an end is still true.
            let has_ended = matches!(observed, Observed::Ended(_));
            if has_ended {
                self.forget_away(node, id);
            }
            return has_ended;
        }
        match observed {
            Observed::Running { ready, .. } => {
                let is = AllocationState::Running { ready: *ready };
                match self.fate(row, away, is) {
                    Fate::GoesOn(reason) => self.bring_back(away, is, &reason),
                    Fate::Ends(reason) => self.dismiss_away(node, id, &reason),
                }
            }
            Observed::Unhealthy { detail } => {
                self.dismiss_away(node, id, &format!("unhealthy: {detail}"));
            }
            Observed::Ended(report) => {
                let done = report.cause == EndCause::Exited && report.exit_code == Some(0);
                let job = self.state.jobs.get(&id.job);
                let counts = done
                    && away.stop.is_none()
                    && job.is_some_and(|job| job.kind() == JobKind::Batch);
                let is = AllocationState::Running { ready: true };
                match counts.then(|| self.fate(row, away, is)) {
                    // Work that was finished meanwhile is not done again.
                    Some(Fate::GoesOn(reason)) => {
                        self.bring_back(away, is, &reason);
                        self.end_allocation(id, &End::Reported(report));
                    }
                    Some(Fate::Ends(_)) | None => self.forget_away(node, id),
                }
            }
            Observed::Starting(_) | Observed::Stopping | Observed::Unkillable => {}
        }
        true
    }

    /// A restored cluster hears that it is there. One that was taken back and given up before
    /// its agent had said more than that runs, whatever its row says.
    pub(super) fn found_away(&mut self, node: NodeId, id: AllocationId) {
        let away = self.state.nodes.get(&node).and_then(|row| row.away.get(&id)).cloned();
        let begun = |state: AllocationState| match state {
            AllocationState::Planned | AllocationState::Starting(_) => false,
            AllocationState::Running { .. }
            | AllocationState::Stopping(_)
            | AllocationState::Unkillable(_) => true,
        };
        let may_go_on = away.is_some_and(|away| {
            !begun(away.row.state) && self.state.may_return(&away.row) && !self.state.is_live(id)
        });
        if may_go_on {
            self.state.nodes.edit(&node, |row| {
                if let Some(away) = row.away.get_mut(&id) {
                    away.stop = None;
                }
            });
        }
    }

    fn fate(&self, node: &NodeRow, away: &AwayRow, is: AllocationState) -> Fate {
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
        if let Purpose::Draining(_) = node.purpose {
            return Fate::Ends(
                "its node is being drained, and another attempt is elsewhere".to_owned(),
            );
        }
        match rival.state.stop_intent() {
            Some(StopIntent::Cancel | StopIntent::TimeOut | StopIntent::Replace) => unwanted(),
            Some(StopIntent::Drain | StopIntent::Unhealthy) => {
                Fate::GoesOn(format!("its node is back, and attempt {} ends", rival.id.attempt.0))
            }
            // What was missing was room, and the node that is back has brought it.
            None if rival.planned_at >= node.since => {
                Fate::GoesOn("its node is back, and nothing had taken its place before".to_owned())
            }
            None => by_policy(job.spec.on_return, &away.row, is, &rival),
        }
    }

    /// It is live again, and whatever had taken its place is to end.
    fn bring_back(&mut self, away: &AwayRow, state: AllocationState, reason: &str) {
        let (id, node) = (away.row.id, away.row.node);
        let Some(before) = self.state.jobs.get(&id.job).map(|job| job.state()) else { return };
        let rival = self.state.rival(id);
        if let Some(rival) = &rival {
            let reason = format!("attempt {} goes on instead: {reason}", id.attempt.0);
            self.put_away(rival, &reason);
        }
        self.state.nodes.edit(&node, |row| {
            row.away.remove(&id);
            row.live.insert(id);
        });
        self.state.edit_task(id.job, id.task, |task| {
            let instance = id.instance.0;
            task.pending.remove(instance);
            task.live += 1;
            // The next one must be none that was begun.
            let known = task.retries.get(&instance).copied();
            let counted = task.attempt_counted(instance).max(id.attempt.next());
            let attempt =
                rival.as_ref().map_or(counted, |rival| counted.max(rival.id.attempt.next()));
            let failures = known.map_or(0, |retry| retry.failures);
            let not_before = known.map_or(StateMs(0), |retry| retry.not_before);
            task.retries.insert(instance, Retry { attempt, failures, not_before });
        });
        self.state.edit_job(id.job, |job| job.live += 1);
        let reason = bounded(reason, REASON_BYTES_MAX);
        let row =
            AllocationRow { state, reason: reason.clone(), ..AllocationRow::clone(&away.row) };
        self.state.allocations.insert(id, Arc::new(row));
        self.emit_allocation(id, node, EventKind::AllocationReturned { reason });
        self.announce_state(id.job, before);
    }

    /// Takes a live attempt's place from it: it ends as one that was given up does.
    fn put_away(&mut self, row: &Arc<AllocationRow>, reason: &str) {
        let id = row.id;
        let reason = bounded(reason, REASON_BYTES_MAX);
        self.state.allocations.remove(&id);
        let away = AwayRow { row: row.clone(), stop: Some(reason.clone()) };
        self.state.nodes.edit(&row.node, |node| {
            node.live.remove(&id);
            if node.state != NodeState::Ready {
                node.used.remove(&row.claim);
            }
            node.away.insert(id, away);
        });
        self.bump_generation(row.node);
        self.state.edit_job(id.job, |job| job.live = job.live.saturating_sub(1));
        self.state.edit_task(id.job, id.task, |task| task.live = task.live.saturating_sub(1));
        let (outcome, row, report) = (Outcome::Cancelled, row.clone(), None);
        let node = row.node;
        let kind = EventKind::AllocationEnded { outcome, reason, row, report };
        self.emit_allocation(id, node, kind);
    }

    fn dismiss_away(&mut self, node: NodeId, id: AllocationId, reason: &str) {
        let reason = bounded(reason, REASON_BYTES_MAX);
        self.state.nodes.edit(&node, |row| {
            if let Some(away) = row.away.get_mut(&id) {
                away.stop = Some(reason.clone());
            }
        });
        self.bump_generation(node);
        self.emit_allocation(id, node, EventKind::AllocationStopping { reason });
    }

    /// A person wants none of what runs now. Costs a pass over the nodes.
    pub(super) fn dismiss_away_of(&mut self, job: JobId, reason: &str) {
        let nodes = self.state.nodes.values();
        let away = nodes.flat_map(|row| row.away.values());
        let undecided = away.filter(|away| away.stop.is_none() && away.row.id.job == job);
        let ids: Vec<_> = undecided.map(|away| (away.row.node, away.row.id)).collect();
        for (node, id) in ids {
            self.dismiss_away(node, id, reason);
        }
    }

    /// It is gone, and what it held is free.
    pub(super) fn forget_away(&mut self, node: NodeId, id: AllocationId) {
        let known = self.state.nodes.edit(&node, |row| {
            let away = row.away.remove(&id);
            if let Some(away) = away.as_ref().filter(|_| row.state == NodeState::Ready) {
                row.used.remove(&away.row.claim);
            }
            away.is_some()
        });
        if known == Some(true) {
            self.bump_generation(node);
        }
    }
}

fn by_policy(
    on_return: OnReturn,
    original: &AllocationRow,
    is: AllocationState,
    rival: &AllocationRow,
) -> Fate {
    let policy = on_return.name();
    let attempt = rival.id.attempt.0;
    let keeps = || Fate::GoesOn(format!("its node is back ({policy}, not attempt {attempt})"));
    let yields = |why: &str| Fate::Ends(format!("attempt {attempt} {why} ({policy})"));
    let serves = |state| state == AllocationState::Running { ready: true };
    match on_return {
        OnReturn::KeepReplacement => yields("has taken its place"),
        OnReturn::KeepOriginal => keeps(),
        OnReturn::KeepLongestRunning if serves(rival.state) && !serves(is) => {
            yields("alone is ready")
        }
        OnReturn::KeepLongestRunning => match (original.running_since, rival.running_since) {
            (Some(original), Some(rival)) if rival < original => yields("has run longer"),
            (Some(_) | None, Some(_) | None) => keeps(),
        },
    }
}
