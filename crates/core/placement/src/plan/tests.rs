use std::collections::BTreeSet;
use std::sync::Arc;

use berth_model::{
    ArraySpec, Attempt, Constraints, CpuMilli, DurationMs, JobId, JobSpec, MemoryBytes, NodeId,
    PortRange, RestartPolicy, TaskIndex,
};
use berth_state::{Command, JobChange, Purpose};

use super::*;
use crate::fixture::{Cluster, gpu_node, gpu_task, job, name, task};
use crate::soft::NodeLoad;

mod agreement;
mod anew;
mod beside;
mod fair;
mod gang_places;
mod gangs;
mod lending;
mod loans;
mod node_reservations;
mod patience;
mod preemption;
mod properties;
mod quota;
mod reference;

fn plan_all(cluster: &Cluster) -> PlanOutcome {
    plan(&cluster.state, &SoftView::default(), cluster.now, Budget::UNLIMITED)
}

/// Node ids in the order of the placements.
fn nodes_of(outcome: &PlanOutcome) -> Vec<u64> {
    outcome.placements.iter().map(|placement| placement.node.0).collect()
}

fn counted(count: u32, task: TaskSpec) -> TaskSpec {
    TaskSpec { count, ..task }
}

#[test]
fn each_policy_prefers_what_it_says() {
    let nodes = || {
        let mut busy = gpu_node(4);
        busy.zone = name("east");
        let mut small = gpu_node(2);
        small.cpu = CpuMilli(8000);
        let bare = gpu_node(0);
        let mut cluster = Cluster::with_nodes([busy, small, bare]);
        let constraints = Constraints { node: Some(name("node-1")), ..Constraints::default() };
        let first = JobSpec { constraints, ..job(Policy::BestFit, gpu_task(1)) };
        cluster.submit(first);
        let outcome = plan_all(&cluster);
        cluster.place(outcome.placements);
        cluster
    };
    let check = |policy, task: TaskSpec, expected: &[u64]| {
        let mut cluster = nodes();
        cluster.submit(job(policy, task));
        assert_eq!(nodes_of(&plan_all(&cluster)), expected, "{}", policy.name());
    };
    // The idlest GPUs first: 0 of 2 before 1 of 4, then 1 of 4 before 1 of 2.
    check(Policy::LeastLoaded, counted(4, gpu_task(1)), &[2, 1, 1, 2]);
    // The fewest idle GPUs left: 2 of node 2, then 3 of node 1.
    check(Policy::BestFit, counted(4, gpu_task(1)), &[2, 2, 1, 1]);
    // A task without GPUs leaves GPU hosts alone.
    check(Policy::BestFit, counted(2, task()), &[3, 3]);
    // Job 2, instance 0: the third of three nodes is in turn, then the first.
    check(Policy::RoundRobin, counted(4, task()), &[3, 1, 2, 3]);
    // Only two nodes have GPUs: the ring is theirs.
    check(Policy::RoundRobin, counted(3, gpu_task(1)), &[1, 2, 1]);
    // Among equals the emptiest, then the zone without one; then each node has
    // one, and the zone with fewer comes first.
    check(Policy::Spread, counted(4, task()), &[2, 1, 3, 1]);
}

#[test]
fn least_loaded_believes_measurements() {
    let mut cluster = Cluster::with_nodes([gpu_node(2), gpu_node(2)]);
    cluster.submit(job(Policy::LeastLoaded, gpu_task(1)));
    let mut soft = SoftView::default();
    let busy = NodeLoad { gpu_util_milli: Some(900), ..NodeLoad::default() };
    soft.loads.insert(NodeId(1), Arc::new(busy));
    let outcome = plan(&cluster.state, &soft, cluster.now, Budget::UNLIMITED);
    assert_eq!(nodes_of(&outcome), [2]);
    let score = &outcome.placements[0].score;
    assert_eq!(score.policy, "least-loaded");
    assert_eq!(score.parts[0], ("gpu_load_milli".to_owned(), 0));
    assert_eq!(score.view_index, cluster.state.applied_index());
}

#[test]
fn priority_orders_and_smaller_work_fills_in_behind() {
    let mut cluster = Cluster::with_nodes([gpu_node(4)]);
    let low = cluster.submit(JobSpec { priority: 10, ..job(Policy::BestFit, gpu_task(1)) });
    let high = cluster.submit(JobSpec { priority: 90, ..job(Policy::BestFit, gpu_task(8)) });
    let middle = cluster.submit(JobSpec { priority: 50, ..job(Policy::BestFit, gpu_task(3)) });
    let outcome = plan_all(&cluster);
    let placed: Vec<JobId> = outcome.placements.iter().map(|placement| placement.job).collect();
    assert_eq!(placed, [middle, low]);
    let waiting: Vec<(JobId, Why)> =
        outcome.report.waiting.iter().map(|waiting| (waiting.job, waiting.why)).collect();
    assert_eq!(waiting, [(high, Why::NoNode)]);
}

#[test]
fn equal_requests_share_one_search() {
    let mut cluster = Cluster::with_nodes((0..20).map(|_| gpu_node(1)));
    for _ in 0..50 {
        cluster.submit(job(Policy::BestFit, gpu_task(1)));
    }
    let outcome = plan_all(&cluster);
    assert_eq!(outcome.placements.len(), 20);
    assert_eq!(outcome.report.searches, 1);
    // One look at each node, one at each placement, one at each task; the
    // thirty that do not fit cost no search.
    assert!(outcome.report.candidates_examined <= 20 + 20 + 50, "{:?}", outcome.report);
}

#[test]
fn what_waits_is_looked_for_on_the_nodes_that_have_changed() {
    let mut cluster = Cluster::with_nodes((0..20).map(|_| gpu_node(1)));
    cluster.submit(job(Policy::Berth, gpu_task(1)));
    let soft = SoftView::default();
    let mut planner = Planner::default();
    let first = planner.plan(&cluster.state, &soft, cluster.now, Budget::UNLIMITED);
    cluster.place(first.placements.clone());
    cluster.submit(job(Policy::Berth, gpu_task(2)));
    let mut plan = |cluster: &Cluster| {
        let outcome = planner.plan(&cluster.state, &soft, cluster.now, Budget::UNLIMITED);
        assert_eq!(outcome.report.waiting.len(), 1);
        (outcome.report.searches, outcome.report.candidates_examined)
    };
    // The task itself and every node; then the task alone; then a node that has changed.
    assert_eq!(plan(&cluster), (1, 21));
    assert_eq!(plan(&cluster), (0, 1));
    cluster.end(&first.placements[0], reference::exit(0));
    assert_eq!(plan(&cluster), (0, 2));
}

#[test]
fn loads_are_looked_at_by_who_asks_for_them() {
    let check = |policy: Policy, expected: u64| {
        let mut cluster = Cluster::with_nodes((0..20).map(|_| gpu_node(1)));
        cluster.submit(job(policy, gpu_task(2)));
        let (mut soft, mut planner) = (SoftView::default(), Planner::default());
        planner.plan(&cluster.state, &soft, cluster.now, Budget::UNLIMITED);
        for node in 1..=20 {
            let load = NodeLoad { gpu_util_milli: Some(500), ..NodeLoad::default() };
            soft.loads.insert(NodeId(node), Arc::new(load));
        }
        let outcome = planner.plan(&cluster.state, &soft, cluster.now, Budget::UNLIMITED);
        let report = outcome.report;
        assert_eq!((report.searches, report.candidates_examined), (0, expected), "{policy:?}");
    };
    check(Policy::Berth, 1);
    check(Policy::LeastLoaded, 21);
}

#[test]
fn more_kinds_than_are_kept_plan_the_same() {
    let mut cluster = Cluster::with_nodes((0..4).map(|_| gpu_node(0)));
    let mut planner = Planner::default();
    planner.searches.kept_max = 8;
    for kind in (0..17).chain(0..17) {
        let one = TaskSpec { cpu: CpuMilli(100 + kind * 10), ..task() };
        cluster.submit(job(Policy::LeastLoaded, one));
    }
    let soft = SoftView::default();
    let outcome = planner.plan(&cluster.state, &soft, cluster.now, Budget::UNLIMITED);
    assert_eq!(outcome.report.searches, 34);
    let expected = reference::reference_plan(&cluster.state, &SoftView::default(), cluster.now);
    assert_eq!(outcome.placements.iter().map(reference::essence).collect::<Vec<_>>(), expected);
}

#[test]
fn a_plan_stops_where_its_budget_does() {
    let mut cluster = Cluster::with_nodes((0..10).map(|_| gpu_node(1)));
    cluster.submit(job(Policy::BestFit, counted(10, gpu_task(1))));
    let budget = |candidates_examined_max, placements_max| {
        let budget = Budget { candidates_examined_max, placements_max, reservations_max: 0 };
        plan(&cluster.state, &SoftView::default(), cluster.now, budget)
    };
    let three = budget(u64::MAX, 3);
    assert_eq!((three.placements.len(), three.exhausted), (3, true));
    assert_eq!(three.report.waiting[0].why, Why::Budget);
    let cut_short = budget(5, 100);
    assert_eq!((cut_short.placements.len(), cut_short.exhausted), (1, true));
    let nothing = budget(0, 100);
    assert_eq!((nothing.placements.len(), nothing.exhausted), (0, true));
    let enough = budget(100, 10);
    assert_eq!((enough.placements.len(), enough.exhausted), (10, false));
}

#[test]
fn a_cut_search_sees_every_node_in_time() {
    let mut cluster = Cluster::with_nodes((0..9).map(|_| gpu_node(0)));
    let last = cluster.register(gpu_node(1));
    cluster.submit(job(Policy::BestFit, gpu_task(1)));
    let budget = Budget { candidates_examined_max: 4, placements_max: 1, reservations_max: 0 };
    let found = (0..10).any(|_| {
        let outcome = plan(&cluster.state, &SoftView::default(), cluster.now, budget);
        // Any entry moves the view on.
        cluster.set_purpose(1, Purpose::Work);
        nodes_of(&outcome) == [last.0]
    });
    assert!(found);
}

#[test]
fn an_array_keeps_to_its_parallel_limit() {
    let mut cluster = Cluster::with_nodes([gpu_node(0)]);
    let array = ArraySpec { start: 0, step: 1, parallel_max: Some(3) };
    cluster.submit(job(Policy::BestFit, TaskSpec { array: Some(array), ..counted(10, task()) }));
    let outcome = plan_all(&cluster);
    assert_eq!(outcome.placements.len(), 3);
    assert_eq!(outcome.report.waiting[0].why, Why::ParallelLimit);
    cluster.place(outcome.placements);
    assert_eq!(plan_all(&cluster).placements, []);
}

#[test]
fn a_resting_node_is_passed_over_and_tried_again_later() {
    let mut cluster = Cluster::with_nodes([gpu_node(1), gpu_node(1)]);
    cluster.submit(job(Policy::LeastLoaded, gpu_task(1)));
    let placed = plan_all(&cluster).placements;
    let (sick, lone) = (placed[0].node, placed[0].clone());
    cluster.place(placed);
    cluster.end(&lone, reference::host_fault());
    let other = NodeId(3 - sick.0);
    cluster.submit(job(Policy::LeastLoaded, gpu_task(1)));
    let outcome = plan_all(&cluster);
    assert_eq!(nodes_of(&outcome), [other.0]);
    assert_eq!(outcome.next_wakeup, cluster.state.nodes().get(&sick).map(|row| row.rests_until));
    cluster.place(outcome.placements);
    cluster.now = outcome.next_wakeup.unwrap();
    assert_eq!(nodes_of(&plan_all(&cluster)), [sick.0]);
}

#[test]
fn a_daemon_runs_once_on_every_node_that_takes_work() {
    let mut cluster = Cluster::with_nodes([gpu_node(0), gpu_node(1), gpu_node(0)]);
    cluster.set_purpose(3, Purpose::Cordoned);
    let kind = JobKind::Daemon;
    let task = TaskSpec { restart: RestartPolicy::default_for(kind), ..task() };
    let daemon = cluster.submit(JobSpec { kind, ..job(Policy::BestFit, task) });
    let outcome = plan_all(&cluster);
    assert_eq!(nodes_of(&outcome), [1, 2]);
    let instances: Vec<u32> = outcome.placements.iter().map(|one| one.instance.0).collect();
    assert_eq!(instances, [1, 2]);
    cluster.place(outcome.placements);
    assert_eq!(plan_all(&cluster).placements, []);
    cluster.set_purpose(3, Purpose::Work);
    assert_eq!(nodes_of(&plan_all(&cluster)), [3]);
    cluster
        .apply(Command::ChangeJob { job: daemon, if_version: None, change: JobChange::Hold })
        .unwrap();
    assert_eq!(plan_all(&cluster).placements, []);
}

#[test]
fn a_host_that_is_short_of_something_gets_daemons_alone() {
    let mut cluster = Cluster::with_nodes([gpu_node(1), gpu_node(1), gpu_node(1)]);
    cluster.set_guards(1, Some(91), None);
    cluster.set_guards(2, None, Some(93));
    let kind = JobKind::Daemon;
    let of_daemon = TaskSpec { restart: RestartPolicy::default_for(kind), ..task() };
    cluster.submit(JobSpec { kind, ..job(Policy::BestFit, of_daemon) });
    let daemons = plan_all(&cluster);
    assert_eq!(nodes_of(&daemons), [1, 2, 3]);
    cluster.place(daemons.placements);
    cluster.submit(job(Policy::BestFit, counted(3, gpu_task(1))));
    let outcome = plan_all(&cluster);
    assert_eq!(nodes_of(&outcome), [3]);
    cluster.place(outcome.placements);
    // What is urgent ends nobody there: it could not start in their place.
    cluster.set_guards(3, Some(100), None);
    let urgent = JobSpec { priority: 100, ..job(Policy::BestFit, gpu_task(1)) };
    cluster.submit(urgent);
    cluster.now = cluster.now.after(DurationMs::from_secs(3_600));
    let outcome = plan_all(&cluster);
    assert_eq!((outcome.placements, outcome.reservations), (Vec::new(), Vec::new()));
    cluster.set_guards(1, None, None);
    assert_eq!(nodes_of(&plan_all(&cluster)), [1]);
}

#[test]
fn a_retry_waits_for_its_time_and_takes_the_next_attempt() {
    let mut cluster = Cluster::with_nodes([gpu_node(0)]);
    let restart =
        RestartPolicy { attempts: Some(3), backoff: DurationMs(100), backoff_max: DurationMs(100) };
    cluster.submit(job(Policy::BestFit, TaskSpec { restart, ..task() }));
    let first = plan_all(&cluster).placements;
    cluster.place(first.clone());
    cluster.end(&first[0], reference::exit(1));
    let outcome = plan_all(&cluster);
    assert_eq!(outcome.placements, []);
    assert_eq!(outcome.report.waiting[0].why, Why::Backoff);
    let at = outcome.next_wakeup.unwrap();
    assert!(at > cluster.now && at.since(cluster.now) < DurationMs(130));
    cluster.now = at;
    let outcome = plan_all(&cluster);
    assert_eq!(outcome.placements[0].attempt, Attempt(2));
    assert_eq!(outcome.next_wakeup, None);
    cluster.place(outcome.placements);
}

#[test]
fn a_blocked_port_is_waited_for_when_there_is_no_other() {
    let mut spec = gpu_node(0);
    spec.ports = PortRange { first: 20_000, last: 20_000 };
    let mut cluster = Cluster::with_nodes([spec]);
    cluster.submit(job(Policy::BestFit, TaskSpec { ports: vec![name("http")], ..task() }));
    let first = plan_all(&cluster).placements;
    cluster.place(first.clone());
    cluster.end(&first[0], reference::port_taken());
    let outcome = plan_all(&cluster);
    assert_eq!(outcome.placements, []);
    let at = outcome.next_wakeup.unwrap();
    assert_eq!(at, cluster.now.after(DurationMs(berth_state::rows::PORT_BLOCK_MS)));
    cluster.now = at;
    assert_eq!(nodes_of(&plan_all(&cluster)), [1]);
}
