//! Prints how long a gang takes to plan and to apply on one core, without log, network or
//! agents: `cargo run --release --example gang -p berth-placement -- [NODES]`. The best of five.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::{
    CpuMilli, Device, Gang, GpuRequest, JobKind, JobSpec, MemoryBytes, Name, NodeSpec, PortRange,
    SpecDigest, StateMs, TaskSpec, WallMs,
};
use berth_placement::{Budget, Planner, SoftView};
use berth_state::{Applied, ClusterState, Command, Entry, Reply, SubmitJob};

#[expect(clippy::disallowed_types, reason = "measuring is what this program is for")]
type Clock = std::time::Instant;

const RUNS: usize = 5;
const GPUS: u32 = 8;

fn main() {
    let nodes = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let cluster = cluster(nodes);
    for (members, gpus) in [(8, 1), (128, 8), (1024, 1)] {
        let mut best = [u128::MAX; 2];
        for _ in 0..RUNS {
            for (best, found) in best.iter_mut().zip(times(&cluster, members, gpus)) {
                *best = found.min(*best);
            }
        }
        let [planned, applied] = best;
        show(&format!(
            "{nodes} nodes, {members} members of {gpus} GPUs: planned in {planned} us, applied in \
             {applied} us"
        ));
    }
}

/// Microseconds of a plan and of its apply.
fn times(cluster: &ClusterState, members: u32, gpus: u32) -> [u128; 2] {
    let mut state = cluster.clone();
    let mut planner = Planner::default();
    let mut plan = |state: &ClusterState| {
        planner.plan(state, &SoftView::default(), StateMs(1), Budget::UNLIMITED)
    };
    plan(&state);
    submit(&mut state, members, gpus);
    let (planned, outcome) = timed(|| plan(&state));
    let command = Command::Place { placements: outcome.placements };
    let (applied, reply) = timed(|| apply(&mut state, vec![command]).replies.pop());
    let placed = match reply {
        Some(Ok(Reply::Placed { granted, .. })) => granted.len(),
        Some(_) | None => 0,
    };
    assert_eq!(placed, members as usize, "the gang was not granted");
    [planned, applied]
}

fn timed<T>(what: impl FnOnce() -> T) -> (u128, T) {
    let begun = Clock::now();
    let result = what();
    (begun.elapsed().as_micros(), result)
}

#[expect(clippy::print_stdout, reason = "printing is what this program is for")]
fn show(line: &str) {
    println!("{line}");
}

fn name(text: &str) -> Name {
    Name::new(text).expect("letters make a name")
}

fn submit(state: &mut ClusterState, members: u32, gpus: u32) {
    let task = TaskSpec {
        count: members,
        gang: Some(Gang {}),
        gpu: Some(GpuRequest::whole(gpus)),
        ..TaskSpec::new(name("main"), JobKind::Batch, vec!["true".to_owned()])
    };
    let spec = JobSpec::new(name("train"), name("default"), JobKind::Batch, vec![task]);
    let digest = SpecDigest::default();
    let submit = SubmitJob { key: None, spec: Arc::new(spec), digest, if_version: None };
    apply(state, vec![Command::Submit(submit)]);
}

fn cluster(nodes: usize) -> ClusterState {
    let mut state = ClusterState::default();
    apply(&mut state, vec![Command::Found { cluster_id: [7; 16], security: None }]);
    for number in 0..nodes {
        let mut instance_key = [0; 16];
        instance_key[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let register = Command::RegisterNode {
            name: name(&format!("node-{number}")),
            instance_key,
            spec: Arc::new(node(number)),
        };
        apply(&mut state, vec![register]);
    }
    state
}

fn node(number: usize) -> NodeSpec {
    let device = |index| {
        Device::new(
            format!("GPU-{number:08x}-0000-0000-0000-{index:012x}"),
            index,
            "NVIDIA H100 80GB HBM3",
            MemoryBytes(80 << 30),
        )
    };
    NodeSpec {
        labels: BTreeMap::new(),
        pool: name("default"),
        zone: name(&format!("zone-{}", number % 3)),
        cpu: CpuMilli(128_000),
        memory: MemoryBytes(1 << 40),
        devices: (0..GPUS).map(device).collect(),
        ports: PortRange::DEFAULT,
        agent_version: String::new(),
        docker_version: String::new(),
        tasks_per_device_max: berth_model::TASKS_PER_DEVICE_MAX_DEFAULT,
        address: "10.0.0.1".to_owned(),
    }
}

fn apply(state: &mut ClusterState, commands: Vec<Command>) -> Applied {
    let (state_ms, wall_ms, proposer) = (StateMs(1), WallMs(1), String::new());
    state.apply(state.applied_index() + 1, &Entry { state_ms, wall_ms, proposer, commands })
}
