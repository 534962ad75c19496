//! Any history of submits, plans, ends and changes: what a plan proposes is
//! granted, is what the reference planner proposes, and leaves nothing out.

use berth_model::{
    AtBegin, DeviceHealth, Driver, EndReport, GpuRequest, NodeReservation, NodeSpec, Preemption,
    ReservedNodes, ShareMilli, WallMs,
};
use berth_state::invariants;
use proptest::prelude::*;

use super::anew::plan_and_again;
use super::reference::{essence, exit, grant, host_fault, port_taken, reference_plan};
use super::*;
use crate::fixture::device;
use crate::mix::MixCounts;

#[derive(Clone, Debug)]
enum Step {
    Submit(Box<JobSpec>),
    Plan(Budget),
    /// The mix is made anew.
    Reckon,
    /// Another node comes.
    Register(Box<NodeSpec>),
    /// Of a node.
    Load(u64, u32),
    /// The allocation at this position (modulo their number) ends.
    End(usize, EndReport),
    Advance(u64),
    SetPurpose(usize, Purpose),
    /// So much of its processors is in use.
    Guard(usize, Option<u8>),
    Change(usize, JobChange),
    /// Nodes are reserved, so many milliseconds from now and for so many.
    ReserveNodes(Box<NodeReservation>, u64, u64),
    /// The reservation at this position begins or ends, if its time has come.
    Turn(usize),
}

/// From now on, and for ever.
fn a_reservation() -> impl Strategy<Value = NodeReservation> {
    let nodes = prop_oneof![
        2 => prop::collection::btree_set((0..6u8).prop_map(|one| name(&format!("node-{one}"))), 1..3)
            .prop_map(ReservedNodes::Named),
        1 => Just(ReservedNodes::Pool(name("other"))),
    ];
    let of_default = prop::bool::weighted(0.3);
    (0..4u8, nodes, of_default, prop::option::of(20..80u8), prop::bool::ANY).prop_map(
        |(number, nodes, of_default, priority_min, ends)| NodeReservation {
            name: name(&format!("reservation-{number}")),
            nodes,
            namespaces: of_default.then(|| name("default")).into_iter().collect(),
            priority_min,
            from: WallMs(0),
            until: None,
            running: if ends { AtBegin::End } else { AtBegin::Keep },
        },
    )
}

fn a_node() -> impl Strategy<Value = NodeSpec> {
    let devices = prop::collection::vec((prop::bool::ANY, 0..5u32), 0..5);
    (1..5u64, 1..5u64, devices, 0..8u8, 0..3u16).prop_map(|(cpu, memory, kinds, place, ports)| {
        NodeSpec {
            cpu: CpuMilli(cpu * 1000),
            memory: MemoryBytes(memory << 30),
            devices: kinds
                .iter()
                .enumerate()
                .map(|(index, (big, health))| {
                    let mut one = device(index as u32, if *big { "H100" } else { "L4" });
                    one.memory = MemoryBytes(if *big { 80 } else { 24 } << 30);
                    if *health == 0 {
                        one.health = DeviceHealth::Lost;
                    }
                    one
                })
                .collect(),
            pool: name(if place & 1 == 0 { "default" } else { "other" }),
            zone: name(if place & 2 == 0 { "east" } else { "west" }),
            labels: [("rack".to_owned(), (place % 3).to_string())].into(),
            ports: PortRange { first: 20_000, last: 20_000 + ports },
            docker_version: if place < 4 { String::new() } else { "27.1".to_owned() },
            ..gpu_node(0)
        }
    })
}

/// One of a few kinds, so that tasks of several jobs are alike.
fn a_common_task() -> impl Strategy<Value = TaskSpec> {
    (1..4u32, 0..3u32, 0..2u32).prop_map(|(count, gpus, attempts)| TaskSpec {
        count,
        cpu: CpuMilli(250),
        restart: RestartPolicy {
            attempts: Some(attempts),
            backoff: DurationMs(10),
            backoff_max: DurationMs(10),
        },
        ..if gpus == 2 { gpu_task(1) } else { task() }
    })
}

fn any_task() -> impl Strategy<Value = TaskSpec> {
    prop_oneof![a_task(), a_common_task()]
}

fn a_task() -> impl Strategy<Value = TaskSpec> {
    let gpu = prop::option::weighted(0.5, (1..4u32, 0..3u8, prop::bool::ANY, 0..1500u32));
    let limit = prop::option::weighted(0.3, 1..4u32);
    (1..6u32, 1..9u64, 1..9u64, gpu, limit, 0..3usize, 0..4u8).prop_map(
        |(count, cpu, memory, gpu, limit, ports, driver)| TaskSpec {
            count,
            driver: match driver {
                0 => Driver::Docker { image: "busybox".to_owned() },
                _ => Driver::Exec,
            },
            cpu: CpuMilli(cpu * 250),
            memory: MemoryBytes(memory << 28),
            gpu: gpu.map(|(count, model, large, share)| GpuRequest {
                count,
                share: if count == 1 && share > 0 {
                    ShareMilli(share.min(1000))
                } else {
                    ShareMilli::WHOLE
                },
                models: match model {
                    0 => vec!["H100".to_owned()],
                    1 => vec!["L4".to_owned(), "H100".to_owned()],
                    _ => Vec::new(),
                },
                memory_min: large.then_some(MemoryBytes(40 << 30)),
            }),
            array: limit.map(|limit| ArraySpec { start: 0, step: 1, parallel_max: Some(limit) }),
            ports: [name("http"), name("admin")][..ports].to_vec(),
            restart: RestartPolicy {
                attempts: Some(2),
                backoff: DurationMs(10),
                backoff_max: DurationMs(40),
            },
            time_limit: (memory > 4).then_some(DurationMs(cpu * 30_000)),
            ..task()
        },
    )
}

fn some_constraints() -> impl Strategy<Value = Constraints> {
    (0..8u8, 0..4u8).prop_map(|(which, value)| match which {
        0 => Constraints { node: Some(name(&format!("node-{value}"))), ..Constraints::default() },
        1 => Constraints { pool: Some(name("other")), ..Constraints::default() },
        2 => Constraints {
            labels: [("rack".to_owned(), value.to_string())].into(),
            ..Constraints::default()
        },
        _ => Constraints::default(),
    })
}

fn a_job() -> impl Strategy<Value = JobSpec> {
    let tasks = prop::collection::vec(any_task(), 1..3);
    (0..6u8, 0..Policy::ALL.len(), 0..=100u8, some_constraints(), tasks, 0..3u8).prop_map(
        |(kind, policy, priority, constraints, tasks, service)| {
            let kind = match kind {
                0 => JobKind::Daemon,
                1 | 2 => JobKind::Service,
                _ => JobKind::Batch,
            };
            let tasks = tasks.into_iter().enumerate().map(|(position, task)| TaskSpec {
                name: name(&format!("task-{position}")),
                array: task.array.filter(|_| kind == JobKind::Batch),
                count: if kind == JobKind::Daemon { 1 } else { task.count },
                ..task
            });
            JobSpec {
                name: name(&format!("job-{}-{service}", kind.name())),
                kind,
                priority,
                constraints,
                tasks: tasks.collect(),
                // Whom others end for has tests of its own.
                preemption: Preemption { preempts: false, ..Preemption::default() },
                ..job(Policy::ALL[policy], task())
            }
        },
    )
}

fn a_step() -> impl Strategy<Value = Step> {
    let budget = prop_oneof![
        3 => Just(Budget::UNLIMITED),
        1 => (0..40u64, 0..6u32).prop_map(|(candidates_examined_max, placements_max)| Budget {
            candidates_examined_max,
            placements_max,
            reservations_max: 0,
        }),
    ];
    let purpose = prop_oneof![Just(Purpose::Work), Just(Purpose::Cordoned), Just(Purpose::Work),];
    let report = prop_oneof![Just(exit(0)), Just(exit(1)), Just(port_taken()), Just(host_fault())];
    let change = prop_oneof![
        Just(JobChange::Hold),
        Just(JobChange::Release),
        Just(JobChange::Stop { reason: String::new() }),
    ];
    prop_oneof![
        4 => a_job().prop_map(|spec| Step::Submit(Box::new(spec))),
        4 => budget.prop_map(Step::Plan),
        1 => Just(Step::Reckon),
        1 => a_node().prop_map(|spec| Step::Register(Box::new(spec))),
        1 => (1..6u64, 0..1000u32).prop_map(|(node, util)| Step::Load(node, util)),
        5 => (0..100usize, report).prop_map(|(which, report)| Step::End(which, report)),
        2 => (1..700_000u64).prop_map(Step::Advance),
        1 => (0..6usize, purpose).prop_map(|(which, purpose)| Step::SetPurpose(which, purpose)),
        1 => (0..6usize, prop::option::of(86..101_u8)).prop_map(|(which, used)| Step::Guard(which, used)),
        1 => (a_reservation(), 0..400_000u64, 1..400_000u64)
            .prop_map(|(one, ahead, lasts)| Step::ReserveNodes(Box::new(one), ahead, lasts)),
        1 => (0..4usize).prop_map(Step::Turn),
        1 => (0..20usize, change).prop_map(|(which, change)| Step::Change(which, change)),
    ]
}

/// Jobs that share a ranking and look at their own instances in it.
fn a_spread_step() -> impl Strategy<Value = Step> {
    let spread = (a_common_task(), 0..=100u8).prop_map(|(one, priority)| {
        let restart = RestartPolicy { attempts: None, ..one.restart };
        let one = TaskSpec { gpu: None, restart, ..one };
        let preemption = Preemption { preempts: false, ..Preemption::default() };
        Step::Submit(Box::new(JobSpec { priority, preemption, ..job(Policy::Spread, one) }))
    });
    let end = (0..100usize).prop_map(|which| Step::End(which, exit(1)));
    prop_oneof![
        1 => spread,
        1 => Just(Step::Plan(Budget::UNLIMITED)),
        3 => end,
        1 => Just(Step::Advance(20)),
    ]
}

fn run(cluster: &mut Cluster, planner: &mut Planner, soft: &mut SoftView, step: Step) {
    match step {
        Step::Submit(spec) => {
            // The daemon or service of this name may exist as it is.
            cluster.submit(*spec);
        }
        Step::Plan(budget) => check_plan(cluster, planner, soft, budget),
        Step::Register(spec) => {
            cluster.register(*spec);
        }
        Step::Reckon => soft.mix = Arc::new(MixCounts::of(&cluster.state).mix()),
        Step::Load(node, util) => {
            let load = NodeLoad { gpu_util_milli: Some(util), ..NodeLoad::default() };
            soft.loads.insert(NodeId(node), Arc::new(load));
        }
        Step::End(which, report) => {
            let live = cluster.state.allocations();
            let chosen = live.values().nth(which % live.len().max(1)).cloned();
            if let Some(row) = chosen {
                cluster.end_allocation(row.node, row.id, report);
            }
        }
        Step::Advance(span) => cluster.now = cluster.now.after(DurationMs(span)),
        Step::SetPurpose(which, purpose) => {
            let node = which % cluster.state.nodes().len() + 1;
            cluster.set_purpose(node as u64, purpose);
        }
        Step::Guard(which, used) => {
            let node = which % cluster.state.nodes().len() + 1;
            cluster.set_guards(node as u64, used, None);
        }
        Step::ReserveNodes(mut spec, ahead, lasts) => {
            spec.from = WallMs(cluster.now.0 + ahead);
            spec.until = Some(WallMs(spec.from.0 + lasts));
            // Two that meet on a node are refused.
            let spec = Arc::new(*spec);
            let _ = cluster.apply(Command::ReserveNodes { spec, if_version: None });
        }
        Step::Turn(which) => {
            let names: Vec<_> =
                cluster.state.node_reservations().iter().map(|(name, _)| name.clone()).collect();
            if let Some(name) = names.get(which) {
                cluster.apply(Command::TurnNodeReservation { name: name.clone() }).unwrap();
            }
        }
        Step::Change(which, change) => {
            let job = JobId(which as u64 + 1);
            // Refused for a job that is not there or has ended.
            let _ = cluster.apply(Command::ChangeJob { job, if_version: None, change });
        }
    }
}

fn check_plan(cluster: &mut Cluster, planner: &mut Planner, soft: &SoftView, budget: Budget) {
    let outcome = plan(&cluster.state, soft, cluster.now, budget);
    assert_eq!(outcome, plan(&cluster.state, soft, cluster.now, budget), "the same once more");
    let instances: BTreeSet<_> =
        outcome.placements.iter().map(|one| (one.job, one.task, one.instance)).collect();
    assert_eq!(instances.len(), outcome.placements.len(), "an instance is planned once");
    assert!(outcome.report.candidates_examined <= budget.candidates_examined_max);
    assert!(outcome.report.placements <= budget.placements_max);
    let found: Vec<_> = outcome.placements.iter().map(essence).collect();
    let expected = reference_plan(&cluster.state, soft, cluster.now);
    if !outcome.exhausted {
        assert_eq!(found, expected);
    }
    let kept = plan_and_again(planner, cluster, soft, budget);
    if !kept.exhausted {
        let kept: Vec<_> = kept.placements.iter().map(essence).collect();
        assert_eq!(kept, expected, "one that has planned before");
    }
    cluster.place(outcome.placements);
    assert_eq!(invariants::check(&cluster.state), []);
    if !outcome.exhausted {
        check_nothing_left_fits(cluster);
        // Nothing more comes by waiting before the moment that was named.
        let end_of_time = cluster.now.after(DurationMs(1 << 50));
        let until = outcome.next_wakeup.map_or(end_of_time, |at| StateMs(at.0 - 1));
        for now in [cluster.now, until] {
            assert_eq!(plan(&cluster.state, soft, now, Budget::UNLIMITED).placements, []);
        }
    }
}

/// No waiting instance that is due fits any node as the nodes are now.
fn check_nothing_left_fits(cluster: &Cluster) {
    let view = &cluster.state;
    for key in view.queue() {
        let job = view.jobs().get(&key.job).unwrap();
        let row = view.tasks().get(&(key.job, key.task)).unwrap();
        let task = &job.spec.tasks[usize::from(key.task.0)];
        for instance in row.pending.iter() {
            let due =
                row.retries.get(&instance).is_none_or(|retry| retry.not_before <= cluster.now);
            if !due || row.live >= task.parallel_max() {
                continue;
            }
            let id = AllocationId {
                job: key.job,
                task: key.task,
                instance: InstanceIndex(instance),
                attempt: view.next_attempt(key.job, row, instance),
            };
            for node in view.nodes().values() {
                let soft = SoftView::default();
                let granted = grant(node, &node.used, (view, &soft, cluster.now), (job, task, id));
                assert_eq!(granted, None, "{id} was left out though {} has room", node.name);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_is_granted_repeatable_and_maximal(
        nodes in prop::collection::vec(a_node(), 1..6),
        busy in prop::collection::vec(prop::option::of(0..1000u32), 6),
        steps in prop::collection::vec(a_step(), 1..30),
    ) {
        let mut cluster = Cluster::with_nodes(nodes);
        let loads = (1..).map(NodeId).zip(busy).map(|(node, gpu_util_milli)| {
            (node, NodeLoad { gpu_util_milli, ..NodeLoad::default() })
        });
        let mut soft = SoftView::default();
        loads.for_each(|(node, load)| drop(soft.loads.insert(node, Arc::new(load))));
        let mut planner = Planner::default();
        for step in steps {
            run(&mut cluster, &mut planner, &mut soft, step);
        }
        check_plan(&mut cluster, &mut planner, &soft, Budget::UNLIMITED);
    }

    #[test]
    fn once_the_rest_has_no_place_new_jobs_alone_are_the_whole_plan(
        nodes in prop::collection::vec(a_node(), 1..6),
        steps in prop::collection::vec(a_step(), 1..20),
        new in prop::collection::vec(a_job(), 1..4),
    ) {
        let mut cluster = Cluster::with_nodes(nodes);
        let mut soft = SoftView::default();
        let mut planner = Planner::default();
        for step in steps {
            run(&mut cluster, &mut planner, &mut soft, step);
        }
        check_plan(&mut cluster, &mut planner, &soft, Budget::UNLIMITED);
        let jobs: Vec<JobId> = new.into_iter().map(|spec| cluster.submit(spec)).collect();
        let all = plan(&cluster.state, &soft, cluster.now, Budget::UNLIMITED);
        let few = plan_jobs(&cluster.state, &soft, cluster.now, Budget::UNLIMITED, &jobs);
        prop_assert_eq!(all.placements, few.placements);
    }

    #[test]
    fn jobs_that_share_a_ranking_do_not_mix_up(
        zones in prop::collection::vec(0..3u8, 2..6),
        steps in prop::collection::vec(a_spread_step(), 4..30),
    ) {
        let nodes = zones.iter().map(|zone| NodeSpec {
            cpu: CpuMilli(2000),
            zone: name(&format!("zone-{zone}")),
            ..gpu_node(0)
        });
        let mut cluster = Cluster::with_nodes(nodes);
        let mut soft = SoftView::default();
        let mut planner = Planner::default();
        for step in steps {
            run(&mut cluster, &mut planner, &mut soft, step);
        }
        check_plan(&mut cluster, &mut planner, &soft, Budget::UNLIMITED);
    }
}
