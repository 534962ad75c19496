//! What was decided is done.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use berth_model::{AllocationId, Driver, EndCause, StopPolicy};
use berth_shim::protocol::{RequestBody, StartRequest, StopRequest};
use berth_shim::{KillError, kill_all};
use berth_supervise::{AgentMs, Allocation, StopReason, Worker, WorkerAction};
use berth_wire::agent::worker_to_proto;
use tracing::{error, info, warn};

use super::pool::in_words;
use super::worker::WorkerEntry;
use super::{Event, Node, ends};
use crate::allocation_dir::{AllocationDir, AllocationRecord, UnstartedCause};
use crate::confinement::{Confined, Level, nodes_of_parts};
use crate::request::start_request;
use crate::wanted::Wanted;
use crate::{ports, worker_user};

/// How long one try to end abandoned processes may take before the cluster is
/// told that they do not end; the tries go on.
const SWEEP_PATIENCE: Duration = Duration::from_secs(5);

impl Node {
    pub(super) fn carry_out(&mut self, action: WorkerAction, reports: &mut BTreeSet<AllocationId>) {
        match action {
            WorkerAction::Start(id) => self.begin(id, reports),
            WorkerAction::EndUnstarted(id) => {
                let (cause, reason) = self.why_unstarted(id);
                self.end_unstarted(id, cause, reason);
                reports.insert(id);
            }
            WorkerAction::Stop { allocation, policy, reason } => {
                self.stop(allocation, policy, reason);
                reports.insert(allocation);
            }
            WorkerAction::Sweep(id) => self.sweep(id),
            WorkerAction::Report(id) => {
                reports.insert(id);
            }
            WorkerAction::Retire(id) => self.retire(id),
        }
    }

    /// Makes everything ready and lets it wait for a shim.
    fn begin(&mut self, id: AllocationId, reports: &mut BTreeSet<AllocationId>) {
        let Some(row) = self.wishes.rows.get(&id) else { return };
        let wanted = Arc::clone(&row.payload);
        let mut allocation = Allocation::new(Worker::Preparing, self.wishes.version.incarnation);
        // That it is being started is said only if somebody asks: a moment
        // later there is more to say.
        allocation.sent = Some(allocation.revision);
        self.observed.allocations.insert(id, allocation);
        let mut entry = WorkerEntry::new(Some(Arc::clone(&wanted)));
        entry.mps_percent = self.share_by_mps(&wanted);
        self.workers.insert(id, entry);
        metrics::counter!("berth_agent_starts_total").increment(1);
        match self.prepare(id, &wanted) {
            Ok(()) => self.fetch_or_launch(id, &wanted),
            Err((cause, reason)) => {
                warn!(%id, reason, "allocation cannot be started");
                self.end_unstarted(id, cause, reason);
                reports.insert(id);
            }
        }
    }

    fn prepare(&mut self, id: AllocationId, wanted: &Wanted) -> Result<(), (EndCause, String)> {
        let dir = self.dir_of(id);
        let fault = |reason: String| (EndCause::HostFault, reason);
        match dir.begin(&self.record_of(id)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let reason = "it was begun on this node before; what became of it is not known";
                return Err((EndCause::Unseen, reason.to_owned()));
            }
            Err(error) => return Err(fault(format!("make its directory: {error}"))),
        }
        if let Some(user) = self.settings.user {
            worker_user::give(&dir.task(), user)
                .map_err(|error| fault(format!("give its directory to its user: {error}")))?;
        }
        if let Some(port) = ports::unusable(&wanted.row.ports) {
            return Err((port.cause, port.reason));
        }
        let request = match wanted.task().driver {
            Driver::Exec => self.process_request(id, wanted, &dir),
            Driver::Docker { .. } => self.container_request(id, wanted, &dir),
        };
        let request = request.map_err(fault)?;
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.leased = request.lease_ends_at_boot_ms.is_some();
            worker.request = Some(Box::new(request));
        }
        Ok(())
    }

    /// When its shim ends it unless told of a renewal.
    pub(super) fn lease_of(&self, wanted: &Wanted) -> Option<AgentMs> {
        self.observed.lease.exclusive_ends_at().filter(|_| wanted.job.exclusive)
    }

    fn process_request(
        &mut self,
        id: AllocationId,
        wanted: &Wanted,
        dir: &AllocationDir,
    ) -> Result<StartRequest, String> {
        let variables = self.environment(wanted, &dir.task());
        let lease = self.lease_of(wanted);
        let request = start_request(wanted, &variables, dir, self.settings.user, lease);
        let bound = self.bound(id, wanted);
        let cgroups = bound.map_err(|problem| format!("hold it to its limits: {problem}"))?;
        let cgroup_dirs = cgroups.iter().map(|dir| dir.to_string_lossy().into_owned()).collect();
        let gpu_minors = match self.settings.confinement.level() {
            Level::Nothing | Level::Rights => Vec::new(),
            Level::View => self.minors_of(wanted)?,
        };
        let uuids = wanted.row.devices.iter().map(|claim| claim.uuid.as_str());
        let mut nodes = self.gpus.nodes(uuids);
        let is_part = |uuid: &str| self.gpus.whole(uuid).is_some_and(|whole| whole != uuid);
        if wanted.row.devices.iter().any(|claim| is_part(&claim.uuid)) {
            nodes.extend(nodes_of_parts());
        }
        let mps_directory = self.mps_directory_of(id);
        let confined = Confined { dir, gpu_minors, nodes, mps_directory };
        let request = StartRequest { cgroup_dirs, ..request };
        self.settings.confinement.confine(request, &confined)
    }

    /// By which numbers the driver counts the device nodes of a worker's GPUs; pretended ones
    /// need none.
    fn minors_of(&self, wanted: &Wanted) -> Result<Vec<u32>, String> {
        let are_simulated = self.settings.claims.is_some();
        let mut minors = Vec::new();
        for claim in &wanted.row.devices {
            match self.gpus.minor(claim.uuid.as_str()) {
                Some(minor) => minors.push(minor),
                None if are_simulated || self.gpus.is_listed(&claim.uuid) => {}
                None => {
                    let uuid = &claim.uuid;
                    return Err(format!("the driver does not say which device node is {uuid}'s"));
                }
            }
        }
        Ok(minors)
    }

    pub(super) fn record_of(&self, id: AllocationId) -> AllocationRecord {
        let wanted = self.wishes.rows.get(&id);
        AllocationRecord {
            allocation_id: id.to_string(),
            wanted_in: self.wishes.version.incarnation,
            boot_id: self.settings.boot_id.clone(),
            unstarted: None,
            ready: false,
            worker: wanted.map(|row| worker_to_proto(&row.payload.here())),
            mps_percent: self.workers.get(&id).and_then(|worker| worker.mps_percent),
        }
    }

    fn why_unstarted(&self, id: AllocationId) -> (EndCause, String) {
        let row = self.wishes.rows.get(&id);
        let asked = row.and_then(|row| row.payload.row.stop.clone());
        match (row, asked) {
            (Some(_), None) => (EndCause::Fenced, "the node's lease ended before its start".into()),
            (_, Some(reason)) if !reason.is_empty() => (EndCause::Stopped, reason),
            (None, _) | (_, Some(_)) => (EndCause::Stopped, "stopped before its start".into()),
        }
    }

    /// Ends what nothing was launched for.
    pub(super) fn end_unstarted(&mut self, id: AllocationId, cause: EndCause, reason: String) {
        let incarnation = self.wishes.version.incarnation;
        let wanted = self.wishes.rows.get(&id).map(|row| Arc::clone(&row.payload));
        self.observed
            .allocations
            .entry(id)
            .or_insert_with(|| Allocation::new(Worker::Preparing, incarnation));
        let worker = self.workers.entry(id).or_insert_with(|| WorkerEntry::new(wanted));
        (worker.request, worker.fetching) = (None, None);
        self.remember_unstarted(id, cause, &reason);
        self.ended(id, ends::without_worker(cause, reason));
    }

    /// The next agent must neither start it nor report another end. Says
    /// whether that is on record.
    pub(super) fn remember_unstarted(
        &self,
        id: AllocationId,
        cause: EndCause,
        reason: &str,
    ) -> bool {
        let cause = match cause {
            EndCause::CannotStart => UnstartedCause::CannotStart,
            EndCause::PortTaken => UnstartedCause::PortTaken,
            EndCause::Stopped => UnstartedCause::Stopped,
            EndCause::Fenced => UnstartedCause::Fenced,
            EndCause::HostFault => UnstartedCause::HostFault,
            EndCause::Exited => UnstartedCause::Failed,
            EndCause::OutOfMemory | EndCause::HostRebooted | EndCause::Unseen => return true,
        };
        let mut record = self.record_of(id);
        record.unstarted = Some(crate::allocation_dir::Unstarted {
            cause: cause.into(),
            reason: reason.to_owned(),
        });
        let dir = self.dir_of(id);
        let written = match dir.begin(&record) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => dir.write_record(&record),
            other => other,
        };
        if let Err(error) = &written {
            warn!(%id, %error, "allocation record cannot be written");
        }
        written.is_ok()
    }

    fn stop(&mut self, id: AllocationId, policy: Option<StopPolicy>, reason: StopReason) {
        info!(%id, ?reason, "allocation is asked to end");
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.stop_reason = Some(reason);
        self.ask_to_stop(id, policy);
        self.checks.remove(&id);
        self.set_worker(id, Worker::Stopping);
    }

    pub(super) fn ask_to_stop(&self, id: AllocationId, policy: Option<StopPolicy>) {
        let request = StopRequest {
            allocation_id: id.to_string(),
            signal: policy.map(|policy| policy.signal.number()),
            grace_ms: policy.map(|policy| policy.grace.0),
        };
        if let Some(shim) = self.workers.get(&id).and_then(|worker| worker.shim) {
            self.pool.ask(shim, RequestBody::Stop(request));
        }
    }

    /// Ends what has lost its shim. Its end may have been recorded before.
    fn sweep(&mut self, id: AllocationId) {
        self.checks.remove(&id);
        self.set_worker(id, Worker::Stopping);
        let dir = self.dir_of(id);
        let (shims, events) = (self.settings.dir.shims(), self.events.clone());
        let mark = self.mark_of(id);
        tokio::task::spawn_blocking(move || {
            while let Err(problem) = kill_all(&mark, SWEEP_PATIENCE) {
                error!(%id, %problem, "processes without their shim do not end");
                let told = events.send(Event::Swept(id, Err(in_words(&problem))));
                if told.is_err() {
                    return;
                }
                // Another user's process may still end by itself.
                if matches!(problem, KillError::Io { .. }) {
                    std::thread::sleep(SWEEP_PATIENCE);
                }
            }
            let end = ends::recorded(&dir, &shims, id);
            // The agent may be ending.
            let _ = events.send(Event::Swept(id, Ok(end)));
        });
    }

    pub(super) fn swept(
        &mut self,
        id: AllocationId,
        outcome: Result<Option<berth_model::EndReport>, String>,
    ) {
        match outcome {
            Ok(Some(end)) => self.ended(id, end),
            Ok(None) => {
                let reason = "the process that watched it was killed";
                self.ended(id, ends::without_worker(EndCause::Unseen, reason.to_owned()));
            }
            Err(problem) => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.detail = problem;
                }
                self.set_worker(id, Worker::Unkillable);
            }
        }
    }

    fn retire(&mut self, id: AllocationId) {
        self.observed.allocations.remove(&id);
        if let Some(end) = self.workers.remove(&id).and_then(|worker| worker.end) {
            self.ended_log.add(id, &end);
        }
        self.checks.remove(&id);
        self.forget_dir_later(id);
    }

    /// The worker is there now; what changed is to be said.
    pub(super) fn set_worker(&mut self, id: AllocationId, worker: Worker) {
        let Some(allocation) = self.observed.allocations.get_mut(&id) else { return };
        if allocation.worker == worker {
            return;
        }
        allocation.worker = worker;
        match worker {
            // As with the beginning: said only if asked.
            Worker::Preparing | Worker::Launching | Worker::Abandoned => {}
            Worker::Running | Worker::Stopping | Worker::Unkillable | Worker::Ended => {
                allocation.touch();
            }
        }
    }
}
