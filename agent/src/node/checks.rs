//! Health checks of running workers.

use std::time::Duration;

use berth_model::AllocationId;
use berth_supervise::{AgentMs, Health, HealthPolicy, ProbeOutcome, Verdict, Worker};
use tracing::{info, warn};

use super::{Event, Node};
use crate::allocation_dir::FoundRecord;
use crate::clock;
use crate::probe::{ProbeTarget, probe};

/// The check of one worker.
pub struct Check {
    health: Health,
    target: ProbeTarget,
    under_way: UnderWay,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum UnderWay {
    Yes,
    No,
}

impl Check {
    /// When the next probe is to begin; none while one is under way.
    pub fn due_at(&self) -> Option<AgentMs> {
        (self.under_way == UnderWay::No).then(|| self.health.next_probe_at())
    }
}

impl Node {
    /// A worker runs from now on: its check begins, if it has one.
    pub(super) fn begin_check(&mut self, id: AllocationId) {
        let wanted = self.workers.get(&id).and_then(|worker| worker.wanted.clone());
        let Some(wanted) = wanted else { return };
        let Some(check) = &wanted.task().health else { return };
        let dir = self.dir_of(id);
        let variables = self.environment(&wanted, &dir.task());
        let guest = self.guest_beside(id, &wanted, &variables);
        let target = ProbeTarget {
            probe: check.probe.clone(),
            timeout: Duration::from_millis(check.timeout.0),
            ports: wanted.row.ports.clone(),
            environment: variables,
            task_dir: dir.task(),
            guest: guest.map(|guest| guest.is_held().then_some(guest)),
        };
        let verdict = self.workers.get(&id).map_or(Verdict::Pending, |worker| worker.verdict);
        let health = Health::resume(HealthPolicy::from(check), clock::now(), verdict);
        self.checks.insert(id, Check { health, target, under_way: UnderWay::No });
    }

    pub(super) fn start_due_checks(&mut self) {
        let now = clock::now();
        for (id, check) in &mut self.checks {
            if check.due_at().is_none_or(|at| at > now) {
                continue;
            }
            check.under_way = UnderWay::Yes;
            let (id, target, events) = (*id, check.target.clone(), self.events.clone());
            tokio::spawn(async move {
                let (outcome, problem) = probe(&target).await;
                // The agent may be ending.
                let _ = events.send(Event::Probed(id, outcome, problem));
            });
        }
    }

    pub(super) fn probed(&mut self, id: AllocationId, outcome: ProbeOutcome, problem: String) {
        // Ended or asked to end meanwhile: its check is gone.
        let Some(check) = self.checks.get_mut(&id) else { return };
        check.under_way = UnderWay::No;
        let verdict = check.health.observe(outcome, clock::now());
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.detail = problem;
        if worker.verdict == verdict {
            return;
        }
        info!(%id, ?verdict, detail = worker.detail, "health changed");
        worker.verdict = verdict;
        if let Some(allocation) = self.observed.allocations.get_mut(&id)
            && allocation.worker == Worker::Running
        {
            allocation.touch();
        }
        self.remember_readiness(id, verdict);
    }

    /// The next agent must not take a ready worker for one that is not.
    fn remember_readiness(&self, id: AllocationId, verdict: Verdict) {
        let dir = self.dir_of(id);
        if let FoundRecord::Record(mut record) = dir.record() {
            record.ready = verdict == Verdict::Ready;
            if let Err(error) = dir.write_record(&record) {
                warn!(%id, %error, "allocation record cannot be written");
            }
        }
    }
}
