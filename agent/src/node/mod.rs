//! The agent's one loop and all of its state. Events come in, `step` decides,
//! and what it decides is done; nothing here waits for a disk, a network or a
//! worker.

mod act;
mod adopt;
mod asks;
mod bounds;
mod checks;
mod containers;
mod disks;
mod ends;
mod fetch;
mod gpus;
mod guard;
mod parts;
mod pool;
mod sharers;
mod shim_news;
mod shutdown;
mod stock;
mod uplink;
mod wishes;
mod worker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use berth_identity::Dialer;
use berth_model::{AllocationId, Device, DeviceClaim, DiskBytes, EndReport, Name, NodeSpec};
use berth_shim::protocol::UserIds;
use berth_supervise::gpu::Tested;
use berth_supervise::{Held, Observed, Order, Part, ProbeOutcome, Room, occupied, step};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::info;

use crate::allocation_dir::AllocationDir;
use crate::artifacts::{Fetches, Unplaced};
use crate::clock;
use crate::confinement::Confinement;
use crate::data_dir::DataDir;
use crate::docker::Docker;
use crate::ended_log::EndedLog;
use crate::exec::ExecRequests;
use crate::gpus::{Claims, Happened, Seen};
use crate::journal::{Journal, Outcome};
use crate::logs::LogRequests;
use crate::mps::Mps;
use crate::options::Program;
use crate::session::{Facts, SessionEvent};
use crate::shim_link::{Connected, ShimNews};
use crate::wanted::{Specs, Wishes};
use bounds::Holding;
use checks::Check;
use containers::ContainerNews;
use disks::DiskWatch;
use guard::Guard;
pub use guard::Repairs;
pub use pool::in_words;
use pool::{Pool, ShimId};
use sharers::{SharedLook, Sharers};
use shutdown::Stopping;
use uplink::Uplink;
use worker::WorkerEntry;

/// Events taken before a decision: enough to coalesce a burst, few enough that
/// the first of them does not wait for long.
const EVENTS_PER_TURN_MAX: usize = 256;

/// What a node is, fixed while the agent runs.
pub struct Settings {
    pub name: Name,
    /// All but its devices.
    pub spec: NodeSpec,
    /// Who is told what is claimed of simulated GPUs.
    pub claims: Option<watch::Sender<Claims>>,
    pub repairs: Repairs,
    pub boot_id: String,
    pub dir: DataDir,
    pub user: Option<UserIds>,
    pub confinement: Confinement,
    /// How schedulers are reached.
    pub dialer: Dialer,
    pub shim: Program,
    pub docker: Docker,
    pub fetches: Fetches,
    pub mps_directory: Option<PathBuf>,
}

/// What happens inside the agent. The channel has no bound of its own: each
/// sender has at most a few events under way for each worker.
pub enum Event {
    Shim(ShimId, ShimNews),
    ShimStarted(ShimId, Result<Connected, String>),
    ShimReconnected(ShimId, Result<Connected, String>),
    Journal(Outcome),
    Gpus(Seen),
    GpuFault(Happened),
    /// By uuid.
    GpuMended(String, Result<(), String>),
    GpuTested(String, Tested),
    Sharers(SharedLook),
    Probed(AllocationId, ProbeOutcome, String),
    Container(AllocationId, ContainerNews),
    Fetched(AllocationId, Result<(), Unplaced>),
    /// Its limit, and what it has on the disk.
    OverDisk(Vec<(AllocationId, DiskBytes, DiskBytes)>),
    /// Everything of it is gone, or this is left.
    Swept(AllocationId, Result<Option<EndReport>, String>),
    StopAll,
}

/// Why the loop ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Everything was stopped.
    AllStopped,
    /// Something is left in spite of everything.
    SomethingLeft,
}

/// The agent's state. One task owns it.
pub struct Node {
    settings: Arc<Settings>,
    wishes: Wishes,
    specs: Specs,
    observed: Observed,
    workers: BTreeMap<AllocationId, WorkerEntry>,
    pool: Pool,
    /// Prepared and without a shim, in the order of their wishes.
    waiting: VecDeque<AllocationId>,
    checks: BTreeMap<AllocationId, Check>,
    journal: Journal,
    ended_log: EndedLog,
    /// Wishes on their way to the disk and the sequence that brings them.
    pending: BTreeMap<AllocationId, wishes::Pending>,
    /// When the journal is to be written anew after a failure.
    journal_retry_at: Option<Instant>,
    journal_failing_since: Option<Instant>,
    /// The GPUs as they were last seen, and the devices that follow.
    gpus: Seen,
    devices: Vec<Device>,
    guard: Guard,
    sharers: Sharers,
    /// Where an operator says that there is MPS.
    mps: Option<Mps>,
    holding: Holding,
    disks: DiskWatch,
    /// Counts the changes of the devices.
    inventory: u64,
    uplink: Uplink,
    full_requested: bool,
    logs: LogRequests,
    execs: ExecRequests,
    /// What of the journal is on disk.
    durable_sequence: u64,
    /// Forgotten allocations whose directories are still there, oldest first,
    /// and the journal's sequence by which their rows are gone.
    retired: VecDeque<(AllocationId, u64)>,
    events: mpsc::UnboundedSender<Event>,
    facts: watch::Sender<Facts>,
    connected: Arc<AtomicBool>,
    stopping: Option<Stopping>,
}

impl Node {
    /// Runs until everything is stopped; dropping the future leaves everything
    /// as it is.
    pub async fn run(
        mut self,
        mut events: mpsc::UnboundedReceiver<Event>,
        mut sessions: mpsc::Receiver<SessionEvent>,
    ) -> Ended {
        Node::describe_metrics();
        self.turn();
        loop {
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                Some(event) = events.recv() => self.handle(event),
                Some(event) = sessions.recv() => self.handle_session(event),
                () = sleep_until(deadline) => {}
            }
            for _ in 0..EVENTS_PER_TURN_MAX {
                if let Ok(event) = events.try_recv() {
                    self.handle(event);
                } else if let Ok(event) = sessions.try_recv() {
                    self.handle_session(event);
                } else {
                    break;
                }
            }
            if let Some(ended) = self.turn() {
                return ended;
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Shim(shim, news) => self.handle_shim(shim, news),
            Event::ShimStarted(shim, outcome) => self.shim_started(shim, outcome),
            Event::ShimReconnected(shim, outcome) => self.shim_reconnected(shim, outcome),
            Event::Journal(outcome) => self.journal_reported(outcome),
            Event::Gpus(seen) => self.saw_gpus(seen),
            Event::GpuFault(happened) => self.gpu_fault(happened),
            Event::GpuMended(uuid, outcome) => self.gpu_mended(&uuid, outcome),
            Event::GpuTested(uuid, outcome) => self.gpu_tested(&uuid, outcome),
            Event::Sharers(look) => self.sharers_seen(look),
            Event::Probed(id, outcome, problem) => self.probed(id, outcome, problem),
            Event::Container(id, news) => self.container_news(id, news),
            Event::Fetched(id, outcome) => self.fetched(id, outcome),
            Event::OverDisk(over) => self.over_disk(over),
            Event::Swept(id, outcome) => self.swept(id, outcome),
            Event::StopAll => self.begin_stopping(),
        }
    }

    /// Decides and acts on all that is known now.
    fn turn(&mut self) -> Option<Ended> {
        if self.stopping.is_some() {
            return self.go_on_stopping();
        }
        self.retry_journal();
        self.repeat_reports();
        self.guard_in_time();
        self.end_parts();
        self.look_at_disks();
        self.start_due_checks();
        self.observed.occupied = self.occupied();
        let mut reports = BTreeSet::new();
        for action in step(&self.wishes, &self.observed, clock::now()) {
            self.carry_out(action, &mut reports);
        }
        self.launch_waiting();
        self.send_reports(reports);
        self.fill_pool();
        self.publish_facts();
        None
    }

    /// Where an allocation keeps everything.
    fn dir_of(&self, id: AllocationId) -> AllocationDir {
        AllocationDir::of(&self.settings.dir.allocations(), id)
    }

    /// The workers that have not ended.
    fn workers_here(&self) -> impl Iterator<Item = (&AllocationId, &WorkerEntry)> {
        self.workers.iter().filter(|(_, worker)| worker.end.is_none())
    }

    /// Wishes that wait for a worker to leave a device: the cluster gives one
    /// away as soon as it gives an allocation up, which may live on here.
    fn occupied(&self) -> BTreeSet<AllocationId> {
        let unbegun = self.wishes.rows.iter().filter(|(id, row)| {
            row.order == Order::Run && !self.observed.allocations.contains_key(id)
        });
        let wishes = unbegun.flat_map(|(id, row)| {
            row.payload.row.devices.iter().map(|claim| (*id, part_of(claim)))
        });
        let held = self.workers_here().flat_map(|(id, worker)| match worker.devices() {
            Some(claims) => {
                claims.iter().map(|claim| (*id, Held::Device(part_of(claim)))).collect()
            }
            None => vec![(*id, Held::Unknown)],
        });
        let devices = self.devices.iter().map(|device| (device.uuid.as_str(), device.memory));
        let room = Room {
            memory: devices.collect(),
            tasks_per_device_max: self.settings.spec.tasks_per_device_max,
        };
        occupied(wishes, held, self.unfree_devices(), &room)
    }

    /// When something is due without any event.
    fn next_deadline(&self) -> Instant {
        let now = clock::now();
        let lease = self.observed.lease.next_change(now);
        let check = self.checks.values().filter_map(Check::due_at).min();
        let next = lease.into_iter().chain(check).min();
        // A millisecond later, so that the moment has passed on every clock.
        let at =
            next.map(|at| Instant::now() + clock::until(at) + std::time::Duration::from_millis(1));
        let stopping = self.stopping.as_ref().map(Stopping::next_look);
        let at_work = stopping.is_none();
        at.into_iter()
            .chain(self.journal_retry_at)
            .chain(self.pool.trim_at())
            .chain(self.uplink.repeat_at().filter(|_| at_work))
            .chain(self.guard.next_look().filter(|_| at_work))
            .chain(self.holding.next_look().filter(|_| at_work))
            .chain(self.disks.next_look().filter(|_| at_work))
            .chain(stopping)
            .min()
            .unwrap_or_else(|| Instant::now() + std::time::Duration::from_secs(3600))
    }

    fn publish_facts(&mut self) {
        let count = u32::try_from(self.workers.len()).unwrap_or(u32::MAX);
        metrics::gauge!("berth_agent_allocations").set(f64::from(count));
        self.tell_claims();
        let facts = self.facts();
        self.facts.send_if_modified(|known| {
            let changed = *known != facts;
            *known = facts;
            changed
        });
    }

    fn describe_metrics() {
        metrics::describe_counter!(
            "berth_agent_over_share_total",
            "Allocations that were ended because they used more memory of a shared GPU than theirs"
        );
        metrics::describe_counter!(
            "berth_agent_gpu_errors_total",
            "Errors that the driver reported of GPUs, by their number (XID)"
        );
        metrics::describe_counter!("berth_agent_starts_total", "Allocations begun");
        metrics::describe_counter!("berth_agent_ends_total", "Allocations ended");
        metrics::describe_gauge!(
            "berth_agent_allocations",
            "Allocations on this node, ended ones that are still reported included"
        );
    }

    fn log_counts(&self) {
        info!(
            generation = self.wishes.version.generation,
            rows = self.wishes.rows.len(),
            allocations = self.observed.allocations.len(),
            "node is ready"
        );
    }
}

/// As much of a device as is claimed.
fn part_of(claim: &DeviceClaim) -> Part<&str> {
    Part { device: &claim.uuid, share: claim.share, memory: claim.memory }
}

#[cfg(test)]
mod tests;
