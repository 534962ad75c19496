//! What was given up on a silent node and may run there still. When the node is back, its
//! agent says what became of it; until then nobody else gets what it holds. Which of two
//! attempts of one instance goes on is decided elsewhere (`fate`).

use std::sync::Arc;

use berth_model::{
    AllocationId, AllocationState, Attempt, Claim, DurationMs, EndReport, JobId, JobKind, NodeId,
    NodeState, Outcome, StateMs, may_stay,
};

use super::ends::End;
use super::fate::{Fate, UNWANTED};
use super::fences::reason_to_leave;
use super::stock::not_held_by_others;
use super::{Step, bounded};
use crate::command::Observed;
use crate::event::EventKind;
use crate::node::{AwayRow, NodeRow};
use crate::rows::{AllocationRow, JobPhase, REASON_BYTES_MAX, Retry};
use crate::state::ClusterState;

/// An instance waits so long for its original to be heard of, once that one's node is back: an agent
/// says what it has in the first second of its session.
const RETURN_WAIT_MS: u64 = 5_000;

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
        node.away.values().filter(|away| self.names(&away.row)).map(|away| {
            let unwanted = || (!self.may_return(&away.row)).then(|| UNWANTED.to_owned());
            (&*away.row, away.stop.clone().or_else(unwanted))
        })
    }

    /// Whether an agent can be told of it: what it runs is remembered.
    pub(crate) fn names(&self, row: &AllocationRow) -> bool {
        let Some(job) = self.jobs.get(&row.id.job) else { return false };
        let mut versions = job.versions.iter().map(|old| old.digest);
        job.digest == row.spec_digest || versions.any(|digest| digest == row.spec_digest)
    }

    /// Whether its job would have an attempt that was given up back: it runs what the job asks
    /// for now, of an instance that is not done. What is exclusive has ended with its lease, and the
    /// world of a member of a gang with its being given up.
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
            && !job.is_gang(id.task)
            && (open || self.is_live(id))
    }

    /// The live attempt of the instance of `id`, which is not it.
    pub(super) fn rival(&self, id: AllocationId) -> Option<Arc<AllocationRow>> {
        let first = AllocationId { attempt: Attempt(0), ..id };
        let last = AllocationId { attempt: Attempt(u32::MAX), ..id };
        self.allocations.range(first..=last).next().map(|(_, row)| row.clone())
    }
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
    /// any more ends; until its agent has said so it holds what nobody else does.
    pub(super) fn count_away(&mut self, node: NodeId) {
        let Some(row) = self.state.nodes.get(&node).cloned() else { return };
        if row.away.is_empty() {
            return;
        }
        let mut misfits = Vec::new();
        self.state.nodes.edit(&node, |row| {
            // What is to end anyway takes no room from what may go on.
            let (goes_on, ends): (Vec<_>, Vec<_>) = std::mem::take(&mut row.away)
                .into_iter()
                .partition(|(_, away)| away.stop.is_none());
            for (id, mut away) in goes_on.into_iter().chain(ends) {
                if let Err(misfit) = may_stay(row.capacity(&row.used), &away.row.claim) {
                    Arc::make_mut(&mut away.row).claim = what_is_left(row, &away.row.claim);
                    if away.stop.is_none() {
                        misfits.push((id, reason_to_leave(&row.spec, &misfit)));
                    }
                }
                row.used.add(&away.row.claim);
                row.away.insert(id, away);
            }
        });
        for (id, reason) in misfits {
            self.dismiss_away(node, id, &format!("its node has no room for it any more: {reason}"));
        }
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
        if let Observed::Ended(report) = observed
            && self.finishes(away, report)
        {
            self.finish_away(away, report);
            return true;
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
            Observed::Ended(_) => self.forget_away(node, id),
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

    /// Its instance is done, and no other attempt of it is needed. It is never live in between:
    /// it may have no room where it ran, and needs none.
    fn finish_away(&mut self, away: &AwayRow, report: &EndReport) {
        let (id, node) = (away.row.id, away.row.node);
        let Some(before) = self.state.jobs.get(&id.job).map(|job| job.state()) else { return };
        if let Some(rival) = self.state.rival(id) {
            let reason = format!("attempt {} has finished the work meanwhile", id.attempt.0);
            self.put_away(&rival, &reason);
        }
        self.forget_away(node, id);
        self.state.edit_task(id.job, id.task, |task| {
            task.pending.remove(id.instance.0);
        });
        self.finish_instance(JobKind::Batch, id, Outcome::Succeeded);
        self.state.edit_job(id.job, |job| job.started_at = job.started_at.or(report.started_at));
        let reason = "it had finished by itself".to_owned();
        self.emit_allocation(id, node, EventKind::AllocationReturned { reason: reason.clone() });
        let report = Some(EndReport { stderr_tail: String::new(), ..report.clone() });
        let (outcome, row) = (Outcome::Succeeded, away.row.clone());
        let kind = EventKind::AllocationEnded { outcome, reason, row, report };
        self.emit_allocation(id, node, kind);
        self.settle_job(id.job, before);
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
        let row = AllocationRow {
            state,
            reason: reason.clone(),
            draining: None,
            ..AllocationRow::clone(&away.row)
        };
        self.state.insert_allocation(row);
        self.emit_allocation(id, node, EventKind::AllocationReturned { reason });
        if state == (AllocationState::Running { ready: true }) {
            self.note_ready(id);
        }
        self.announce_state(id.job, before);
    }

    /// Takes a live attempt's place from it: it ends as one that was given up does.
    fn put_away(&mut self, row: &Arc<AllocationRow>, reason: &str) {
        let id = row.id;
        let reason = bounded(reason, REASON_BYTES_MAX);
        self.state.remove_allocation(id);
        let away = AwayRow { row: row.clone(), stop: Some(reason.clone()) };
        self.state.nodes.edit(&row.node, |node| {
            node.live.remove(&id);
            if node.state != NodeState::Ready {
                node.used.remove(&row.claim);
            }
            node.away.insert(id, away);
        });
        self.drop_places_for(row.node, id);
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

/// The part of a claim that its node still has and nobody else on it holds.
fn what_is_left(node: &NodeRow, claim: &Claim) -> Claim {
    let mut left = not_held_by_others(&node.used, claim);
    left.devices.retain(|device| node.spec.device(&device.uuid).is_some());
    left
}
