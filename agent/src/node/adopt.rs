//! What a new agent finds of the one before it: shims with their workers, ends
//! that were recorded meanwhile, processes that lost their shim, and wishes
//! that were on disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use berth_model::{AllocationId, DurationMs, EndCause, EndReport, WallMs};
use berth_shim::protocol::{AllocationState, Phase};
use berth_shim::{ExitRecord, ShimError, scan};
use berth_supervise::{Allocation, Observed, Order, Verdict, Worker};
use berth_wire::agent::worker_from_proto;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use super::bounds::Holding;
use super::disks::DiskWatch;
use super::guard::Guard;
use super::pool::{Pool, ShimId, in_words};
use super::sharers::Sharers;
use super::uplink::Uplink;
use super::wishes::{kept_lease, replay};
use super::worker::WorkerEntry;
use super::{Event, Node, Settings, ends};
use crate::allocation_dir::{AllocationDir, AllocationRecord, FoundRecord, UnstartedCause};
use crate::cgroups::Cgroups;
use crate::ended_log::EndedLog;
use crate::exec::ExecRequests;
use crate::gpus::Seen;
use crate::journal::{self, Journal};
use crate::leftovers::allocations_alive;
use crate::logs::LogRequests;
use crate::session::Facts;
use crate::shim_link::{self, Connected};
use crate::wanted::{Specs, Wishes};

/// How long all shims together may take to answer.
const SHIMS_PATIENCE: Duration = Duration::from_secs(5);

/// What is on disk and among the processes.
struct Found {
    wishes: Wishes,
    specs: Specs,
    host: Host,
    shims: Vec<(ShimId, PathBuf, Connected)>,
    last_shim: u64,
    /// Directories whose shims are gone.
    dead_shims: BTreeSet<PathBuf>,
    alive: BTreeSet<AllocationId>,
    lanes: BTreeMap<AllocationId, ExitRecord>,
    lease: String,
}

impl Node {
    /// Finds everything and takes it over. Nothing is started or ended yet.
    ///
    /// # Errors
    /// The data directory cannot be read.
    pub async fn adopt(
        settings: Arc<Settings>,
        cgroups: Option<Cgroups>,
        stop_after: Option<DurationMs>,
        events: mpsc::UnboundedSender<Event>,
        facts: watch::Sender<Facts>,
        connected: Arc<AtomicBool>,
    ) -> anyhow::Result<Node> {
        let looked_at = Arc::clone(&settings);
        let found = tokio::task::spawn_blocking(move || look(&looked_at))
            .await
            .context("look at the data directory")??;
        let path = settings.dir.file("desired");
        let outcomes = events.clone();
        let journal = Journal::start(path, move |outcome| {
            // The agent may be ending.
            let _ = outcomes.send(Event::Journal(outcome));
        })?;
        let ended_log = settings.dir.ended_log();
        let guard = Guard::begin(&settings.dir);
        let lease = kept_lease(&found.lease, &settings.boot_id, stop_after);
        let mut node = Node {
            disks: DiskWatch::default(),
            logs: LogRequests::through(settings.dialer.clone()),
            execs: ExecRequests::through(settings.dialer.clone()),
            settings,
            wishes: found.wishes,
            specs: found.specs,
            observed: Observed::nothing(lease),
            workers: BTreeMap::new(),
            pool: Pool::starting_after(found.last_shim),
            waiting: VecDeque::new(),
            checks: BTreeMap::new(),
            journal,
            ended_log: EndedLog::open(ended_log),
            pending: BTreeMap::new(),
            journal_retry_at: None,
            journal_failing_since: None,
            gpus: Seen::default(),
            devices: Vec::new(),
            guard,
            sharers: Sharers::default(),
            mps: None,
            holding: Holding::with(cgroups),
            inventory: 0,
            uplink: Uplink::default(),
            full_requested: false,
            durable_sequence: 0,
            retired: VecDeque::new(),
            events,
            facts,
            connected,
            stopping: None,
        };
        if let Some(directory) = node.settings.mps_directory.clone() {
            node.look_at_mps(directory);
        }
        // It may have told a later incarnation what is here, and died before it
        // heard what that wants.
        node.observed.told_incarnation = node.settings.dir.cluster().served();
        for (shim, dir, connected) in found.shims {
            node.adopt_shim(shim, dir, connected);
        }
        node.adopt_processes(&found.alive);
        node.adopt_processes(&node.holding.alive());
        node.settle_wishes(found.host, &found.lanes);
        node.observed.note_wanted(&node.wishes);
        node.remove_empty_groups();
        node.clear_strangers();
        node.find_retired();
        node.clear_dead_shims(found.dead_shims);
        let full = crate::wanted::full_of(&node.wishes);
        node.journal.replace(&full, &node.settings.boot_id);
        node.log_counts();
        Ok(node)
    }

    fn adopt_shim(&mut self, shim: ShimId, dir: PathBuf, connected: Connected) {
        let state = connected.state.clone();
        let link = self.link(shim, connected);
        let Ok(id) = state.allocation_id.parse::<AllocationId>() else {
            return self.pool.insert_idle(shim, dir, link);
        };
        if self.workers.contains_key(&id) {
            error!(%id, shim = shim.0, "two shims hold one allocation");
            return;
        }
        self.pool.insert_holding(shim, dir, link, id);
        self.take_over(id, worker_of(&state));
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.shim = Some(shim);
            worker.leased = state.lease_ends_at_boot_ms.is_some();
            worker.started_at = Some(WallMs(state.started_at_unix_ms));
        }
        let runs = self.observed.allocations.get(&id).map(|seen| seen.worker);
        if runs == Some(Worker::Running) && self.awaits_container(id) {
            self.set_worker(id, Worker::Launching);
        } else {
            self.begin_check(id);
        }
        self.shim_state(shim, &state);
    }

    fn adopt_processes(&mut self, alive: &BTreeSet<AllocationId>) {
        for id in alive {
            if !self.workers.contains_key(id) {
                warn!(%id, "processes without their shim are found");
                self.take_over(*id, Worker::Abandoned);
            }
        }
    }

    /// It is here; whether it should be is decided later.
    fn take_over(&mut self, id: AllocationId, worker: Worker) {
        let record = match self.dir_of(id).record() {
            FoundRecord::Record(record) => *record,
            FoundRecord::Absent => AllocationRecord::default(),
            FoundRecord::SetAside(path) => {
                error!(%id, path = %path.display(), "allocation record is set aside");
                AllocationRecord::default()
            }
        };
        let wanted = self.wishes.rows.get(&id).map(|row| Arc::clone(&row.payload));
        self.observed.allocations.insert(id, Allocation::new(worker, record.wanted_in));
        let mut entry = WorkerEntry::new(wanted);
        entry.recorded = record.worker.and_then(|worker| worker_from_proto(worker).ok());
        entry.mps_percent = record.mps_percent;
        if record.ready {
            entry.verdict = Verdict::Ready;
        }
        self.workers.insert(id, entry);
    }

    /// What became of wishes that nothing is here for: begun and ended, or
    /// never begun.
    fn settle_wishes(&mut self, host: Host, lanes: &BTreeMap<AllocationId, ExitRecord>) {
        let rows: Vec<(AllocationId, Order)> =
            self.wishes.rows.iter().map(|(id, row)| (*id, row.order)).collect();
        for (id, order) in rows {
            if self.workers.contains_key(&id) {
                continue;
            }
            if let Some(end) = self.end_before(id, order, host, lanes) {
                self.take_over(id, Worker::Preparing);
                self.ended(id, end);
            }
        }
    }

    fn end_before(
        &self,
        id: AllocationId,
        order: Order,
        host: Host,
        lanes: &BTreeMap<AllocationId, ExitRecord>,
    ) -> Option<EndReport> {
        let dir = self.dir_of(id);
        // A recorded end comes first: the journal of a lane is synced when an
        // allocation's directory may not be, so it may outlive the directory.
        let lane = || lanes.get(&id).map(|record| ends::from_record(record, None));
        if let Some(end) = ends::recorded_beside(&dir, id).or_else(lane) {
            return Some(end);
        }
        let record = match dir.record() {
            // Never begun, or so shortly before a power cut that nothing of
            // it is on disk: after a reboot nobody can tell.
            FoundRecord::Absent if host == Host::SameBoot || order == Order::Stop => return None,
            FoundRecord::Absent => {
                self.remember_lost(id, &dir);
                return Some(rebooted());
            }
            FoundRecord::Record(record) => Some(*record),
            FoundRecord::SetAside(path) => {
                error!(%id, path = %path.display(), "allocation record is set aside");
                None
            }
        };
        let Some(record) = record else {
            let path = dir.path().display();
            let reason = format!("its record is garbled or missing in {path}");
            return Some(ends::without_worker(EndCause::Unseen, reason));
        };
        if let Some(unstarted) = record.unstarted {
            let cause =
                UnstartedCause::try_from(unstarted.cause).unwrap_or(UnstartedCause::Unspecified);
            return Some(ends::without_worker(cause.into(), unstarted.reason));
        }
        if record.boot_id != self.settings.boot_id {
            return Some(rebooted());
        }
        let reason = "nothing of it is left on its node";
        Some(ends::without_worker(EndCause::Unseen, reason.to_owned()))
    }

    /// The agent after this one must not take it for new.
    fn remember_lost(&self, id: AllocationId, dir: &AllocationDir) {
        let record =
            AllocationRecord { boot_id: "an earlier one".to_owned(), ..self.record_of(id) };
        if let Err(error) = dir.begin(&record) {
            warn!(%id, %error, "allocation record cannot be written");
        }
    }

    /// Directories of allocations that nobody asks for, oldest first.
    fn find_retired(&mut self) {
        let entries = std::fs::read_dir(self.settings.dir.allocations());
        let mut found: Vec<_> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let id = entry.file_name().to_str()?.parse::<AllocationId>().ok()?;
                Some((entry.metadata().ok()?.modified().ok()?, id))
            })
            .filter(|(_, id)| !self.workers.contains_key(id) && !self.wishes.rows.contains_key(id))
            .collect();
        found.sort();
        self.retired = found.into_iter().map(|(_, id)| (id, 0)).collect();
    }

    /// Their journals were read. They go only once nothing is left to report:
    /// the ends in them are known here, but should this agent fall before they
    /// are recorded by the cluster, the next one must find them again.
    fn clear_dead_shims(&self, dirs: BTreeSet<PathBuf>) {
        if !self.workers.is_empty() {
            return;
        }
        tokio::task::spawn_blocking(move || {
            for dir in dirs {
                // Left for the next start.
                let _ = std::fs::remove_dir_all(dir);
            }
        });
    }
}

/// Whether the host has been booted since the desired state was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Host {
    SameBoot,
    Rebooted,
}

fn rebooted() -> EndReport {
    ends::without_worker(EndCause::HostRebooted, "the host was rebooted".to_owned())
}

fn worker_of(state: &AllocationState) -> Worker {
    match Phase::try_from(state.phase) {
        Ok(Phase::Stopping) => Worker::Stopping,
        Ok(Phase::Unkillable) => Worker::Unkillable,
        Ok(Phase::Idle | Phase::Running | Phase::Clearing | Phase::Recording | Phase::Ended)
        | Err(_) => Worker::Running,
    }
}

/// Everything that takes files and processes to know. Blocks.
fn look(settings: &Settings) -> anyhow::Result<Found> {
    let path = settings.dir.file("desired");
    let journal = journal::read(&path)?;
    if let Some((aside, problem)) = &journal.garbled {
        error!(path = %aside.display(), problem, "desired state was damaged and is set aside");
    }
    let (wishes, specs) = replay(&journal).unwrap_or_else(|error| {
        let aside = crate::allocation_dir::set_aside(&path);
        error!(path = %aside.display(), %error, "desired state is set aside");
        (Wishes::default(), Specs::default())
    });
    let host = if journal.boot_id.is_empty() || journal.boot_id == settings.boot_id {
        Host::SameBoot
    } else {
        Host::Rebooted
    };
    let shims_dir = settings.dir.shims();
    let mut last_shim = 0;
    // Also those that quit by themselves while no agent was there.
    let mut dead_shims = BTreeSet::new();
    for entry in std::fs::read_dir(&shims_dir).context("list shims")? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        last_shim = last_shim.max(number.unwrap_or(0));
        dead_shims.insert(entry.path());
    }
    let mut shims = Vec::new();
    for found in scan(&shims_dir, SHIMS_PATIENCE).context("find shims")? {
        let number = found.dir.file_name().and_then(|name| name.to_str()?.parse().ok());
        match found.shim.and_then(shim_link::attach) {
            Ok(connected) => {
                dead_shims.remove(&found.dir);
                shims.push((ShimId(number.unwrap_or(0)), found.dir, connected));
            }
            Err(ShimError::Stale { .. } | ShimError::Absent { .. }) => {}
            Err(problem) => {
                dead_shims.remove(&found.dir);
                error!(dir = %found.dir.display(), problem = in_words(&problem), "shim is lost");
            }
        }
    }
    info!(shims = shims.len(), rows = wishes.rows.len(), ?host, "data directory is read");
    Ok(Found {
        wishes,
        specs,
        host,
        lanes: ends::lane_records(&shims_dir),
        shims,
        last_shim,
        dead_shims,
        alive: allocations_alive(&settings.dir.allocations()).context("list processes")?,
        lease: std::fs::read_to_string(settings.dir.file("lease")).unwrap_or_default(),
    })
}
