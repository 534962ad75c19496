//! Prints how long one placement decision takes on a cluster that is nine tenths full, of
//! nodes and requests of many kinds, while work comes and goes; without log, network or
//! agents, on one core: `cargo run --release --example decision -p berth-placement -- [NODES]
//! [POLICY]`. The same is done with a tenth of the nodes, to see how the time grows; then
//! something urgent comes for which others have to end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use berth_model::{
    AllocationId, CpuMilli, Device, EndCause, EndReport, Gang, GpuRequest, JobKind, JobSpec,
    MemoryBytes, Name, NodeId, NodeSpec, Policy, PortRange, Preemption, ShareMilli, SpecDigest,
    StateMs, TASKS_PER_DEVICE_MAX_DEFAULT, TaskSpec, WallMs,
};
use berth_placement::{Budget, MixCounts, Planner, SoftView};
use berth_state::{ClusterState, Command, Entry, Observation, Observed, Reply, SubmitJob};

#[expect(clippy::disallowed_types, reason = "measuring is what this program is for")]
type Clock = std::time::Instant;

const GPUS: u64 = 8;
const DECISIONS: usize = 20_000;
const URGENT: usize = 20;
const MEMBERS: u32 = 16;
/// Of all GPUs, what is to be in use while it is measured.
const FULL_PERCENT: u64 = 90;

fn main() {
    let nodes = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let policy = std::env::args().nth(2).map_or(Policy::Berth, |text| {
        text.parse().unwrap_or_else(|()| panic!("there is no policy {text}"))
    });
    let small = measure(nodes / 10, policy);
    let large = measure(nodes, policy);
    report(policy, nodes / 10, &small);
    report(policy, nodes, &large);
    report_growth(&small, &large);
    report_urgent(nodes, &large);
}

/// Nanoseconds, ascending.
struct Measured {
    decisions: Vec<u64>,
    /// Of finding out who ends for something urgent.
    urgent: Vec<u64>,
    /// And for a gang of [`MEMBERS`].
    gang: Vec<u64>,
}

fn measure(nodes: u64, policy: Policy) -> Measured {
    let mut cluster = Cluster::new(nodes);
    let target = nodes * GPUS * 10 * FULL_PERCENT;
    let mut number: u64 = 0;
    while cluster.taken_milli < target {
        // As a cluster does, it learns what it is asked for on the way.
        if number == 64 || number.is_multiple_of(nodes * 2) {
            cluster.soft.mix = Arc::new(MixCounts::of(&cluster.state).mix());
        }
        cluster.submit(number, policy);
        number += 1;
    }
    let mut nanos = Vec::with_capacity(DECISIONS);
    for _ in 0..DECISIONS + DECISIONS / 4 {
        while cluster.taken_milli > target {
            cluster.end_oldest();
        }
        nanos.push(cluster.submit(number, policy));
        number += 1;
    }
    // The first ones look at every node once for each kind of request.
    nanos.drain(..DECISIONS / 4);
    nanos.sort_unstable();
    let mut urgent: Vec<u64> = (0..URGENT).map(|_| cluster.urgent(policy, 1)).collect();
    urgent.sort_unstable();
    let mut gang: Vec<u64> = (0..URGENT).map(|_| cluster.urgent(policy, MEMBERS)).collect();
    gang.sort_unstable();
    Measured { decisions: nanos, urgent, gang }
}

#[expect(clippy::print_stdout, reason = "the numbers are the output of this program")]
fn report(policy: Policy, nodes: u64, measured: &Measured) {
    let nanos = &measured.decisions;
    let at = |part: usize| nanos[nanos.len() * part / 1000] as f64 / 1000.0;
    println!(
        "{} on {nodes} nodes of {GPUS} GPUs, {FULL_PERCENT} % full: mean {:.1} us, median {:.1}, \
         99th percentile {:.1}, worst {:.1}",
        policy.name(),
        mean(nanos) / 1000.0,
        at(500),
        at(990),
        at(999)
    );
}

#[expect(clippy::print_stdout, reason = "the numbers are the output of this program")]
fn report_growth(small: &Measured, large: &Measured) {
    let growth = mean(&large.decisions) / mean(&small.decisions);
    println!("ten times the nodes: {growth:.2} times the mean");
}

#[expect(clippy::print_stdout, reason = "the numbers are the output of this program")]
fn report_urgent(nodes: u64, measured: &Measured) {
    let gang = format!("a gang of {MEMBERS} times as many");
    let urgent = format!("something urgent of {GPUS} GPUs");
    for (whom, nanos) in [(urgent, &measured.urgent), (gang, &measured.gang)] {
        let [.., worst] = nanos.as_slice() else { return };
        println!(
            "who ends for {whom}, of all on {nodes} nodes: mean {:.1} ms, worst {:.1}",
            mean(nanos) / 1e6,
            *worst as f64 / 1e6
        );
    }
}

fn mean(nanos: &[u64]) -> f64 {
    nanos.iter().sum::<u64>() as f64 / nanos.len().max(1) as f64
}

struct Cluster {
    state: ClusterState,
    planner: Planner,
    soft: SoftView,
    live: VecDeque<(NodeId, AllocationId, u64)>,
    taken_milli: u64,
}

impl Cluster {
    fn new(nodes: u64) -> Cluster {
        let mut cluster = Cluster {
            state: ClusterState::default(),
            planner: Planner::default(),
            soft: SoftView::default(),
            live: VecDeque::new(),
            taken_milli: 0,
        };
        cluster.apply(Command::Found { cluster_id: [1; 16], security: None });
        for number in 0..nodes {
            let mut instance_key = [0; 16];
            instance_key[..8].copy_from_slice(&(number + 1).to_le_bytes());
            let name = name(&format!("node-{number}"));
            cluster.apply(Command::RegisterNode {
                name,
                instance_key,
                spec: Arc::new(node(number)),
            });
        }
        cluster
    }

    /// Submits a job and places it; how long the planner took.
    fn submit(&mut self, number: u64, policy: Policy) -> u64 {
        let task = task(number);
        let milli = task.gpu.as_ref().map_or(0, |gpu| u64::from(gpu.count * gpu.share.0));
        let spec = Arc::new(job(policy, task));
        let submit = SubmitJob { key: None, spec, digest: SpecDigest([1; 32]), if_version: None };
        let reply = self.apply(Command::Submit(submit));
        let Reply::Submitted { job, .. } = reply else { panic!("{reply:?}") };
        let started = Clock::now();
        let plan =
            self.planner.plan_jobs(&self.state, &self.soft, StateMs(1), Budget::UNLIMITED, &[job]);
        let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let [placement] = plan.placements.as_slice() else {
            panic!("{} leaves no place for task {number} so full", policy.name())
        };
        let (node, allocation) = (placement.node, placement.allocation());
        self.apply(Command::Place { placements: plan.placements });
        self.live.push_back((node, allocation, milli));
        self.taken_milli += milli;
        nanos
    }

    /// Submits what is urgent, of so many members if more than one, until it finds no room; how
    /// long it took to say who ends for it.
    fn urgent(&mut self, policy: Policy, members: u32) -> u64 {
        // Everybody has run for long enough by then.
        let later = StateMs(Preemption::MIN_RUN_DEFAULT.0 * 2);
        loop {
            let gpu = GpuRequest::whole(GPUS as u32);
            let gang = (members > 1).then_some(Gang {});
            let task = TaskSpec { gpu: Some(gpu), count: members, gang, ..task(7) };
            let spec = Arc::new(JobSpec { priority: 90, ..job(policy, task) });
            let digest = SpecDigest([1; 32]);
            let submit = SubmitJob { key: None, spec, digest, if_version: None };
            let reply = self.apply(Command::Submit(submit));
            let Reply::Submitted { job, .. } = reply else { panic!("{reply:?}") };
            let started = Clock::now();
            let plan =
                self.planner.plan_jobs(&self.state, &self.soft, later, Budget::UNLIMITED, &[job]);
            let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            if plan.placements.is_empty() {
                assert_eq!(plan.reservations.len(), members as usize);
                return nanos;
            }
            self.apply(Command::Place { placements: plan.placements });
        }
    }

    fn end_oldest(&mut self) {
        let (node, allocation, milli) = self.live.pop_front().expect("something is in use");
        let report = EndReport {
            cause: EndCause::Exited,
            exit_code: Some(0),
            signal: None,
            reason: String::new(),
            stderr_tail: String::new(),
            started_at: None,
            finished_at: WallMs(1),
        };
        let observations = vec![Observation { allocation, observed: Observed::Ended(report) }];
        self.apply(Command::Observe { node, observations });
        self.taken_milli -= milli;
    }

    fn apply(&mut self, command: Command) -> Reply {
        let entry = Entry {
            state_ms: StateMs(1),
            wall_ms: WallMs(1),
            proposer: "decision".to_owned(),
            commands: vec![command],
        };
        let index = self.state.applied_index() + 1;
        let reply = self.state.apply(index, &entry).replies.pop();
        reply.expect("one command, one answer").unwrap_or_else(|refusal| panic!("{refusal}"))
    }
}

/// Of four models, with more or less processor beside the GPUs.
fn node(number: u64) -> NodeSpec {
    let model = ["A100", "H100", "L40S", "V100"][(number % 4) as usize];
    let device = |index: u64| {
        Device::new(format!("GPU-{number:08}-{index}"), index as u32, model, MemoryBytes(80 << 30))
    };
    NodeSpec {
        labels: BTreeMap::new(),
        pool: name("default"),
        zone: name("default"),
        cpu: CpuMilli([64_000, 96_000, 128_000][(number % 3) as usize]),
        memory: MemoryBytes(1 << 40),
        devices: (0..GPUS).map(device).collect(),
        ports: PortRange::DEFAULT,
        agent_version: String::new(),
        docker_version: String::new(),
        tasks_per_device_max: TASKS_PER_DEVICE_MAX_DEFAULT,
        address: String::new(),
    }
}

/// Of thirty-two kinds, in an order that repeats late.
fn task(number: u64) -> TaskSpec {
    let kind = number * 11 % 32;
    let (count, share) = match kind % 8 {
        0..=2 => (1, [250, 500, 700][(kind / 8 % 3) as usize]),
        3..=5 => (1, 1000),
        6 => ([2, 4][(kind / 8 % 2) as usize], 1000),
        _ => (0, 0),
    };
    let models = match kind / 8 {
        2 if kind.is_multiple_of(2) => vec!["A100".to_owned(), "H100".to_owned()],
        3 if kind.is_multiple_of(3) => vec!["L40S".to_owned()],
        _ => Vec::new(),
    };
    let gpu = GpuRequest { models, share: ShareMilli(share), ..GpuRequest::whole(count) };
    TaskSpec {
        cpu: CpuMilli(1_000 + 1_000 * (kind % 6)),
        memory: MemoryBytes((4 + kind) << 30),
        gpu: (count > 0).then_some(gpu),
        ..TaskSpec::new(name("main"), JobKind::Batch, vec!["true".to_owned()])
    }
}

fn job(policy: Policy, task: TaskSpec) -> JobSpec {
    let spec = JobSpec::new(name("job"), name("default"), JobKind::Batch, vec![task]);
    JobSpec { policy, ..spec }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}
