//! Gangs: whole or not at all, in the smallest domain, and by the same rules as apply.

use berth_model::{
    DeviceHealth, DeviceWay, Gang, GpuRequest, NodeSpec, NodeUse, PcieWay, Preemption, eligible,
    fits,
};
use berth_state::invariants;
use proptest::prelude::*;

use super::reference::{essence, exit, host_fault};
use super::*;
use crate::fixture::{device, share_task};

pub(super) fn gang(count: u32, task: TaskSpec) -> TaskSpec {
    TaskSpec { count, gang: Some(Gang {}), ..task }
}

fn in_zone(zone: &str, spec: NodeSpec) -> NodeSpec {
    NodeSpec { zone: name(zone), ..spec }
}

/// The nodes of the members, by rank.
fn placed_on(specs: &[NodeSpec], policy: Policy, task: TaskSpec) -> Vec<u64> {
    let mut cluster = Cluster::with_nodes(specs.iter().cloned());
    cluster.submit(job(policy, task));
    let outcome = plan_all(&cluster);
    let nodes = nodes_of(&outcome);
    cluster.place(outcome.placements);
    nodes
}

#[test]
fn the_smallest_domain_that_fits_is_taken() {
    let check = |specs: &[NodeSpec], gpus: u32, count: u32, expected: &[u64]| {
        let found = placed_on(specs, Policy::Berth, gang(count, gpu_task(gpus)));
        assert_eq!(found, expected, "{count} of {gpus}");
    };
    let hosts = [gpu_node(2), gpu_node(4), gpu_node(4), gpu_node(8)];
    // One host, and of those the one that the policy prefers.
    check(&hosts, 1, 2, &[1, 1]);
    check(&hosts, 1, 5, &[4; 5]);
    check(&hosts, 2, 2, &[2, 2]);
    // The fewest, those that take the most first; the last is the policy's.
    check(&hosts, 1, 10, &[4, 4, 4, 4, 4, 4, 4, 4, 1, 1]);
    check(&hosts, 2, 8, &[4, 4, 4, 4, 2, 2, 3, 3]);
    check(&hosts, 2, 10, &[]);
    // A zone before a host more or less.
    let zones = [
        in_zone("east", gpu_node(4)),
        in_zone("west", gpu_node(2)),
        in_zone("west", gpu_node(2)),
        in_zone("west", gpu_node(2)),
    ];
    check(&zones, 1, 6, &[2, 2, 3, 3, 4, 4]);
    check(&zones, 1, 7, &[1, 1, 1, 1, 2, 2, 3]);
}

#[test]
fn members_on_one_host_are_given_gpus_that_reach_each_other() {
    let mut spec = gpu_node(8);
    for (at, device) in spec.devices.iter_mut().enumerate() {
        let way = |other: usize| DeviceWay {
            pcie: if other / 4 == at / 4 { PcieWay::Switch } else { PcieWay::System },
            nvlinks: if other / 2 == at / 2 { 4 } else { 0 },
        };
        device.ways = (0..at).map(way).collect();
    }
    let mut cluster = Cluster::with_nodes([spec]);
    // GPU 1 is taken: 0 has no link to anything that is free.
    let first = JobSpec { priority: 90, ..job(Policy::FirstFit, gpu_task(1)) };
    cluster.submit(first);
    let mut placed = plan_all(&cluster).placements;
    placed[0].devices[0].uuid = "GPU-1-of-1".to_owned();
    cluster.place(placed);
    cluster.submit(job(Policy::Berth, gang(2, gpu_task(2))));
    let outcome = plan_all(&cluster);
    let devices: Vec<Vec<&str>> = outcome
        .placements
        .iter()
        .map(|one| one.devices.iter().map(|claim| claim.uuid.as_str()).collect())
        .collect();
    // All four on one switch, and each member's two on one bridge.
    assert_eq!(devices, [["GPU-4-of-1", "GPU-5-of-1"], ["GPU-6-of-1", "GPU-7-of-1"]]);
}

#[test]
fn a_gang_that_waits_leaves_everything_free() {
    let mut cluster = Cluster::with_nodes([gpu_node(4), gpu_node(4)]);
    let large = JobSpec { priority: 90, ..job(Policy::Berth, gang(9, gpu_task(1))) };
    let larger = JobSpec { priority: 89, ..job(Policy::Berth, gang(10, gpu_task(1))) };
    let (large, larger) = (cluster.submit(large), cluster.submit(larger));
    let small = cluster.submit(job(Policy::Berth, counted(8, gpu_task(1))));
    let outcome = plan_all(&cluster);
    assert!(outcome.placements.iter().all(|one| one.job == small));
    assert_eq!(outcome.placements.len(), 8);
    let waiting: Vec<_> =
        outcome.report.waiting.iter().map(|one| (one.job, one.left, one.why)).collect();
    assert_eq!(waiting, [(large, 9, Why::NoNode), (larger, 10, Why::NoNode)]);
    // The second was not looked for: a task each, two nodes for the first, and the others.
    assert!(outcome.report.candidates_examined <= 3 + 2 + 2 + 8, "{:?}", outcome.report);
}

#[test]
fn the_first_member_has_a_port_and_tells_for_all_what_it_was_chosen_by() {
    let mut cluster = Cluster::with_nodes([gpu_node(2), gpu_node(2)]);
    let task = TaskSpec { ports: vec![name("http")], ..gang(4, gpu_task(1)) };
    cluster.submit(job(Policy::Berth, task));
    let outcome = plan_all(&cluster);
    let ports = |one: &Placement| one.ports.iter().map(|claim| claim.name.to_string()).collect();
    let ports: Vec<Vec<String>> = outcome.placements.iter().map(ports).collect();
    assert_eq!(ports[0], ["http", "master"]);
    assert!(ports[1..].iter().all(|ports| ports == &["http"]), "{ports:?}");
    let scores = outcome.placements.iter().map(|one| one.score.parts.len());
    assert_eq!(scores.filter(|parts| *parts > 0).count(), 1);
    let score = &outcome.placements[0].score;
    assert_eq!((score.policy.as_str(), &score.parts[0]), ("berth", &("gang_hosts".to_owned(), 2)));
    cluster.place(outcome.placements);
}

#[test]
fn suspects_take_no_part_in_a_gang() {
    let mut spec = gpu_node(3);
    spec.devices[0].health = DeviceHealth::Suspect;
    let check = |count, task: TaskSpec, expected: usize| {
        let found = placed_on(&[spec.clone()], Policy::Berth, gang(count, task));
        assert_eq!(found.len(), expected, "{count}");
    };
    check(2, gpu_task(1), 2);
    check(3, gpu_task(1), 0);
    check(4, share_task(500), 4);
    check(5, share_task(500), 0);
    let alone = NodeSpec { devices: spec.devices[..1].to_vec(), ..spec.clone() };
    assert_eq!(placed_on(&[alone], Policy::Berth, gang(1, gpu_task(1))).len(), 1);
}

#[test]
fn a_gang_waits_until_all_of_it_has_ended_and_its_backoff_is_over() {
    let mut cluster = Cluster::with_nodes([gpu_node(2)]);
    let restart = RestartPolicy {
        attempts: Some(5),
        backoff: DurationMs(1000),
        backoff_max: DurationMs(1000),
    };
    cluster.submit(job(Policy::Berth, TaskSpec { restart, ..gang(2, gpu_task(1)) }));
    let placements = plan_all(&cluster).placements;
    cluster.place(placements.clone());
    cluster.end(&placements[0], exit(1));
    let outcome = plan_all(&cluster);
    assert_eq!(outcome.placements, []);
    assert_eq!(outcome.report.waiting[0].why, Why::GangEnding);
    cluster.end(&placements[1], exit(1));
    let outcome = plan_all(&cluster);
    assert_eq!((outcome.placements.len(), outcome.report.waiting[0].why), (0, Why::Backoff));
    cluster.now = outcome.next_wakeup.unwrap();
    let again = plan_all(&cluster).placements;
    assert_eq!(again.len(), 2);
    cluster.place(again);
}

#[test]
fn a_gang_is_planned_whole_or_the_budget_has_ended() {
    let mut cluster = Cluster::with_nodes((0..4).map(|_| gpu_node(1)));
    cluster.submit(job(Policy::Berth, gang(4, gpu_task(1))));
    let budget = |candidates_examined_max, placements_max| {
        let budget = Budget { candidates_examined_max, placements_max, ..Budget::UNLIMITED };
        let outcome = plan(&cluster.state, &SoftView::default(), cluster.now, budget);
        (outcome.placements.len(), outcome.exhausted)
    };
    assert_eq!(budget(100, 3), (0, true));
    assert_eq!(budget(3, 100), (0, true));
    assert_eq!(budget(5, 4), (4, false));
}

#[test]
fn what_is_handed_back_was_never_there() {
    let mut cluster = Cluster::with_nodes([gpu_node(2)]);
    cluster.submit(job(Policy::Berth, gpu_task(1)));
    let placement = plan_all(&cluster).placements.remove(0);
    let mut planner = Planner::default();
    planner.observe(&cluster.state, &SoftView::default(), cluster.now);
    let claim = Claim {
        cpu: task().cpu,
        memory: task().memory,
        devices: placement.devices,
        ports: Vec::new(),
    };
    let roster = &mut planner.roster;
    let before = format!("{:?} {:?}", roster.host(0).spots, roster.stocks());
    roster.hand_out(0, &claim, cluster.now);
    assert_ne!(format!("{:?} {:?}", roster.host(0).spots, roster.stocks()), before);
    roster.hand_back(0, &claim, cluster.now);
    assert_eq!(format!("{:?} {:?}", roster.host(0).spots, roster.stocks()), before);
    assert_eq!(roster.host(0).tasks, 0);
}

/// How many members find a place one after another, each wherever apply would grant it one.
fn places_one_by_one(cluster: &Cluster, job: &JobRow, task: &TaskSpec) -> u32 {
    let mut found = 0;
    for node in cluster.state.nodes().values() {
        let closed = !node.accepts_work()
            || node.rests(cluster.now)
            || !node.guards.are_open()
            || eligible(&node.name, &node.spec, &job.spec.constraints, task).is_err();
        if closed {
            continue;
        }
        let mut used: NodeUse = node.used.clone();
        // Any node may be the one with the port.
        let mut asked = task.of_instance(InstanceIndex(0)).into_owned();
        while let Some(claim) = any_claim(node, &used, &asked, cluster.now) {
            used.add(&claim);
            found += 1;
            asked = task.clone();
        }
    }
    found
}

/// A claim that apply would grant, without suspects.
fn any_claim(
    node: &berth_state::NodeRow,
    used: &NodeUse,
    task: &TaskSpec,
    now: StateMs,
) -> Option<Claim> {
    let id = AllocationId::default();
    let is_well = |at: &usize| node.spec.devices[*at].health == DeviceHealth::Healthy;
    let sound: Vec<usize> = (0..node.spec.devices.len()).filter(is_well).collect();
    let count = task.gpu.as_ref().map_or(0, |gpu| gpu.count as usize);
    let granted = |chosen: &[usize]| {
        let claim = claim(node, used, now, task, id, chosen)?;
        fits(node.capacity(used), task, &claim).ok()?;
        Some(claim)
    };
    if count <= 1 {
        let none = (count == 0).then(|| granted(&[])).flatten();
        return none.or_else(|| sound.iter().find_map(|at| granted(&[*at]).filter(|_| count == 1)));
    }
    let free = |at: &&usize| {
        let one = TaskSpec {
            gpu: task.gpu.clone().map(|gpu| GpuRequest { count: 1, ..gpu }),
            ..task.clone()
        };
        claim(node, used, now, &one, id, &[**at])
            .is_some_and(|claim| fits(node.capacity(used), &one, &claim).is_ok())
    };
    let chosen: Vec<usize> = sound.iter().filter(free).take(count).copied().collect();
    granted(&chosen).filter(|_| chosen.len() == count)
}

#[derive(Clone, Debug)]
enum Step {
    Submit(Box<JobSpec>),
    Plan,
    End(usize, bool),
    Advance(u64),
    Purpose(usize, bool),
    Guard(usize, bool),
}

fn a_node() -> impl Strategy<Value = NodeSpec> {
    (2..9u64, 0..5u32, 0..2u8, 0..4u16, 0..4u8).prop_map(|(cpu, gpus, zone, ports, suspect)| {
        let mut devices: Vec<_> = (0..gpus).map(|index| device(index, "H100")).collect();
        if let Some(first) = devices.first_mut().filter(|_| suspect == 0) {
            first.health = DeviceHealth::Suspect;
        }
        NodeSpec {
            cpu: CpuMilli(cpu * 500),
            zone: name(if zone == 0 { "east" } else { "west" }),
            ports: PortRange { first: 20_000, last: 20_000 + ports },
            devices,
            ..gpu_node(0)
        }
    })
}

fn a_step() -> impl Strategy<Value = Step> {
    let task = (1..6u32, 0..4u32, 0..2usize, 1..4u64, any::<bool>());
    let task = task.prop_map(|(count, gpus, ports, cpu, is_gang)| TaskSpec {
        count,
        gang: is_gang.then_some(Gang {}),
        cpu: CpuMilli(cpu * 250),
        ports: [name("http")][..ports].to_vec(),
        restart: RestartPolicy {
            attempts: None,
            backoff: DurationMs(10),
            backoff_max: DurationMs(10),
        },
        ..match gpus {
            0 => plain(),
            3 => share_task(400),
            gpus => gpu_task(gpus),
        }
    });
    let spec = (task, 0..Policy::ALL.len(), 0..=100u8).prop_map(|(task, policy, priority)| {
        // Whom others end for has tests of its own.
        let preemption = Preemption { preempts: false, ..Preemption::default() };
        Step::Submit(Box::new(JobSpec { priority, preemption, ..job(Policy::ALL[policy], task) }))
    });
    prop_oneof![
        4 => spec,
        3 => Just(Step::Plan),
        4 => (0..100usize, any::<bool>()).prop_map(|(which, well)| Step::End(which, well)),
        1 => (1..40_000u64).prop_map(Step::Advance),
        1 => (0..6usize, any::<bool>()).prop_map(|(which, open)| Step::Purpose(which, open)),
        1 => (0..6usize, any::<bool>()).prop_map(|(which, open)| Step::Guard(which, open)),
    ]
}

fn plain() -> TaskSpec {
    task()
}

fn check(cluster: &mut Cluster, planner: &mut Planner) {
    let soft = SoftView::default();
    let outcome = plan_all(cluster);
    let kept = planner.plan(&cluster.state, &soft, cluster.now, Budget::UNLIMITED);
    let found: Vec<_> = outcome.placements.iter().map(essence).collect();
    assert_eq!(found, kept.placements.iter().map(essence).collect::<Vec<_>>(), "kept or fresh");
    // Whole, in one piece, in the order of the ranks.
    for unit in
        outcome.placements.chunk_by(|one, next| (one.job, one.task) == (next.job, next.task))
    {
        let task = &cluster.state.jobs().get(&unit[0].job).unwrap().spec.tasks[0];
        if task.gang.is_some() {
            let ranks: Vec<u32> = unit.iter().map(|one| one.instance.0).collect();
            assert_eq!(ranks, (0..task.count).collect::<Vec<_>>());
        }
    }
    cluster.place(outcome.placements);
    assert_eq!(invariants::check(&cluster.state), []);
    // What still fits now would have fitted then.
    for waiting in outcome.report.waiting.iter().filter(|waiting| waiting.why == Why::NoNode) {
        let job = cluster.state.jobs().get(&waiting.job).unwrap();
        let task = &job.spec.tasks[0];
        if task.gang.is_some() {
            let places = places_one_by_one(cluster, job, task);
            assert!(places < task.count, "{places} places for {task:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_gang_is_placed_whole_or_not_at_all(
        nodes in prop::collection::vec(a_node(), 1..6),
        steps in prop::collection::vec(a_step(), 1..30),
    ) {
        let mut cluster = Cluster::with_nodes(nodes);
        let mut planner = Planner::default();
        for step in steps {
            match step {
                Step::Submit(spec) => drop(cluster.submit(*spec)),
                Step::Plan => check(&mut cluster, &mut planner),
                Step::End(which, well) => {
                    let live = cluster.state.allocations();
                    let chosen = live.values().nth(which % live.len().max(1)).cloned();
                    let report = if well { exit(0) } else { host_fault() };
                    if let Some(row) = chosen {
                        cluster.end_allocation(row.node, row.id, report);
                    }
                }
                Step::Advance(span) => cluster.now = cluster.now.after(DurationMs(span)),
                Step::Guard(which, open) => {
                    let node = which % cluster.state.nodes().len() + 1;
                    cluster.set_guards(node as u64, None, (!open).then_some(95));
                }
                Step::Purpose(which, open) => {
                    let node = which % cluster.state.nodes().len() + 1;
                    let purpose = if open { Purpose::Work } else { Purpose::Cordoned };
                    cluster.set_purpose(node as u64, purpose);
                }
            }
        }
        check(&mut cluster, &mut planner);
    }
}
