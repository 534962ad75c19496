//! What shims say, and what it means for their allocations.

use berth_model::{AllocationId, EndCause, WallMs};
use berth_shim::protocol::{AllocationState, Phase, Refusal, RefusalCode};
use berth_supervise::Worker;
use tracing::{error, warn};

use super::pool::{ShimId, in_words};
use super::{Event, Node, ends};
use crate::shim_link::{self, Asked, Connected, ShimNews};

impl Node {
    pub(super) fn handle_shim(&mut self, shim: ShimId, news: ShimNews) {
        match news {
            ShimNews::State(state) => self.shim_state(shim, &state),
            ShimNews::Refused { asked: Asked::Start, allocation_id, refusal } => {
                self.start_refused(shim, &allocation_id, &refusal);
            }
            ShimNews::Refused { asked: Asked::Other, allocation_id, refusal } => {
                // A stop that met the end on its way.
                tracing::debug!(allocation_id, message = refusal.message, "shim refused");
            }
            ShimNews::Gone => self.shim_gone(shim),
        }
    }

    pub(super) fn shim_state(&mut self, shim: ShimId, state: &AllocationState) {
        let Ok(id) = state.allocation_id.parse::<AllocationId>() else { return };
        let is_of_shim = self.workers.get(&id).is_some_and(|worker| worker.shim == Some(shim));
        if !is_of_shim {
            return;
        }
        match Phase::try_from(state.phase) {
            Ok(Phase::Running) => self.worker_runs(id, state),
            // Its main process has ended, the rest is being ended: until all
            // is gone and recorded it is as it was.
            Ok(Phase::Stopping | Phase::Clearing | Phase::Recording) => {
                if !state.record_error.is_empty() {
                    error!(%id, problem = state.record_error, "exit record cannot be written");
                }
            }
            Ok(Phase::Unkillable) => {
                let pids: Vec<String> =
                    state.surviving.iter().map(|left| left.pid.to_string()).collect();
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.detail = format!("processes {} do not end", pids.join(", "));
                }
                self.set_worker(id, Worker::Unkillable);
            }
            Ok(Phase::Ended) => {
                let stop_reason = self.workers.get(&id).and_then(|worker| worker.stop_reason);
                let end = match &state.record {
                    Some(record) => ends::from_record(record, stop_reason),
                    None => {
                        ends::without_worker(EndCause::Unseen, "its shim kept no record".into())
                    }
                };
                self.ended(id, end);
            }
            // Nothing is held, or a newer shim says what is not known here.
            Ok(Phase::Idle) | Err(_) => {}
        }
    }

    fn worker_runs(&mut self, id: AllocationId, state: &AllocationState) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.started_at = Some(WallMs(state.started_at_unix_ms));
        let now = self.observed.allocations.get(&id).map(|allocation| allocation.worker);
        // Of a container only its runner runs so far.
        if now == Some(Worker::Launching) && !self.awaits_container(id) {
            self.set_worker(id, Worker::Running);
            self.begin_check(id);
        }
    }

    /// Nothing was started; or it has ended already.
    fn start_refused(&mut self, shim: ShimId, allocation_id: &str, refusal: &Refusal) {
        let Ok(id) = allocation_id.parse::<AllocationId>() else { return };
        warn!(%id, message = refusal.message, "shim refused a start");
        let dir = self.dir_of(id);
        let end = if refusal.code == i32::from(RefusalCode::AlreadyEnded) {
            let unseen = || {
                let reason = "it has ended before; how is not known";
                ends::without_worker(EndCause::Unseen, reason.to_owned())
            };
            ends::recorded(&dir, &self.settings.dir.shims(), id).unwrap_or_else(unseen)
        } else {
            let reason = format!("the shim refused: {}", refusal.message);
            ends::without_worker(EndCause::HostFault, reason)
        };
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.shim = None;
        }
        // What it holds is not what was thought: it starts nothing more.
        self.pool.remove(shim);
        self.ended(id, end);
    }

    /// The connection ended: the shim was killed, or only dropped us.
    fn shim_gone(&mut self, shim: ShimId) {
        let allocation = self.pool.allocation_of(shim);
        let Some(dir) = self.pool.remove(shim) else { return };
        let Some(id) = allocation else { return };
        if self.workers.get(&id).is_none_or(|worker| worker.end.is_some()) {
            return;
        }
        warn!(%id, shim = shim.0, "connection to shim is lost");
        let events = self.events.clone();
        tokio::task::spawn_blocking(move || {
            let outcome = shim_link::reconnect(&dir).map_err(|error| in_words(&error));
            // The agent may be ending.
            let _ = events.send(Event::ShimReconnected(shim, outcome));
        });
    }

    pub(super) fn shim_reconnected(&mut self, shim: ShimId, outcome: Result<Connected, String>) {
        let held = self.workers.iter().find(|(_, worker)| worker.shim == Some(shim));
        let Some((id, _)) = held else { return };
        let id = *id;
        match outcome {
            Ok(connected) if connected.state.allocation_id == id.to_string() => {
                let (dir, state) = (connected.handle.dir().to_owned(), connected.state.clone());
                let link = self.link(shim, connected);
                self.pool.insert_holding(shim, dir, link, id);
                self.shim_state(shim, &state);
                let worker = self.observed.allocations.get(&id).map(|seen| seen.worker);
                if worker == Some(Worker::Stopping) {
                    // It may have been asked for while nobody listened.
                    let row = self.wishes.rows.get(&id);
                    self.ask_to_stop(id, row.map(|row| row.stop));
                }
            }
            Ok(_) => self.abandon(id, "its shim does not hold it"),
            Err(problem) => self.abandon(id, &problem),
        }
    }

    fn abandon(&mut self, id: AllocationId, problem: &str) {
        warn!(%id, problem, "shim is gone");
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.shim = None;
        }
        let ended = self.workers.get(&id).is_none_or(|worker| worker.end.is_some());
        if !ended {
            self.set_worker(id, Worker::Abandoned);
        }
    }
}
