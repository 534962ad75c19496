//! Prints how many placements a second the planner alone decides on one core,
//! without log, network or agents: `cargo run --release --example rate -p
//! berth-placement -- [NODES]`. Five runs of each case, interleaved.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::{
    CpuMilli, Device, GpuRequest, JobKind, JobSpec, MemoryBytes, Name, NamespaceSpec, NodeSpec,
    Policy, PortRange, Resource, SpecDigest, StateMs, TaskSpec, WallMs,
};
use berth_placement::{Budget, SoftView, plan};
use berth_state::{ClusterState, Command, Entry, SubmitJob};

#[expect(clippy::disallowed_types, reason = "measuring is what this program is for")]
type Clock = std::time::Instant;

const RUNS: usize = 5;
const GPUS: u32 = 8;

/// What waits in the queue.
#[derive(Clone, Copy)]
enum Shape {
    /// One job whose only task has this many instances.
    Array(u32),
    /// This many jobs of one instance each, all alike.
    Jobs(u32),
    /// The same, but of thirty-two kinds in turn.
    MixedJobs(u32),
    /// All alike, in fifty namespaces in turn, each sure of half of what it asks for.
    Tenants(u32),
}

const TENANTS: u32 = 50;

fn main() {
    let nodes = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5_000);
    let cluster = cluster(nodes);
    let count = u32::try_from(nodes).unwrap_or(u32::MAX).saturating_mul(GPUS).min(10_000);
    let shapes = [
        ("array", Shape::Array(count)),
        ("jobs", Shape::Jobs(count)),
        ("mixed", Shape::MixedJobs(count)),
        ("tenants", Shape::Tenants(count)),
    ];
    let mut cases = Vec::new();
    for policy in Policy::ALL {
        for (name, shape) in shapes {
            for gpus in [0, 1] {
                let view = with_work(&cluster, policy, shape, gpus);
                cases.push((format!("{:<13}{name:<8}{gpus} GPU", policy.name()), view, Vec::new()));
            }
        }
    }
    for _ in 0..RUNS {
        for (_, view, rates) in &mut cases {
            rates.push(rate(view, count));
        }
    }
    report(nodes, &mut cases);
    let alone = with_work(&cluster, Policy::BestFit, Shape::Jobs(1), 1);
    report_alone((0..1000).map(|_| micros_alone(&alone)).collect());
}

/// One task that waits alone, planned as while a log entry is being formed.
fn micros_alone(view: &ClusterState) -> u128 {
    let started = Clock::now();
    let outcome = plan(view, &SoftView::default(), StateMs(1), Budget::INLINE);
    assert_eq!(outcome.placements.len(), 1);
    started.elapsed().as_micros()
}

#[expect(clippy::print_stdout, reason = "the numbers are the output of this program")]
fn report_alone(mut micros: Vec<u128>) {
    micros.sort_unstable();
    let (median, high) = (micros[micros.len() / 2], micros[micros.len() * 99 / 100]);
    println!("one task alone: median {median} us, 99th percentile {high} us");
}

#[expect(clippy::print_stdout, reason = "the numbers are the output of this program")]
fn report(nodes: u64, cases: &mut [(String, ClusterState, Vec<u64>)]) {
    println!("placements a second on {nodes} nodes: minimum, median, maximum of {RUNS} runs");
    for (name, _, rates) in cases {
        rates.sort_unstable();
        let [first, .., last] = rates.as_slice() else { continue };
        println!("{name:<29}{first:>10}{:>10}{last:>10}", rates[RUNS / 2]);
    }
}

/// Placements a second of one plan over everything that waits.
fn rate(view: &ClusterState, count: u32) -> u64 {
    let soft = SoftView::default();
    let started = Clock::now();
    let outcome = plan(view, &soft, StateMs(1), Budget::UNLIMITED);
    let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
    assert_eq!(outcome.report.placements, count, "{:?}", outcome.report);
    outcome.placements.len() as u64 * 1_000_000 / micros
}

fn cluster(nodes: u64) -> ClusterState {
    let mut state = ClusterState::default();
    let mut commands = vec![Command::Found { cluster_id: [1; 16], security: None }];
    for number in 0..nodes {
        let mut instance_key = [0; 16];
        instance_key[..8].copy_from_slice(&number.to_le_bytes());
        commands.push(Command::RegisterNode {
            name: name(&format!("node-{number}")),
            instance_key,
            spec: Arc::new(node(number)),
        });
    }
    apply(&mut state, commands);
    state
}

fn node(number: u64) -> NodeSpec {
    let device = |index| {
        Device::new(
            format!("GPU-{number:08}-{index}"),
            index,
            "NVIDIA H100 80GB HBM3",
            MemoryBytes(80 << 30),
        )
    };
    NodeSpec {
        labels: BTreeMap::from([("rack".to_owned(), (number / 16).to_string())]),
        pool: name("default"),
        zone: name(&format!("zone-{}", number % 3)),
        cpu: CpuMilli(128_000),
        memory: MemoryBytes(1 << 40),
        devices: (0..GPUS).map(device).collect(),
        ports: PortRange::DEFAULT,
        agent_version: String::new(),
        docker_version: String::new(),
        tasks_per_device_max: berth_model::TASKS_PER_DEVICE_MAX_DEFAULT,
        address: String::new(),
    }
}

fn with_work(cluster: &ClusterState, policy: Policy, shape: Shape, gpus: u32) -> ClusterState {
    let mut state = cluster.clone();
    let spec = |count, kind| {
        let gpu = GpuRequest { models: vec!["H100".to_owned()], ..GpuRequest::whole(gpus) };
        let task = TaskSpec {
            count,
            cpu: CpuMilli(100 + u64::from(kind)),
            gpu: (gpus > 0).then_some(gpu),
            ..TaskSpec::new(name("main"), JobKind::Batch, vec!["true".to_owned()])
        };
        JobSpec {
            policy,
            ..JobSpec::new(name("work"), name("default"), JobKind::Batch, vec![task])
        }
    };
    let tenant = |number: u32| name(&format!("tenant-{}", number % TENANTS));
    let (jobs, count, kinds) = match shape {
        Shape::Array(count) => (1, count, 1),
        Shape::Jobs(jobs) => (jobs, 1, 1),
        Shape::MixedJobs(jobs) => (jobs, 1, 32),
        Shape::Tenants(jobs) => (jobs, 1, 1),
    };
    let namespace = |number: u32| match shape {
        Shape::Array(_) | Shape::Jobs(_) | Shape::MixedJobs(_) => name("default"),
        Shape::Tenants(_) => tenant(number),
    };
    let submit = |number: u32| {
        let namespace = namespace(number);
        let spec = Arc::new(JobSpec { namespace, ..spec(count, number % kinds) });
        Command::Submit(SubmitJob {
            key: None,
            spec,
            digest: SpecDigest::default(),
            if_version: None,
        })
    };
    if let Shape::Tenants(jobs) = shape {
        let guarantee = |number| {
            let mut spec = NamespaceSpec::new(tenant(number));
            let gpu_milli = u64::from(jobs / TENANTS / 2) * 1000;
            spec.quota.guaranteed.amounts.insert(Resource::Gpus, gpu_milli);
            Command::ApplyNamespace { spec: Arc::new(spec), if_version: None }
        };
        apply(&mut state, (0..TENANTS).map(guarantee).collect());
    }
    apply(&mut state, (0..jobs).map(submit).collect());
    state
}

fn apply(state: &mut ClusterState, commands: Vec<Command>) {
    let entry =
        Entry { state_ms: StateMs(1), wall_ms: WallMs(1), proposer: String::new(), commands };
    let index = state.applied_index() + 1;
    let applied = state.apply(index, &entry);
    assert!(applied.replies.iter().all(Result::is_ok), "{:?}", applied.replies.last());
}

fn name(text: &str) -> Name {
    Name::new(text).expect("the names of this program are well formed")
}
