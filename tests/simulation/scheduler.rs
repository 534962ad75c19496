//! The process of a scheduler: it starts, follows Raft, dies and starts again
//! from its disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_raft::device::memory::MemoryDevice;
use berth_raft::transport::sim::SimTransport;
use berth_raft::{FatalReason, RaftNode, RaftOptions, RaftStatus, Role, Runtime};
use berth_state::ClusterState;
use openraft_rt_sim::SimRuntime;

use crate::app::{Shown, SimApp};
use crate::inbox::{SchedulerEvent, Signal};
use crate::leader::Term;
use crate::rng::Rng;
use crate::world::{Event, MILLI, SECOND, Spot, World};

pub type Node = RaftNode<SimApp, SimRuntime, MemoryDevice, SimTransport<SimRuntime>>;

pub const CLUSTER: [u8; 16] = [9; 16];

pub struct Scheduler {
    pub id: u64,
    pub disk: MemoryDevice,
    pub life: u32,
    pub run: Run,
    pub shown: Shown,
    pub status: Option<RaftStatus>,
    /// Its clock runs so many millionths too fast.
    pub drift_ppm: i64,
    pub term: Option<Term>,
    /// The term in which a read was begun to learn whether it may lead.
    looking: Option<u64>,
    pub paused_until: u64,
    /// What happened to it while it was frozen.
    pub deferred: VecDeque<(u32, SchedulerEvent)>,
    applied: u64,
    voted: u64,
}

/// A node that is to be started by the loop itself: its future is not `Send`
/// in general.
pub struct Birth {
    id: u64,
    life: u32,
    options: RaftOptions,
    app: SimApp,
    disk: MemoryDevice,
    transport: SimTransport<SimRuntime>,
}

/// Whether its process lives.
pub enum Run {
    Down,
    Starting,
    Up(Node),
    /// Its tasks are being ended.
    Dying,
}

impl Scheduler {
    pub fn new(id: u64, rng: &mut Rng) -> Scheduler {
        let disk = MemoryDevice::new();
        disk.set_latency(Duration::from_micros(rng.pick(&[200, 1_000, 8_000])));
        let drift = rng.drift_ppm();
        Scheduler {
            id,
            disk,
            life: 0,
            run: Run::Down,
            shown: Arc::default(),
            status: None,
            drift_ppm: drift,
            term: None,
            looking: None,
            paused_until: 0,
            deferred: VecDeque::new(),
            applied: 0,
            voted: 0,
        }
    }

    pub fn node(&self) -> Option<&Node> {
        match &self.run {
            Run::Up(node) => Some(node),
            Run::Down | Run::Starting | Run::Dying => None,
        }
    }

    pub fn view(&self) -> ClusterState {
        self.shown.lock().unwrap().clone()
    }
}

impl World {
    pub fn start_scheduler(&mut self, id: u64) {
        let scheduler = self.schedulers.get_mut(&id).unwrap();
        match scheduler.run {
            Run::Down => {}
            Run::Dying => return self.at(50 * MILLI, Event::StartScheduler(id)),
            Run::Starting | Run::Up(_) => return,
        }
        scheduler.life += 1;
        scheduler.run = Run::Starting;
        scheduler.shown = Arc::new(Mutex::new(ClusterState::default()));
        scheduler.status = None;
        // A vote that was never synced was never given: nobody heard of it.
        (scheduler.applied, scheduler.voted) = (0, 0);
        let life = scheduler.life;
        let app = SimApp {
            id,
            life,
            state: ClusterState::default(),
            shown: scheduler.shown.clone(),
            oracle: self.oracle.clone(),
            inbox: self.inbox.clone(),
        };
        let mut options = RaftOptions::new(id, CLUSTER, format!("scheduler-{id}"));
        options.timers = self.plan.timers;
        options.snapshots = self.plan.snapshots;
        options.propose_wait_max = Duration::from_secs(4);
        let (disk, transport) = (scheduler.disk.clone(), self.network.transport());
        self.births.push(Birth { id, life, options, app, disk, transport });
        self.recut();
        self.note(|| format!("scheduler {id} starts, life {life}"));
    }

    pub async fn deliver(&mut self) {
        while let Some(birth) = self.births.pop() {
            let Birth { id, life, options, app, disk, transport } = birth;
            let started = Node::start(options, app, disk, transport).await;
            self.scheduler_event(id, life, SchedulerEvent::Started(started));
        }
    }

    pub fn scheduler_event(&mut self, id: u64, life: u32, event: SchedulerEvent) {
        if self.schedulers[&id].life != life {
            return;
        }
        match event {
            SchedulerEvent::Started(Ok(node)) => self.scheduler_started(id, node),
            SchedulerEvent::Started(Err(error)) => {
                self.violated(format!("scheduler {id} does not start: {error}"));
            }
            SchedulerEvent::Status(status) => self.status(id, status),
            SchedulerEvent::Published => self.published(id),
            SchedulerEvent::Fatal(FatalReason::Shutdown) => {}
            SchedulerEvent::Fatal(FatalReason::Entry { index, error }) => {
                self.violated(format!("scheduler {id} cannot read entry {index}: {error}"));
            }
            SchedulerEvent::Fatal(reason) => {
                self.note(|| format!("scheduler {id} stops: {reason}"));
                let wait = self.rng.range(100 * MILLI, 2 * SECOND);
                self.crash_scheduler(id, 0, wait);
            }
            SchedulerEvent::Ready { term, read } => {
                self.schedulers.get_mut(&id).unwrap().looking = None;
                if read.is_ok() {
                    self.begin_term(id, term);
                } else {
                    self.at(50 * MILLI, Event::Look(id, life));
                }
            }
            SchedulerEvent::Committed(outcome) => self.committed(id, outcome),
            SchedulerEvent::Read { client, op, result } => self.read_done(id, client, op, result),
            SchedulerEvent::Stopped => {
                self.schedulers.get_mut(&id).unwrap().run = Run::Down;
            }
        }
    }

    fn scheduler_started(&mut self, id: u64, node: Node) {
        let scheduler = self.schedulers.get_mut(&id).unwrap();
        if !matches!(scheduler.run, Run::Starting) {
            return;
        }
        scheduler.run = Run::Up(node.clone());
        let life = scheduler.life;
        self.network.join(id, Arc::new(node.clone()));
        let (inbox, watched) = (self.inbox.clone(), node.clone());
        drop(SimRuntime::spawn(async move {
            let mut changes = watched.status_changes();
            let first = changes.current();
            let mut last = without_ages(first.clone());
            inbox.push(Signal::Scheduler(id, life, SchedulerEvent::Status(first)));
            while let Some(status) = changes.changed().await {
                let seen = without_ages(status.clone());
                if seen != last {
                    inbox.push(Signal::Scheduler(id, life, SchedulerEvent::Status(status)));
                }
                last = seen;
            }
        }));
        let (inbox, watched) = (self.inbox.clone(), node.clone());
        drop(SimRuntime::spawn(async move {
            let reason = watched.fatal().await;
            inbox.push(Signal::Scheduler(id, life, SchedulerEvent::Fatal(reason)));
        }));
        let everyone = self.schedulers.values().all(|other| other.node().is_some());
        let pristine = self.schedulers.values().all(|other| other.life == 1);
        if everyone && pristine {
            let members: BTreeMap<u64, String> =
                self.schedulers.keys().map(|id| (*id, format!("scheduler-{id}"))).collect();
            drop(SimRuntime::spawn(async move {
                node.bootstrap(members).await.expect("nothing was founded before");
            }));
        }
    }

    fn status(&mut self, id: u64, status: RaftStatus) {
        let scheduler = self.schedulers.get_mut(&id).unwrap();
        let applied = status.applied_index.unwrap_or(0);
        if applied < scheduler.applied {
            let before = scheduler.applied;
            self.violated(format!("scheduler {id} went from entry {before} back to {applied}"));
        }
        let scheduler = self.schedulers.get_mut(&id).unwrap();
        if status.term < scheduler.voted {
            let before = scheduler.voted;
            self.violated(format!("scheduler {id} went from term {before} to {}", status.term));
        }
        let scheduler = self.schedulers.get_mut(&id).unwrap();
        (scheduler.applied, scheduler.voted) = (applied, status.term);
        let leads = status.role == Role::Leader;
        let ended =
            scheduler.term.as_ref().is_some_and(|term| !leads || term.number != status.term);
        if leads {
            self.oracle.lock().unwrap().led(id, status.term);
        }
        let scheduler = self.schedulers.get_mut(&id).unwrap();
        let life = scheduler.life;
        scheduler.status = Some(status);
        if ended {
            self.end_term(id);
        }
        if leads {
            self.look(id, life);
        }
    }

    /// A new leader leads when it has applied what was committed before it.
    pub fn look(&mut self, id: u64, life: u32) {
        let scheduler = self.schedulers.get_mut(&id).unwrap();
        let Some(status) = &scheduler.status else { return };
        let term = status.term;
        let leads = status.role == Role::Leader && scheduler.term.is_none();
        if scheduler.life != life || !leads || scheduler.looking == Some(term) {
            return;
        }
        scheduler.looking = Some(term);
        let Run::Up(node) = &scheduler.run else { return };
        let (node, inbox) = (node.clone(), self.inbox.clone());
        drop(SimRuntime::spawn(async move {
            let read = node.read_index().await;
            inbox.push(Signal::Scheduler(id, life, SchedulerEvent::Ready { term, read }));
        }));
    }

    /// It is no longer frozen.
    pub fn resume_scheduler(&mut self, id: u64) {
        self.recut();
        while let Some((life, event)) = self.schedulers.get_mut(&id).unwrap().deferred.pop_front() {
            self.scheduler_event(id, life, event);
        }
    }

    /// Its power is cut: of the writes not yet synced the first `kept` stay.
    pub fn crash_scheduler(&mut self, id: u64, kept: usize, down_us: u64) {
        let scheduler = self.schedulers.get_mut(&id).unwrap();
        let Some(node) = scheduler.node().cloned() else { return };
        scheduler.run = Run::Dying;
        scheduler.life += 1;
        let life = scheduler.life;
        scheduler.looking = None;
        scheduler.paused_until = 0;
        scheduler.deferred.clear();
        scheduler.disk.crash(kept);
        self.network.leave(id);
        self.end_term(id);
        self.recut();
        let inbox = self.inbox.clone();
        drop(SimRuntime::spawn(async move {
            node.shutdown().await;
            inbox.push(Signal::Scheduler(id, life, SchedulerEvent::Stopped));
        }));
        self.count("schedulers crashed");
        self.note(|| format!("scheduler {id} dies, {kept} unsynced writes kept"));
        self.at(down_us, Event::StartScheduler(id));
    }

    /// Tells the network of Raft what is cut: by partitions, and because a
    /// process does not run.
    pub fn recut(&mut self) {
        self.network.heal();
        for (from, to) in &self.cut {
            if let (Spot::Scheduler(from), Spot::Scheduler(to)) = (from, to) {
                self.network.cut(*from, *to);
            }
        }
        let now = crate::world::now();
        let silent: Vec<u64> = self
            .schedulers
            .values()
            .filter(|one| matches!(one.run, Run::Dying) || one.paused_until > now)
            .map(|one| one.id)
            .collect();
        for id in silent {
            for other in self.schedulers.keys().filter(|other| **other != id) {
                self.network.cut(id, *other);
                self.network.cut(*other, id);
            }
        }
    }
}

/// A status without what changes with every moment: how long ago a majority and
/// each member answered.
fn without_ages(mut status: RaftStatus) -> RaftStatus {
    status.millis_since_quorum = None;
    for member in &mut status.members {
        member.heard_ms = None;
    }
    status
}
