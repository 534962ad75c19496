//! Callers of a replica that is to end are let go first: it leaves the routes at once, and its
//! agent is told to stop it when nothing that it was asked is under way any more.

use berth_model::{AllocationId, AllocationState, DeviceHealth, DurationMs, StopIntent};

use super::{Step, bounded};
use crate::event::EventKind;
use crate::rows::{AllocationRow, Draining, REASON_BYTES_MAX};
use crate::state::Reply;

/// How an allocation is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pace {
    /// Its callers are let go first, if it has any.
    Orderly,
    AtOnce,
}

impl Step<'_> {
    /// For how long callers of an allocation may be answered that is told to end now; `None`: it
    /// ends at once. Of one that is let go already the time only gets shorter.
    pub(super) fn draining(
        &self,
        row: &AllocationRow,
        intent: StopIntent,
        pace: Pace,
    ) -> Option<Draining> {
        let limit = match pace {
            Pace::Orderly => self.drain_limit(row, intent),
            Pace::AtOnce => DurationMs::ZERO,
        };
        let by = self.now.after(limit);
        match row.state {
            AllocationState::Running { .. } if limit > DurationMs::ZERO => {
                Some(Draining { by, since_index: self.state.applied_index + 1 })
            }
            AllocationState::Stopping(_) => {
                row.draining.map(|was| Draining { by: was.by.min(by), ..was })
            }
            AllocationState::Planned
            | AllocationState::Starting(_)
            | AllocationState::Running { .. }
            | AllocationState::Unkillable(_) => None,
        }
    }

    fn drain_limit(&self, row: &AllocationRow, intent: StopIntent) -> DurationMs {
        let Some(job) = self.state.jobs.get(&row.id.job) else { return DurationMs::ZERO };
        // What the job says now, whatever it said when this was begun.
        let reached = job.spec.reached().filter(|reached| reached.position == row.id.task);
        let Some(reached) = reached else { return DurationMs::ZERO };
        let limit = job.spec.route.drain;
        match intent {
            // Its answers are none, or its time is over.
            StopIntent::Unhealthy | StopIntent::TimeOut => DurationMs::ZERO,
            StopIntent::Drain if self.has_lost_a_device(row) => DurationMs::ZERO,
            // Something more urgent waits.
            StopIntent::Preempt => limit.min(reached.task.stop.grace),
            StopIntent::Cancel | StopIntent::Drain | StopIntent::Replace => limit,
        }
    }

    fn has_lost_a_device(&self, row: &AllocationRow) -> bool {
        let Some(node) = self.state.nodes.get(&row.node) else { return true };
        let is_well = |uuid: &str| {
            let device = node.spec.devices.iter().find(|device| device.uuid == uuid);
            device.is_some_and(|device| match device.health {
                DeviceHealth::Healthy | DeviceHealth::Suspect | DeviceHealth::Cordoned => true,
                DeviceHealth::Fenced | DeviceHealth::Lost => false,
            })
        };
        !row.claim.devices.iter().all(|claim| is_well(&claim.uuid))
    }

    /// The callers of these are let go; their agents are told to stop them. What is not waited for
    /// is passed over.
    pub(super) fn let_go(&mut self, allocations: &[AllocationId], reason: &str) -> Reply {
        let reason = bounded(reason, REASON_BYTES_MAX);
        for id in allocations {
            let Some(row) = self.state.allocations.get(id).cloned() else { continue };
            if row.draining.is_none() {
                continue;
            }
            self.state.edit_allocation(*id, |row| row.draining = None);
            self.bump_generation(row.node);
            let reason = reason.clone();
            self.emit_allocation(*id, row.node, EventKind::AllocationStopping { reason });
            // What takes its place may begin only now.
            self.restart_progress(id.job);
        }
        Reply::Done
    }
}
