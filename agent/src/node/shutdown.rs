//! Everything ends: workers within their grace, then whatever is left, then
//! the shims.

use std::time::Duration;

use berth_model::AllocationId;
use berth_shim::kill_all;
use berth_shim::protocol::{RequestBody, StopRequest};
use tokio::time::Instant;
use tracing::{error, info};

use super::{Ended, Node};
use crate::leftovers;

/// From the request to end until SIGKILL.
const GRACE_MS: u64 = 1_000;
/// When shims have had their time and the rest is done by hand.
const PATIENCE: Duration = Duration::from_millis(2_500);
/// For each allocation that is ended by hand.
const KILL_PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks where no event comes.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// From then until the agent gives up.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// The end of everything is under way.
pub struct Stopping {
    deadline: Instant,
    swept: Option<Ended>,
}

impl Stopping {
    pub fn next_look(&self) -> Instant {
        self.deadline.min(Instant::now() + LOOK_INTERVAL)
    }
}

impl Node {
    pub(super) fn begin_stopping(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        info!(allocations = self.workers.len(), "everything is stopped");
        self.stopping = Some(Stopping { deadline: Instant::now() + PATIENCE, swept: None });
        self.waiting.clear();
        self.checks.clear();
        self.workers.values_mut().for_each(|worker| worker.fetching = None);
        for (id, worker) in &self.workers {
            let request = StopRequest {
                allocation_id: id.to_string(),
                signal: None,
                grace_ms: Some(GRACE_MS),
            };
            if let (Some(shim), None) = (worker.shim, &worker.end) {
                self.pool.ask(shim, RequestBody::Stop(request));
            }
        }
    }

    /// Looks what is left; an answer ends the loop.
    pub(super) fn go_on_stopping(&mut self) -> Option<Ended> {
        let ended: Vec<_> = self
            .workers
            .values_mut()
            .filter(|worker| worker.end.is_some())
            .filter_map(|worker| worker.shim.take())
            .collect();
        ended.into_iter().for_each(|shim| self.pool.end(shim));
        self.pool.end_free();
        if self.pool.is_over() && !self.is_clearing() {
            let ended = self.sweep_all();
            self.remove_groups();
            return Some(ended);
        }
        let stopping = self.stopping.as_ref()?;
        if Instant::now() < stopping.deadline {
            return None;
        }
        if let Some(ended) = stopping.swept {
            self.pool.disown();
            return Some(if self.is_clearing() { Ended::SomethingLeft } else { ended });
        }
        // With its processes gone a shim records the end and can be ended.
        let swept = Some(self.sweep_all());
        self.stopping = Some(Stopping { deadline: Instant::now() + LAST_PATIENCE, swept });
        None
    }

    /// By the mark in their environment, whoever supervises them.
    fn sweep_all(&self) -> Ended {
        let allocations = self.settings.dir.allocations();
        let alive = match leftovers::allocations_alive(&allocations) {
            Ok(marked) => &marked | &self.holding.alive(),
            Err(error) => {
                error!(%error, "processes cannot be listed");
                return Ended::SomethingLeft;
            }
        };
        let outcomes: Vec<bool> = alive.iter().map(|id| self.kill(*id)).collect();
        if outcomes.iter().all(|gone| *gone) { Ended::AllStopped } else { Ended::SomethingLeft }
    }

    fn kill(&self, id: AllocationId) -> bool {
        match kill_all(&self.mark_of(id), KILL_PATIENCE) {
            Ok(_) => true,
            Err(problem) => {
                error!(%id, %problem, "allocation does not end");
                false
            }
        }
    }
}
