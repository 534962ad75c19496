//! Nodes that are reserved: nothing is planned for them that they do not let in, and what waits is
//! told why and what would help.

use berth_model::{AtBegin, Gang, NodeReservation, ReservedNodes, WallMs};
use berth_state::Reply;

use super::patience::{MINUTE, limited, wait};
use super::preemption::{reserve, run_for, urgent};
use super::*;
use crate::explain::{Explanation, explain};

/// `node-1`, from so many minutes after now on, for the namespace `launch`.
fn reserve_first(cluster: &mut Cluster, minutes: u64, running: AtBegin) {
    let spec = NodeReservation {
        name: name("launch-day"),
        nodes: ReservedNodes::Named([name("node-1")].into()),
        namespaces: [name("launch")].into(),
        priority_min: None,
        from: WallMs(cluster.now.0 + minutes * MINUTE),
        until: None,
        running,
    };
    let command = Command::ReserveNodes { spec: Arc::new(spec), if_version: None };
    assert_eq!(cluster.apply(command), Ok(Reply::NodesReserved { version: 1 }));
}

fn turn(cluster: &mut Cluster) {
    let name = name("launch-day");
    cluster.apply(Command::TurnNodeReservation { name }).unwrap();
}

fn of_launch(spec: JobSpec) -> JobSpec {
    JobSpec { namespace: name("launch"), ..spec }
}

fn told(cluster: &Cluster, job: JobId) -> Explanation {
    explain(&cluster.state, &SoftView::default(), cluster.now, job).unwrap()
}

#[test]
fn what_is_not_let_in_goes_elsewhere_or_waits() {
    let mut cluster = Cluster::with_nodes([gpu_node(4), gpu_node(4)]);
    reserve_first(&mut cluster, 0, AtBegin::Keep);
    cluster.submit(urgent(50, counted(6, gpu_task(1))));
    cluster.submit(of_launch(urgent(50, counted(3, gpu_task(1)))));
    cluster.submit(urgent(50, TaskSpec { gang: Some(Gang {}), ..counted(2, gpu_task(3)) }));
    let outcome = plan_all(&cluster);
    let on_first = outcome.placements.iter().filter(|one| one.node == NodeId(1));
    assert_eq!(on_first.map(|one| one.job.0).collect::<BTreeSet<_>>(), [2].into());
    assert_eq!(outcome.placements.len(), 7);
    cluster.place(outcome.placements);
}

#[test]
fn the_longest_time_limit_that_ends_in_time_is_named_and_helps() {
    let mut cluster = Cluster::with_nodes([gpu_node(4)]);
    reserve_first(&mut cluster, 30, AtBegin::Keep);
    let endless = cluster.submit(urgent(50, gpu_task(1)));
    assert_eq!(plan_all(&cluster).placements, []);
    let said = told(&cluster, endless);
    let reason = &said.reasons[0];
    assert_eq!((reason.code, reason.nodes), ("node-reserved-soon", 1));
    let expected = "the node is reserved (`launch-day`) in 30 min, and only what ends before by \
                    its time limit is let in";
    assert_eq!(reason.detail, expected);
    let grace = gpu_task(1).stop.grace.0 / 1000;
    let most = 30 * 60 - 30 - grace;
    assert_eq!(most, 29 * 60);
    let expected = "with a time_limit of at most 29m it would fit now on node node-1";
    assert_eq!(said.smallest_change, expected);
    let of_seconds =
        |seconds: u64| TaskSpec { time_limit: Some(DurationMs(seconds * 1000)), ..gpu_task(1) };
    let long = cluster.submit(urgent(50, of_seconds(most + 1)));
    let short = cluster.submit(urgent(50, of_seconds(most)));
    let outcome = plan_all(&cluster);
    assert_eq!(outcome.placements.iter().map(|one| one.job).collect::<Vec<_>>(), [short]);
    cluster.place(outcome.placements);
    wait(&mut cluster, 30);
    turn(&mut cluster);
    for job in [endless, long] {
        let said = told(&cluster, job);
        assert_eq!(said.reasons[0].code, "node-reserved");
        assert_eq!(said.smallest_change, "wait: node node-1 is reserved (`launch-day`)");
    }
    let urgent = cluster.submit(of_launch(urgent(50, gpu_task(2))));
    assert_eq!(
        plan_all(&cluster).placements.iter().map(|one| one.job).collect::<Vec<_>>(),
        [urgent]
    );
}

#[test]
fn a_planner_that_has_looked_before_takes_in_that_time_passes_and_that_it_begins() {
    let mut cluster = Cluster::with_nodes([gpu_node(1)]);
    let mut planner = Planner::default();
    let mut places = |cluster: &Cluster| {
        let soft = SoftView::default();
        planner.plan(&cluster.state, &soft, cluster.now, Budget::UNLIMITED).placements.len()
    };
    cluster.submit(urgent(50, limited(25, gpu_task(1))));
    assert_eq!(places(&cluster), 1);
    reserve_first(&mut cluster, 30, AtBegin::Keep);
    assert_eq!(places(&cluster), 1);
    wait(&mut cluster, 5);
    assert_eq!(places(&cluster), 0);
    let free = Command::FreeNodes { name: name("launch-day"), if_version: None };
    cluster.apply(free).unwrap();
    assert_eq!(places(&cluster), 1);
    reserve_first(&mut cluster, 30, AtBegin::End);
    assert_eq!(places(&cluster), 1);
    wait(&mut cluster, 30);
    turn(&mut cluster);
    assert_eq!(places(&cluster), 0);
}

#[test]
fn nobody_ends_and_no_place_is_kept_for_what_is_not_let_in() {
    for task in [gpu_task(2), TaskSpec { gang: Some(Gang {}), ..counted(2, gpu_task(1)) }] {
        let mut cluster = Cluster::with_nodes([gpu_node(2), gpu_node(0)]);
        cluster.submit(urgent(10, limited(60, counted(2, gpu_task(1)))));
        run_for(&mut cluster, MINUTE);
        reserve_first(&mut cluster, 120, AtBegin::Keep);
        // However short it is: who knows when it would begin.
        cluster.submit(urgent(90, limited(1, task.clone())));
        wait(&mut cluster, 20);
        assert_eq!(plan_all(&cluster).reservations, []);
        // Whom it is for has others end.
        cluster.submit(of_launch(urgent(90, limited(1, task))));
        let outcome = plan_all(&cluster);
        assert!(!outcome.reservations.is_empty());
        assert!(outcome.reservations.iter().all(|one| one.placement.job == JobId(3)));
        reserve(&mut cluster, outcome.reservations);
    }
}

#[test]
fn what_waits_for_the_end_of_one_is_told_when_that_is() {
    let mut cluster = Cluster::with_nodes([gpu_node(1)]);
    let spec = NodeReservation {
        name: name("repair"),
        nodes: ReservedNodes::Named([name("node-1")].into()),
        namespaces: Default::default(),
        priority_min: None,
        from: WallMs(cluster.now.0),
        until: Some(WallMs(cluster.now.0 + 90 * MINUTE)),
        running: AtBegin::Keep,
    };
    let command = Command::ReserveNodes { spec: Arc::new(spec), if_version: None };
    cluster.apply(command).unwrap();
    let waits = cluster.submit(urgent(50, gpu_task(1)));
    let expected = cluster.now.after(DurationMs(90 * MINUTE));
    wait(&mut cluster, 20);
    assert_eq!(told(&cluster, waits).expected_start, Some(expected));
}
