//! What the agent knows of one worker, and how it says so.

use std::sync::Arc;

use berth_model::{AllocationId, DeviceClaim, EndReport, StartPhase, WallMs};
use berth_proto::v1::Observation;
use berth_shim::protocol::StartRequest;
use berth_supervise::{StopReason, Verdict, Worker};
use berth_wire::agent::{
    Readiness, WorkerHere, ended, running, starting, stopping, unhealthy, unkillable,
};
use tokio::sync::watch;

use super::fetch::Fetching;
use super::pool::ShimId;
use crate::wanted::Wanted;

/// Everything beside what decisions look at.
pub struct WorkerEntry {
    /// Absent for one that was adopted and that nobody wants.
    pub wanted: Option<Arc<Wanted>>,
    /// For such a one: what was recorded when it was begun.
    pub recorded: Option<WorkerHere>,
    pub shim: Option<ShimId>,
    /// While it waits for a shim.
    pub request: Option<Box<StartRequest>>,
    /// Until its files are there.
    pub fetching: Option<Fetching>,
    /// Its shim ends it when the lease does, unless told of a renewal.
    pub leased: bool,
    pub started_at: Option<WallMs>,
    /// What the checks amount to; ready where there is none.
    pub verdict: Verdict,
    /// Its share of the processors, where it was begun as a client of MPS.
    pub mps_percent: Option<u32>,
    /// Its container is being removed.
    pub clearing: bool,
    /// For people: why it is unhealthy or does not end.
    pub detail: String,
    /// Why the agent asked it to end.
    pub stop_reason: Option<StopReason>,
    /// What it had more of than it may, if it is ended for that.
    pub over_limit: Option<String>,
    pub end: Option<EndReport>,
    /// Turns true at the end; followers of its output watch it.
    pub ended: watch::Sender<bool>,
}

impl WorkerEntry {
    pub fn new(wanted: Option<Arc<Wanted>>) -> WorkerEntry {
        let has_check = wanted.as_ref().is_some_and(|wanted| wanted.task().health.is_some());
        WorkerEntry {
            wanted,
            recorded: None,
            shim: None,
            request: None,
            fetching: None,
            leased: false,
            started_at: None,
            verdict: if has_check { Verdict::Pending } else { Verdict::Ready },
            mps_percent: None,
            clearing: false,
            detail: String::new(),
            stop_reason: None,
            over_limit: None,
            end: None,
            ended: watch::channel(false).0,
        }
    }

    /// What it is and holds; `None` where nothing says so any more.
    pub fn here(&self) -> Option<WorkerHere> {
        let wanted = self.wanted.as_ref().map(|wanted| wanted.here());
        wanted.or_else(|| self.recorded.clone())
    }

    /// The devices it holds; `None` where nothing says so any more.
    pub fn devices(&self) -> Option<&[DeviceClaim]> {
        match (&self.wanted, &self.recorded) {
            (Some(wanted), _) => Some(&wanted.row.devices),
            (None, Some(recorded)) => Some(&recorded.claim.devices),
            (None, None) => None,
        }
    }

    /// What is said of it to the cluster.
    pub fn observation(&self, id: AllocationId, worker: Worker) -> Observation {
        if let Some(end) = &self.end {
            return ended(id, end);
        }
        let started_at = self.started_at.unwrap_or_default();
        match worker {
            Worker::Preparing | Worker::Launching => {
                let launch = self.fetching.is_none();
                starting(id, if launch { StartPhase::Launch } else { StartPhase::Fetch })
            }
            Worker::Running => match self.verdict {
                Verdict::Pending => running(id, Readiness::NotYet, started_at),
                Verdict::Ready => running(id, Readiness::Ready, started_at),
                Verdict::Unhealthy => unhealthy(id, &self.detail),
            },
            // Without its report it is on the way to one.
            Worker::Stopping | Worker::Abandoned | Worker::Ended => stopping(id),
            Worker::Unkillable => unkillable(id, &self.detail),
        }
    }
}
