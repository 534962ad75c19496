//! Files that are fetched before a worker starts.

use std::sync::Arc;

use berth_model::{AllocationId, EndCause};
use berth_supervise::Worker;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::{Event, Node};
use crate::artifacts::Unplaced;
use crate::ports;
use crate::wanted::Wanted;

/// Files on their way to one allocation. Dropping it ends what nobody else waits for.
pub struct Fetching(JoinHandle<()>);

impl Drop for Fetching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Node {
    /// Everything else is ready: its files are fetched, or it waits for a shim at once.
    pub(super) fn fetch_or_launch(&mut self, id: AllocationId, wanted: &Arc<Wanted>) {
        if wanted.task().artifacts.is_empty() {
            self.waiting.push_back(id);
            return;
        }
        // Should this agent end meanwhile, so does the allocation: it was begun, and nothing
        // was launched. What was fetched is there for the next one.
        let reason = "the agent ended while files were fetched";
        if !self.remember_unstarted(id, EndCause::Fenced, reason) {
            let reason = "write down that files are fetched: the disk does not take it";
            return self.end_unstarted(id, EndCause::HostFault, reason.to_owned());
        }
        let (fetches, events) = (self.settings.fetches.clone(), self.events.clone());
        let (wanted, task_dir) = (Arc::clone(wanted), self.dir_of(id).task());
        info!(%id, artifacts = wanted.task().artifacts.len(), "files are fetched");
        let fetching = tokio::spawn(async move {
            let task = wanted.task();
            let outcome = fetches.bring(&task.artifacts, &task_dir, &task.driver).await;
            // The agent may be ending.
            let _ = events.send(Event::Fetched(id, outcome));
        });
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.fetching = Some(Fetching(fetching));
        }
        self.tell_phase(id);
    }

    /// Its files are there, or will not be.
    pub(super) fn fetched(&mut self, id: AllocationId, outcome: Result<(), Unplaced>) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        // It has ended meanwhile.
        if worker.fetching.take().is_none() || worker.end.is_some() {
            return;
        }
        let wanted = worker.wanted.clone();
        if let Err(Unplaced { cause, reason }) = outcome {
            warn!(%id, reason, "allocation cannot be started");
            return self.end_unstarted(id, cause, reason);
        }
        // Long after they were looked at first.
        let taken = wanted.and_then(|wanted| ports::unusable(&wanted.row.ports));
        if let Some(port) = taken {
            return self.end_unstarted(id, port.cause, port.reason);
        }
        if let Err(error) = self.dir_of(id).write_record(&self.record_of(id)) {
            let reason = format!("write that it is launched: {error}");
            return self.end_unstarted(id, EndCause::HostFault, reason);
        }
        self.waiting.push_back(id);
        self.tell_phase(id);
    }

    /// Fetching takes long enough for people to ask.
    fn tell_phase(&mut self, id: AllocationId) {
        if let Some(allocation) = self.observed.allocations.get_mut(&id)
            && allocation.worker == Worker::Preparing
        {
            allocation.touch();
        }
    }
}
