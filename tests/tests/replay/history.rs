//! Histories of a small cluster, with a planner that has planned before.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::{
    AllocationId, Constraints, CpuMilli, Device, Driver, DurationMs, EndCause, EndReport, Gang,
    GpuRequest, Guarantee, JobKind, JobSpec, Limit, MemoryBytes, Name, NamespaceSpec, NodeId,
    NodeSpec, Policy, PortRange, Preemption, Quota, Resource, RestartPolicy, ShareMilli,
    SpecDigest, StateMs, TaskSpec, WallMs,
};
use berth_placement::{Budget, MixCounts, NodeLoad, Planner, SoftView, decision_of};
use berth_state::decision::{Decision, Scope};
use berth_state::{ClusterState, Command, Entry, Observation, Observed, Reply, SubmitJob};
use proptest::prelude::*;

/// All that is named here; none of it is left where names are replaced.
pub const NAMES: [&str; 16] = [
    "node-1",
    "node-2",
    "gold-pool",
    "plain-pool",
    "zone-east",
    "zone-west",
    "rack-key",
    "rack-0",
    "rack-1",
    "job-name",
    "daemon-name",
    "space-1",
    "space-2",
    "task-name",
    "port-one",
    "uuid-1-",
];

const SPACES: [&str; 2] = ["space-1", "space-2"];

#[derive(Clone, Debug)]
pub enum Step {
    Submit(Box<JobSpec>),
    Plan {
        work: u64,
        placements: u32,
    },
    End {
        which: usize,
        code: i32,
    },
    /// All that is planned says that it runs, and time passes.
    Run(u64),
    Reckon,
    Load(u64, u32),
    /// What is set for a namespace: GPUs at most, GPUs guaranteed, its weight.
    Set {
        namespace: &'static str,
        most: u64,
        guaranteed: u64,
        weight: u32,
    },
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn a_node() -> impl Strategy<Value = NodeSpec> {
    (0..5_u32, 1..9_u64, any::<[bool; 4]>()).prop_map(|(gpus, cores, [gold, east, rack, large])| {
        let (model, memory) = if large { ("H100", 80) } else { ("L4", 24) };
        let device =
            |index| Device::new(format!("uuid-{index}"), index, model, MemoryBytes(memory << 30));
        NodeSpec {
            labels: [("rack-key".to_owned(), if rack { "rack-1" } else { "rack-0" }.to_owned())]
                .into(),
            pool: name(if gold { "gold-pool" } else { "plain-pool" }),
            zone: name(if east { "zone-east" } else { "zone-west" }),
            cpu: CpuMilli(cores * 1_000),
            memory: MemoryBytes(64 << 30),
            devices: (0..gpus).map(device).collect(),
            ports: PortRange { first: 20_000, last: 20_005 },
            agent_version: "0.1.0".to_owned(),
            docker_version: if rack { "27.1".to_owned() } else { String::new() },
            tasks_per_device_max: 4,
            address: "host.example:7".to_owned(),
        }
    })
}

fn some_constraints() -> impl Strategy<Value = Constraints> {
    (0..12_u8).prop_map(|which| {
        let label = |value: &str| [("rack-key".to_owned(), value.to_owned())].into();
        match which {
            0 => Constraints { pool: Some(name("gold-pool")), ..Constraints::default() },
            1 => Constraints { node: Some(name("node-2")), ..Constraints::default() },
            2 => Constraints { labels: label("rack-1"), ..Constraints::default() },
            3 => Constraints { labels: label("rack-9"), ..Constraints::default() },
            _ => Constraints::default(),
        }
    })
}

fn a_task() -> impl Strategy<Value = TaskSpec> {
    (1..4_u32, 0..3_u32, 100..1_500_u32, 1..5_u64, 0..2_usize, 0..8_u8).prop_map(
        |(count, gpus, milli, cores, ports, kind)| {
            let share = ShareMilli(if gpus == 1 { milli.min(1_000) } else { 1_000 });
            let models = if kind == 0 { vec!["H100".to_owned()] } else { Vec::new() };
            let gpu = GpuRequest { share, models, ..GpuRequest::whole(gpus) };
            let command = vec!["secret-command".to_owned()];
            TaskSpec {
                count,
                cpu: CpuMilli(cores * 250),
                gpu: (gpus > 0).then_some(gpu),
                ports: [name("port-one")][..ports].to_vec(),
                gang: (kind == 1 || kind == 2).then_some(Gang {}),
                driver: match kind {
                    3 => Driver::Docker { image: "secret-image".to_owned() },
                    _ => Driver::Exec,
                },
                restart: RestartPolicy {
                    attempts: Some(2),
                    backoff: DurationMs(500),
                    backoff_max: DurationMs(4_000),
                },
                ..TaskSpec::new(name("task-name"), JobKind::Batch, command)
            }
        },
    )
}

fn a_job() -> impl Strategy<Value = JobSpec> {
    let spaces = prop::sample::select(SPACES.to_vec());
    (a_task(), some_constraints(), 0..Policy::ALL.len(), 0..11_u8, 0..12_u8, spaces).prop_map(
        |(task, constraints, policy, priority, kind, space)| {
            let kind = if kind == 0 { JobKind::Daemon } else { JobKind::Batch };
            let plain = kind == JobKind::Daemon;
            let task = TaskSpec {
                gang: task.gang.filter(|_| !plain),
                count: if plain { 1 } else { task.count },
                ..task
            };
            let title = if plain { "daemon-name" } else { "job-name" };
            let spec = JobSpec::new(name(title), name(space), kind, vec![task]);
            let preemption = Preemption { min_run: DurationMs(0), ..Preemption::default() };
            JobSpec {
                constraints,
                policy: Policy::ALL[policy],
                priority: priority * 10,
                preemption,
                ..spec
            }
        },
    )
}

pub fn a_step() -> impl Strategy<Value = Step> {
    let work = prop_oneof![2 => Just(u64::MAX), 2 => 0..60_u64];
    let plan = (work, 1..30_u32).prop_map(|(work, placements)| Step::Plan { work, placements });
    prop_oneof![
        4 => a_job().prop_map(|spec| Step::Submit(Box::new(spec))),
        4 => plan,
        2 => (0..50_usize, 0..2_i32).prop_map(|(which, code)| Step::End { which, code }),
        2 => (1..3_000_u64).prop_map(Step::Run),
        1 => Just(Step::Reckon),
        1 => (1..6_u64, 0..1_000_u32).prop_map(|(node, util)| Step::Load(node, util)),
        1 => a_quota(),
    ]
}

fn a_quota() -> impl Strategy<Value = Step> {
    let spaces = prop::sample::select(SPACES.to_vec());
    (spaces, 0..8_u64, 0..8_u64, 1..5_u32).prop_map(|(namespace, most, guaranteed, weight)| {
        Step::Set { namespace, most, guaranteed: guaranteed.min(most), weight }
    })
}

/// A cluster, and a planner that goes on from plan to plan.
pub struct World {
    pub state: ClusterState,
    now: StateMs,
    planner: Planner,
    soft: SoftView,
}

impl World {
    pub fn with_nodes(nodes: Vec<NodeSpec>) -> World {
        let mut world = World {
            state: ClusterState::default(),
            now: StateMs(1_000),
            planner: Planner::default(),
            soft: SoftView::default(),
        };
        world.apply(Command::Found { cluster_id: [7; 16], security: None });
        for (number, mut spec) in (1_u8..).zip(nodes) {
            for device in &mut spec.devices {
                device.uuid = format!("uuid-{number}-{}", device.index);
            }
            let (name, instance_key) = (name(&format!("node-{number}")), [number; 16]);
            world.apply(Command::RegisterNode { name, instance_key, spec: Arc::new(spec) });
        }
        world
    }

    /// What was decided in a step.
    pub fn take(&mut self, step: Step) -> Option<Decision> {
        match step {
            Step::Submit(spec) => {
                let (spec, digest) = (Arc::new(*spec), SpecDigest([3; 32]));
                let submit = SubmitJob { key: None, spec, digest, if_version: None };
                self.apply(Command::Submit(submit));
            }
            Step::Plan { work, placements } => return Some(self.plan(work, placements)),
            Step::End { which, code } => self.end(which, code),
            Step::Run(span) => self.run(span),
            Step::Reckon => self.soft.mix = Arc::new(MixCounts::of(&self.state).mix()),
            Step::Set { namespace, most, guaranteed, weight } => {
                let gpus = |count: u64| BTreeMap::from([(Resource::Gpus, count * 1_000)]);
                let limit = Limit { amounts: gpus(most), submits_per_second: None };
                let guaranteed = Guarantee { amounts: gpus(guaranteed) };
                let spec = NamespaceSpec::new(name(namespace));
                let quota = Quota { limit, guaranteed };
                let spec = Arc::new(NamespaceSpec { quota, weight, ..spec });
                self.apply(Command::ApplyNamespace { spec, if_version: None });
            }
            Step::Load(node, util) => {
                let load = NodeLoad { gpu_util_milli: Some(util), ..NodeLoad::default() };
                self.soft.loads.insert(NodeId(node), Arc::new(load));
            }
        }
        None
    }

    fn plan(&mut self, candidates_examined_max: u64, placements_max: u32) -> Decision {
        let budget = Budget { candidates_examined_max, placements_max, reservations_max: 8 };
        let (view, gave_up) = (self.state.clone(), self.planner.gave_up());
        let outcome = self.planner.plan(&view, &self.soft, self.now, budget);
        let asked = (Scope::Everything, budget);
        let decision = decision_of(view, &self.soft, self.now, asked, gave_up, &outcome);
        self.apply(Command::Place { placements: outcome.placements });
        self.apply(Command::Reserve { reservations: outcome.reservations });
        decision
    }

    fn end(&mut self, which: usize, code: i32) {
        let live = self.state.allocations();
        let chosen = live.values().nth(which % live.len().max(1)).cloned();
        let report = EndReport {
            cause: EndCause::Exited,
            exit_code: Some(code),
            signal: None,
            reason: "secret-reason".to_owned(),
            stderr_tail: "secret-words".to_owned(),
            started_at: None,
            finished_at: WallMs(9),
        };
        if let Some(row) = chosen {
            self.observe(row.node, row.id, Observed::Ended(report));
        }
    }

    fn run(&mut self, span: u64) {
        let rows: Vec<_> = self.state.allocations().values().cloned().collect();
        for row in rows.iter().filter(|row| row.running_since.is_none()) {
            let observed = Observed::Running { ready: true, started_at: WallMs(1) };
            self.observe(row.node, row.id, observed);
        }
        self.now = self.now.after(DurationMs(span));
    }

    fn observe(&mut self, node: NodeId, allocation: AllocationId, observed: Observed) {
        let observations = vec![Observation { allocation, observed }];
        self.apply(Command::Observe { node, observations });
    }

    fn apply(&mut self, command: Command) -> Option<Reply> {
        let proposer = "secret-proposer".to_owned();
        let (state_ms, wall_ms) = (self.now, WallMs(self.now.0));
        let entry = Entry { state_ms, wall_ms, proposer, commands: vec![command] };
        let index = self.state.applied_index() + 1;
        // A daemon that is there already may be refused, as in any cluster.
        self.state.apply(index, &entry).replies.pop()?.ok()
    }
}
