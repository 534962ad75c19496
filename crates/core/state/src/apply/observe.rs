//! What agents saw. A report about an attempt that the state does not know, or
//! that is on another node, changes nothing.

use berth_model::{AllocationId, AllocationState, NodeId, StopIntent};

use super::Step;
use super::ends::End;
use crate::command::{Observation, Observed};
use crate::event::EventKind;
use crate::state::Reply;

impl Step<'_> {
    pub(super) fn observe(&mut self, node: NodeId, observations: &[Observation]) -> Reply {
        let mut changed = 0;
        for Observation { allocation, observed } in observations {
            let here = self.state.allocations.get(allocation).is_some_and(|row| row.node == node);
            if here && self.observe_one(*allocation, observed) == Changed::Yes {
                changed += 1;
            }
            if let (false, Observed::Ended(_)) = (here, observed)
                && self.end_orphan(node, *allocation)
            {
                changed += 1;
            }
            if !here && self.observe_away(node, *allocation, observed) {
                changed += 1;
            }
        }
        Reply::Observed { changed }
    }

    fn observe_one(&mut self, id: AllocationId, observed: &Observed) -> Changed {
        let Some(row) = self.state.allocations.get(&id).cloned() else { return Changed::No };
        let to = match observed {
            Observed::Starting(phase) => AllocationState::Starting(*phase),
            Observed::Running { ready, .. } => AllocationState::Running { ready: *ready },
            Observed::Unhealthy { detail } => {
                if row.state.stop_intent().is_some() {
                    return Changed::No;
                }
                let reason = format!("unhealthy: {detail}");
                self.stop_allocation(id, StopIntent::Unhealthy, &reason);
                return Changed::Yes;
            }
            Observed::Stopping => return Changed::No,
            Observed::Unkillable => match row.state.stop_intent() {
                Some(intent) => AllocationState::Unkillable(intent),
                None => return Changed::No,
            },
            Observed::Ended(report) => {
                self.end_allocation(id, &End::Reported(report));
                return Changed::Yes;
            }
        };
        if row.state == to || row.state.advance(to).is_err() {
            return Changed::No;
        }
        let now = self.now;
        self.state.edit_allocation(id, |row| {
            row.state = to;
            row.draining = None;
            if let Observed::Running { started_at, .. } = observed {
                row.running_since = row.running_since.or(Some(now));
                row.started_at = row.started_at.or(Some(*started_at));
            }
        });
        if let Observed::Running { started_at, .. } = observed
            && self.state.jobs.get(&id.job).is_some_and(|job| job.started_at.is_none())
        {
            self.state.edit_job(id.job, |job| job.started_at = Some(*started_at));
        }
        if to == (AllocationState::Running { ready: true }) {
            self.note_ready(id);
        }
        self.emit_allocation(id, row.node, EventKind::AllocationStateChanged { state: to });
        Changed::Yes
    }
}

#[derive(PartialEq, Eq)]
enum Changed {
    Yes,
    No,
}
