//! An agent: the real decisions of `supervise` around a host and a disk that
//! are models. It mirrors what the agent's loop does with each decision.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use berth_model::{
    AllocationId, CpuMilli, Device, DeviceClaim, DurationMs, EndCause, EndReport, JobSpec,
    MemoryBytes, Name, NodeSpec, PortRange, SpecDigest, TaskSpec, WallMs,
};
use berth_state::Observed as Said;
use berth_supervise::{
    AgentMs, Desired, Health, HealthPolicy, Held, Observed, Order, Part, Room, StopReason, Verdict,
    Worker, WorkerAction, occupied, step,
};
use berth_wire::agent::DesiredRow as WireRow;

use crate::host::Host;
use crate::oracle::Exit;
use crate::rng::Rng;
use crate::session::ToAgent;
use crate::work::GPUS_OF_A_NODE_MAX;
use crate::world::{Event, MILLI, World, now};

pub enum AgentEvent {
    Dial,
    Beat(u64),
    /// A message that came before comes again.
    Again(Box<ToAgent>),
    /// A write of desired state is on disk.
    Journal(u64),
    Launch(AllocationId),
    Begun(AllocationId),
    Exited(AllocationId),
    Unkillable(AllocationId),
    ShimLost(AllocationId),
    Swept(AllocationId),
    Probe(AllocationId),
    Turn,
}

/// A row with its specification.
#[derive(Clone, PartialEq, Debug)]
pub struct Wanted {
    pub row: WireRow,
    pub job: Arc<JobSpec>,
}

impl Wanted {
    pub fn task(&self) -> &TaskSpec {
        &self.job.tasks[usize::from(self.row.allocation.task.0)]
    }
}

pub type Wishes = Desired<Arc<Wanted>>;

/// What was written when an allocation was begun with.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub boot: u64,
    pub wanted_in: u64,
    pub unstarted: Option<EndCause>,
    pub written_at: u64,
}

/// What outlives the agent.
#[derive(Default)]
pub struct Disk {
    pub journal: Option<(u64, Wishes)>,
    pub records: BTreeMap<AllocationId, Record>,
    pub exits: BTreeMap<AllocationId, (Exit, Option<i32>)>,
    pub lease: Option<(u64, AgentMs, DurationMs)>,
}

pub struct WorkerEntry {
    pub wanted: Option<Arc<Wanted>>,
    pub end: Option<EndReport>,
    pub stop_reason: Option<StopReason>,
    started_at: Option<WallMs>,
    pub health: Option<Health>,
}

/// The agent's process.
pub struct Process {
    pub wishes: Wishes,
    pub specs: BTreeMap<SpecDigest, Arc<JobSpec>>,
    pub observed: Observed,
    pub workers: BTreeMap<AllocationId, WorkerEntry>,
    pub pending: BTreeMap<AllocationId, u64>,
    pub journal_sequence: u64,
    pub writes: VecDeque<(u64, Wishes)>,
    pub link: crate::uplink::Uplink,
    next_turn: Option<u64>,
}

pub struct Agent {
    pub name: Name,
    pub spec: NodeSpec,
    pub stop_after: Option<DurationMs>,
    /// Counts starts and ends of its process, so that old events miss it.
    pub life: u32,
    pub up: bool,
    pub host: Host,
    pub disk: Disk,
    pub process: Option<Process>,
    /// The newest version that was ever on its disk.
    pub durable: berth_supervise::Version,
}

impl Agent {
    pub fn new(index: usize, rng: &mut Rng) -> Agent {
        let gpus = u32::try_from(rng.range(3, GPUS_OF_A_NODE_MAX)).unwrap();
        let device = |number: u32| {
            Device::new(format!("GPU-{index}-{number}"), number, "H100", MemoryBytes(80 << 30))
        };
        let default = Name::new("default").unwrap();
        Agent {
            name: Name::new(&format!("agent-{index}")).unwrap(),
            spec: NodeSpec {
                labels: BTreeMap::new(),
                pool: default.clone(),
                zone: default,
                cpu: CpuMilli(16_000),
                memory: MemoryBytes(64 << 30),
                devices: (0..gpus).map(device).collect(),
                ports: PortRange::DEFAULT,
                agent_version: "simulation".to_owned(),
                docker_version: String::new(),
                tasks_per_device_max: berth_model::TASKS_PER_DEVICE_MAX_DEFAULT,
                address: String::new(),
            },
            stop_after: rng.chance(200).then_some(DurationMs(6_000)),
            life: 0,
            up: false,
            host: Host::new(rng),
            disk: Disk::default(),
            process: None,
            durable: berth_supervise::Version::default(),
        }
    }

    pub fn clock(&self) -> AgentMs {
        let elapsed = i128::from(now() - self.host.booted_at);
        let skewed = elapsed + elapsed * i128::from(self.host.drift_ppm) / 1_000_000;
        AgentMs(u64::try_from(skewed / 1000).unwrap())
    }

    /// How many microseconds from now its clock shows `at`.
    pub fn until(&self, at: AgentMs) -> u64 {
        let left = i128::from(at.0.saturating_sub(self.clock().0)) * 1000;
        let real = left - left * i128::from(self.host.drift_ppm) / 1_000_000;
        u64::try_from(real).unwrap() + MILLI
    }
}

impl WorkerEntry {
    pub fn new(wanted: Option<Arc<Wanted>>) -> WorkerEntry {
        WorkerEntry { wanted, end: None, stop_reason: None, started_at: None, health: None }
    }

    /// What is said of it.
    pub fn said(&self, worker: Worker) -> Said {
        match worker {
            Worker::Preparing | Worker::Launching => {
                Said::Starting(berth_model::StartPhase::Launch)
            }
            Worker::Running | Worker::Abandoned => {
                let started_at = self.started_at.unwrap_or_default();
                match self.health.as_ref().map(Health::verdict) {
                    None | Some(Verdict::Ready) => Said::Running { ready: true, started_at },
                    Some(Verdict::Pending) => Said::Running { ready: false, started_at },
                    Some(Verdict::Unhealthy) => Said::Unhealthy { detail: "no answer".to_owned() },
                }
            }
            Worker::Stopping => Said::Stopping,
            Worker::Unkillable => Said::Unkillable,
            Worker::Ended => match &self.end {
                Some(end) => Said::Ended(end.clone()),
                None => Said::Stopping,
            },
        }
    }
}

pub fn without_worker(cause: EndCause) -> EndReport {
    EndReport {
        cause,
        exit_code: None,
        signal: None,
        reason: String::new(),
        stderr_tail: String::new(),
        started_at: None,
        finished_at: WallMs(now() / 1000),
    }
}

pub fn from_exit(exit: Exit, signal: Option<i32>, reason: Option<StopReason>) -> EndReport {
    let cause = match (exit.stop_requested, reason) {
        (true, Some(StopReason::Fenced)) => EndCause::Fenced,
        (true, _) if exit.lease_ended => EndCause::Fenced,
        (true, _) => EndCause::Stopped,
        (false, _) => EndCause::Exited,
    };
    EndReport { cause, exit_code: exit.code, signal, ..without_worker(cause) }
}

impl Process {
    pub fn new(wishes: Wishes, observed: Observed) -> Process {
        let specs = wishes.rows.values().map(|row| (row.payload.row.spec, row.payload.job.clone()));
        Process {
            specs: specs.collect(),
            wishes,
            observed,
            workers: BTreeMap::new(),
            pending: BTreeMap::new(),
            journal_sequence: 0,
            writes: VecDeque::new(),
            link: crate::uplink::Uplink::default(),
            next_turn: None,
        }
    }

    pub fn set_worker(&mut self, id: AllocationId, worker: Worker) {
        let Some(allocation) = self.observed.allocations.get_mut(&id) else { return };
        if allocation.worker == worker {
            return;
        }
        allocation.worker = worker;
        match worker {
            Worker::Preparing | Worker::Launching | Worker::Abandoned => {}
            Worker::Running | Worker::Stopping | Worker::Unkillable | Worker::Ended => {
                allocation.touch();
            }
        }
    }

    pub fn ended(&mut self, id: AllocationId, end: EndReport) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.end.is_none() {
            worker.end = Some(end);
            worker.health = None;
            self.set_worker(id, Worker::Ended);
        }
    }

    pub fn begin_check(&mut self, id: AllocationId, clock: AgentMs) -> bool {
        let Some(worker) = self.workers.get_mut(&id) else { return false };
        let check = worker.wanted.as_ref().and_then(|wanted| wanted.task().health.clone());
        worker.started_at = worker.started_at.or(Some(WallMs(now() / 1000)));
        worker.health = check.map(|check| Health::new(HealthPolicy::from(&check), clock));
        worker.health.is_some()
    }

    /// Which wishes wait for a device that something here still holds.
    fn occupied(&self, spec: &NodeSpec) -> BTreeSet<AllocationId> {
        let unbegun = self.wishes.rows.iter().filter(|(id, row)| {
            row.order == Order::Run && !self.observed.allocations.contains_key(id)
        });
        let wishes = unbegun.flat_map(|(id, row)| {
            row.payload.row.devices.iter().map(|claim| (*id, part_of(claim)))
        });
        let here = self.workers.iter().filter(|(_, worker)| worker.end.is_none());
        let held = here.flat_map(|(id, worker)| match &worker.wanted {
            Some(wanted) => {
                let claims = wanted.row.devices.iter();
                claims.map(|claim| (*id, Held::Device(part_of(claim)))).collect()
            }
            None => vec![(*id, Held::Unknown)],
        });
        let devices = spec.devices.iter().map(|device| (device.uuid.as_str(), device.memory));
        let tasks_per_device_max = spec.tasks_per_device_max;
        occupied(wishes, held, [], &Room { memory: devices.collect(), tasks_per_device_max })
    }
}

/// As much of a device as is claimed.
fn part_of(claim: &DeviceClaim) -> Part<&str> {
    Part { device: &claim.uuid, share: claim.share, memory: claim.memory }
}

impl World {
    pub fn agent_event(&mut self, index: usize, life: u32, event: AgentEvent) {
        let agent = &self.agents[index];
        if agent.life != life || agent.process.is_none() {
            return;
        }
        match event {
            AgentEvent::Dial => self.agent_dials(index),
            AgentEvent::Beat(session) => self.agent_beats(index, session),
            AgentEvent::Again(message) => self.take_message(index, *message),
            AgentEvent::Journal(sequence) => self.journal_written(index, sequence),
            AgentEvent::Launch(id) => self.launch(index, id),
            AgentEvent::Begun(id) => self.begun(index, id),
            AgentEvent::Exited(id) => self.exited(index, id),
            AgentEvent::Unkillable(id) => {
                let alive = self.agents[index].host.processes.contains_key(&id);
                let process = self.agents[index].process.as_mut().unwrap();
                let stopping = process.observed.allocations.get(&id);
                if alive && stopping.is_some_and(|it| it.worker == Worker::Stopping) {
                    process.set_worker(id, Worker::Unkillable);
                }
            }
            AgentEvent::ShimLost(id) => {
                let process = self.agents[index].process.as_mut().unwrap();
                let open = process.workers.get(&id).is_some_and(|worker| worker.end.is_none());
                if open {
                    process.set_worker(id, Worker::Abandoned);
                }
            }
            AgentEvent::Swept(id) => self.swept(index, id),
            AgentEvent::Probe(id) => self.probe(index, id),
            AgentEvent::Turn => {
                self.agents[index].process.as_mut().unwrap().next_turn = None;
            }
        }
        self.turn(index);
    }

    /// Decides and acts on all that is known now.
    pub fn turn(&mut self, index: usize) {
        let clock = self.agents[index].clock();
        let agent = &mut self.agents[index];
        let Some(process) = &mut agent.process else { return };
        process.observed.not_durable = process.pending.keys().copied().collect();
        process.observed.occupied = process.occupied(&agent.spec);
        let actions = step(&process.wishes, &process.observed, clock);
        let mut reports = BTreeSet::new();
        for action in actions {
            self.carry_out(index, action, &mut reports);
        }
        self.send_report(index, reports.into_iter().collect());
        self.plan_turn(index);
    }

    fn plan_turn(&mut self, index: usize) {
        let agent = &self.agents[index];
        let clock = agent.clock();
        let Some(process) = &agent.process else { return };
        let Some(at) = process.observed.lease.next_change(clock) else { return };
        let due = now() + agent.until(at);
        if process.next_turn.is_none_or(|planned| planned > due) {
            let life = agent.life;
            self.agents[index].process.as_mut().unwrap().next_turn = Some(due);
            self.at(due - now(), Event::Agent(index, life, AgentEvent::Turn));
        }
    }

    fn carry_out(
        &mut self,
        index: usize,
        action: WorkerAction,
        reports: &mut BTreeSet<AllocationId>,
    ) {
        match action {
            WorkerAction::Start(id) => self.begin(index, id, reports),
            WorkerAction::EndUnstarted(id) => {
                let process = self.agents[index].process.as_ref().unwrap();
                let row = process.wishes.rows.get(&id);
                let fenced = row.is_some_and(|row| row.payload.row.stop.is_none());
                let cause = if fenced { EndCause::Fenced } else { EndCause::Stopped };
                self.end_unstarted(index, id, cause);
                reports.insert(id);
            }
            WorkerAction::Stop { allocation, policy, reason } => {
                self.stop(index, allocation, policy, reason);
                reports.insert(allocation);
            }
            WorkerAction::Sweep(id) => {
                self.count("workers swept");
                self.agents[index].process.as_mut().unwrap().set_worker(id, Worker::Stopping);
                let life = self.agents[index].life;
                let takes = self.rng.range(1, 300) * MILLI;
                self.at(takes, Event::Agent(index, life, AgentEvent::Swept(id)));
            }
            WorkerAction::Report(id) => {
                reports.insert(id);
            }
            WorkerAction::Retire(id) => {
                let process = self.agents[index].process.as_mut().unwrap();
                process.observed.allocations.remove(&id);
                process.workers.remove(&id);
            }
        }
    }
}
