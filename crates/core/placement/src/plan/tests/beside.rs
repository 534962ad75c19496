//! Patient places among everything else that a cluster has: quotas and guarantees, gangs, parts of
//! GPUs, ports, what is more urgent, what ends in time. What is planned is granted, and planning
//! comes to an end.

use berth_model::{Gang, JobKind, Preemption, Resource, TaskSpec};
use berth_state::{Reply, invariants};
use proptest::prelude::*;

use super::lending::guarantee;
use super::patience::{MINUTE, limited, on, wait};
use super::preemption::{all_run, run_for, urgent};
use super::quota::limit;
use super::reference::exit;
use super::*;
use crate::fixture::share_task;

/// Plans before nothing more happens; hardly ever more than three.
const PLANS_MAX: usize = 30;

fn with_min_run(minutes: u64, spec: JobSpec) -> JobSpec {
    let preemption = Preemption { min_run: DurationMs(minutes * MINUTE), ..spec.preemption };
    JobSpec { preemption, ..spec }
}

/// Plans and does it until nothing more is planned; how many places came of it, patient and not.
fn settles(cluster: &mut Cluster, planner: &mut Planner) -> Result<(usize, usize), String> {
    let mut kept = (0, 0);
    for _ in 0..PLANS_MAX {
        let soft = SoftView::default();
        let outcome = planner.plan(&cluster.state, &soft, cluster.now, Budget::UNLIMITED);
        if outcome.placements.is_empty() && outcome.reservations.is_empty() {
            return Ok(kept);
        }
        let patient = outcome.reservations.iter().filter(|one| one.patient).count();
        kept = (kept.0 + patient, kept.1 + outcome.reservations.len() - patient);
        for command in [
            Command::Reserve { reservations: outcome.reservations },
            Command::Place { placements: outcome.placements },
        ] {
            let reply = cluster.apply(command);
            let Ok(Reply::Placed { refused, .. }) = &reply else {
                return Err(format!("{reply:?}"));
            };
            if !refused.is_empty() {
                return Err(format!("{reply:?}"));
            }
            let broken = invariants::check(&cluster.state);
            if !broken.is_empty() {
                return Err(format!("{broken:?}"));
            }
        }
    }
    Err("plans go on for ever".to_owned())
}

fn asked_to_end(cluster: &Cluster) -> usize {
    let live = cluster.state.allocations().values();
    live.filter(|row| row.state.stop_intent().is_some()).count()
}

/// The first that is awaited for each place of a node ends.
fn first_awaited_end(cluster: &mut Cluster, node: NodeId) -> usize {
    let rows = &cluster.state.nodes().get(&node).unwrap().reservations;
    let first: Vec<_> = rows.iter().filter_map(|one| one.awaits.first().copied()).collect();
    first.iter().for_each(|id| cluster.end_allocation(node, *id, exit(0)));
    first.len()
}

/// So many that more than one place may be kept.
fn a_node_of_four_and_many_without() -> Cluster {
    Cluster::with_nodes(std::iter::once(gpu_node(4)).chain((0..47).map(|_| gpu_node(0))))
}

#[test]
fn a_patient_place_does_not_keep_its_owner_from_having_others_end() {
    let gang = TaskSpec { gang: Some(Gang {}), ..counted(2, gpu_task(1)) };
    for quota in [2000, 8000] {
        for task in [gpu_task(2), gang.clone()] {
            let mut cluster = Cluster::with_nodes([gpu_node(2)]);
            limit(&mut cluster, "research", &[(Resource::Gpus, quota)]);
            cluster.submit(with_min_run(30, urgent(30, gpu_task(1))));
            run_for(&mut cluster, MINUTE);
            let places = task.count as usize;
            cluster.submit(JobSpec { namespace: name("research"), ..urgent(50, task) });
            wait(&mut cluster, 15);
            let mut planner = Planner::default();
            assert_eq!(settles(&mut cluster, &mut planner), Ok((places, 0)));
            wait(&mut cluster, 20);
            assert_eq!(settles(&mut cluster, &mut planner), Ok((0, places)));
            assert_eq!(asked_to_end(&cluster), 1);
        }
    }
}

#[test]
fn what_would_need_the_free_parts_of_two_places_waits() {
    let mut cluster = a_node_of_four_and_many_without();
    for _ in 0..2 {
        cluster.submit(on("node-1", urgent(50, limited(100, counted(2, gpu_task(1))))));
    }
    run_for(&mut cluster, MINUTE);
    cluster.submit(urgent(50, gpu_task(2)));
    cluster.submit(urgent(50, limited(5, gpu_task(2))));
    wait(&mut cluster, 10);
    let mut planner = Planner::default();
    assert_eq!(settles(&mut cluster, &mut planner), Ok((2, 0)));
    assert_eq!(first_awaited_end(&mut cluster, NodeId(1)), 2);
    cluster.submit(urgent(50, limited(5, gpu_task(2))));
    let live = cluster.state.allocations().len();
    assert_eq!(settles(&mut cluster, &mut planner), Ok((0, 0)));
    assert_eq!(cluster.state.allocations().len(), live);
}

#[test]
fn what_nothing_could_ever_hold_bars_nobody_behind_it() {
    let mut cluster = Cluster::with_nodes([gpu_node(2)]);
    cluster.submit(urgent(50, gpu_task(1)));
    run_for(&mut cluster, MINUTE);
    for _ in 0..40 {
        cluster.submit(urgent(50, gpu_task(8)));
    }
    let possible = cluster.submit(urgent(50, gpu_task(2)));
    wait(&mut cluster, 600);
    assert_eq!(settles(&mut cluster, &mut Planner::default()), Ok((1, 0)));
    assert!(cluster.state.reservations().all(|(id, ..)| id.job == possible));
}

#[derive(Clone, Debug)]
enum Step {
    Submit(Box<JobSpec>),
    /// The allocation at this position, modulo their number.
    End(usize),
    /// What has a place runs, and so many minutes go by.
    Wait(u64),
}

fn a_task() -> impl Strategy<Value = TaskSpec> {
    let size = prop_oneof![
        3 => (1..5_u32).prop_map(gpu_task),
        1 => (200..900_u32).prop_map(share_task),
    ];
    let limit = prop::option::of(1..61_u64);
    let shape = prop_oneof![2 => Just(None), 1 => Just(Some((3, false))), 1 => (2..4_u32).prop_map(|count| Some((count, true)))];
    (size, limit, shape, prop::bool::weighted(0.3)).prop_map(|(task, limit, shape, has_port)| {
        let task = match limit {
            Some(minutes) => limited(minutes, task),
            None => task,
        };
        let ports = if has_port { vec![name("http")] } else { Vec::new() };
        let (count, is_gang) = shape.unwrap_or((1, false));
        TaskSpec { count, ports, gang: is_gang.then_some(Gang {}), ..task }
    })
}

fn a_job() -> impl Strategy<Value = JobSpec> {
    let priority = prop::sample::select(vec![30, 40, 45, 50, 60_u8]);
    let min_run = prop::sample::select(vec![0, 5, 30_u64]);
    let namespace = prop::sample::select(vec!["default", "limited", "sure"]);
    (a_task(), priority, min_run, namespace, prop::bool::weighted(0.15)).prop_map(
        |(task, priority, min_run, namespace, serves)| JobSpec {
            kind: if serves { JobKind::Service } else { JobKind::Batch },
            namespace: name(namespace),
            ..with_min_run(min_run, urgent(priority, task))
        },
    )
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => a_job().prop_map(|spec| Step::Submit(Box::new(spec))),
        1 => any::<usize>().prop_map(Step::End),
        1 => (1..12_u64).prop_map(Step::Wait),
    ]
}

fn make(cluster: &mut Cluster, step: Step) {
    match step {
        // What is more than a quota is refused.
        Step::Submit(spec) => drop(cluster.try_submit(*spec)),
        Step::End(at) => {
            let rows: Vec<_> = cluster.state.allocations().values().cloned().collect();
            if let Some(row) = rows.get(at % rows.len().max(1)) {
                cluster.end_allocation(row.node, row.id, exit(0));
            }
        }
        Step::Wait(minutes) => {
            all_run(cluster);
            wait(cluster, minutes);
        }
    }
}

proptest! {
    #[test]
    fn what_is_planned_beside_patient_places_is_granted(
        nodes in prop::collection::vec(1..5_u32, 1..4),
        (is_sure, most) in (prop::bool::ANY, prop::option::of(prop::sample::select(vec![2000, 4000]))),
        steps in prop::collection::vec(a_step(), 1..40),
    ) {
        let mut cluster = Cluster::with_nodes(nodes.into_iter().map(gpu_node));
        if is_sure {
            guarantee(&mut cluster, "sure", 2000);
        }
        if let Some(most) = most {
            limit(&mut cluster, "limited", &[(Resource::Gpus, most)]);
        }
        let mut planner = Planner::default();
        for step in steps {
            make(&mut cluster, step.clone());
            let settled = settles(&mut cluster, &mut planner);
            prop_assert!(settled.is_ok(), "after {step:?}: {settled:?}");
        }
    }
}
