use berth_model::{ArraySpec, CpuMilli, JobKind, JobSpec, Policy, TaskSpec};
use berth_state::{Command, JobChange, Purpose};

use super::*;
use crate::fixture::{Cluster, gpu_node, gpu_task, job, name, share_task, task};
use crate::plan::plan;
use crate::what_if::stopped;

fn explained(cluster: &Cluster, job: JobId) -> Explanation {
    explain(&cluster.state, &SoftView::default(), cluster.now, job).unwrap()
}

fn place_all(cluster: &mut Cluster) {
    let soft = SoftView::default();
    let outcome = plan(&cluster.state, &soft, cluster.now, Budget::UNLIMITED);
    cluster.place(outcome.placements);
}

fn codes(explanation: &Explanation) -> Vec<(&'static str, u64)> {
    explanation.reasons.iter().map(|reason| (reason.code, reason.nodes)).collect()
}

#[test]
fn every_node_is_counted_once_by_its_first_reason() {
    let mut other_pool = gpu_node(8);
    other_pool.pool = name("other");
    let nodes = [gpu_node(0), gpu_node(2), gpu_node(4), gpu_node(4), other_pool];
    let mut cluster = Cluster::with_nodes(nodes);
    cluster.set_purpose(4, Purpose::Cordoned);
    let constraints =
        berth_model::Constraints { pool: Some(name("default")), ..Default::default() };
    let spec = |count| JobSpec {
        constraints: constraints.clone(),
        ..job(Policy::BestFit, gpu_task(count))
    };
    cluster.submit(spec(3));
    place_all(&mut cluster);
    let waiting = cluster.submit(spec(4));
    let found = explained(&cluster, waiting);
    assert_eq!(
        codes(&found),
        [("other-pool", 1), ("gpu-model", 1), ("gpu-count", 1), ("cordoned", 1), ("gpu-busy", 1)]
    );
    assert_eq!(found.reasons.iter().map(|reason| reason.nodes).sum::<u64>(), found.nodes_total);
    assert_eq!((found.position, found.queue_len, found.waiting), (Some(1), 1, 1));
    assert_eq!(found.smallest_change, "uncordon node node-4");
    assert!(found.can_ever_fit);
    assert!(
        found.summary.starts_with("1 instance of task main waits; 1 node: "),
        "{}",
        found.summary
    );
    assert!(found.summary.contains("1 suitable GPUs are free, 4 are asked for"));
}

#[test]
fn hosts_that_are_short_of_something_are_counted_as_such() {
    let mut cluster = Cluster::with_nodes([gpu_node(2), gpu_node(2), gpu_node(2), gpu_node(0)]);
    cluster.set_guards(1, Some(97), None);
    cluster.set_guards(2, Some(91), Some(95));
    cluster.set_guards(3, None, Some(93));
    let waiting = cluster.submit(job(Policy::BestFit, gpu_task(2)));
    let found = explained(&cluster, waiting);
    assert_eq!(codes(&found), [("gpu-model", 1), ("cpu-pressure", 2), ("memory-pressure", 1)]);
    let details: Vec<&str> = found.reasons.iter().map(|one| one.detail.as_str()).collect();
    assert_eq!(
        details[1..],
        [
            "nearest node: CPU 91 % in use, pauses new placements until below 80 %",
            "memory 93 % in use, pauses new placements until below 85 %",
        ]
    );
    assert_eq!(found.reasons[1].also, [("memory-pressure", 1)]);
    let change = "wait: node node-3: memory 93 % in use, pauses new placements until below 85 %";
    assert_eq!(found.smallest_change, change);
    assert!(found.can_ever_fit);
    // A daemon waits for none of that.
    let daemon = JobSpec { kind: JobKind::Daemon, ..job(Policy::BestFit, gpu_task(2)) };
    let daemon = cluster.submit(daemon);
    let found = explained(&cluster, daemon);
    assert_eq!(codes(&found), [("gpu-model", 1), ("fits", 3)]);
}

#[test]
fn what_can_never_fit_is_said_so() {
    let mut cluster = Cluster::with_nodes([gpu_node(8), gpu_node(4)]);
    let waiting = cluster.submit(job(Policy::BestFit, gpu_task(16)));
    let found = explained(&cluster, waiting);
    assert!(!found.can_ever_fit);
    assert_eq!(
        found.summary,
        "1 instance of task main waits: no host can ever fit: largest has 8 suitable GPUs, \
         16 are asked for"
    );
    assert_eq!(codes(&found), [("gpu-count", 2)]);
    assert_eq!(found.reasons[0].detail, "nearest node: has 8 suitable GPUs, 16 are asked for");
    assert_eq!(found.smallest_change, "8 GPUs instead of 16 would fit now on node node-1");
}

#[test]
fn what_holds_the_job_itself_comes_first() {
    let mut cluster = Cluster::with_nodes([gpu_node(0)]);
    let array = ArraySpec { start: 0, step: 1, parallel_max: Some(2) };
    let spec = TaskSpec { count: 3, array: Some(array), ..task() };
    let limited = cluster.submit(job(Policy::BestFit, spec));
    place_all(&mut cluster);
    let found = explained(&cluster, limited);
    assert_eq!(codes(&found), [("parallel-limit", 0), ("fits", 1)]);
    assert_eq!(found.running.len(), 2);
    assert_eq!(found.running[0].score.policy, "best-fit");
    let hold = Command::ChangeJob { job: limited, if_version: None, change: JobChange::Hold };
    cluster.apply(hold).unwrap();
    let found = explained(&cluster, limited);
    assert_eq!(codes(&found)[0], ("held", 0));
    assert_eq!(found.position, None);
}

#[test]
fn what_fits_now_names_the_node() {
    let mut cluster = Cluster::with_nodes([gpu_node(1), gpu_node(0)]);
    let fitting = cluster.submit(job(Policy::BestFit, task()));
    let found = explained(&cluster, fitting);
    assert_eq!(codes(&found), [("fits", 2)]);
    assert_eq!(found.smallest_change, "nothing: it fits now, first on node node-2");
    place_all(&mut cluster);
    let found = explained(&cluster, fitting);
    assert_eq!(found.summary, "nothing waits for a place; 1 instance is live");
    assert_eq!((codes(&found), found.running[0].node.as_str()), (vec![], "node-2"));
    let unknown = explain(&cluster.state, &SoftView::default(), cluster.now, JobId(9));
    assert_eq!(unknown, None);
}

#[test]
fn a_daemon_waits_for_the_nodes_without_one() {
    let mut small = gpu_node(0);
    small.cpu = CpuMilli(1000);
    let mut cluster = Cluster::with_nodes([small, gpu_node(0)]);
    let busy = TaskSpec { cpu: CpuMilli(1000), ..task() };
    let constraints = berth_model::Constraints { node: Some(name("node-1")), ..Default::default() };
    cluster.submit(JobSpec { constraints, ..job(Policy::BestFit, busy) });
    place_all(&mut cluster);
    let daemon = JobSpec { kind: JobKind::Daemon, ..job(Policy::BestFit, task()) };
    let daemon = cluster.submit(daemon);
    place_all(&mut cluster);
    let found = explained(&cluster, daemon);
    assert_eq!(found.waiting, 1);
    assert_eq!(codes(&found), [("cpu-busy", 1), ("has-one", 1)]);
    assert_eq!(found.smallest_change, "free 100m cores on node node-1");
}

#[test]
fn an_empty_cluster_is_a_reason_too() {
    let mut cluster = Cluster::new();
    let waiting = cluster.submit(job(Policy::BestFit, task()));
    let found = explained(&cluster, waiting);
    assert_eq!(codes(&found), []);
    assert_eq!(found.smallest_change, "register a node");
    assert!(found.summary.ends_with("there are no nodes yet"), "{}", found.summary);
}

#[test]
fn what_waits_in_a_restored_cluster_waits_for_its_nodes() {
    let mut cluster = Cluster::with_nodes([gpu_node(2), gpu_node(2)]);
    let waiting = cluster.submit(job(Policy::BestFit, gpu_task(1)));
    let restoration = berth_state::Restoration {
        incarnation: 2,
        id: [1; 16],
        instance_key: [2; 16],
        address: String::new(),
        await_for: berth_model::DurationMs(60_000),
        await_at_least: berth_model::DurationMs(0),
    };
    cluster.state = cluster.state.restored(&restoration).unwrap().0;
    let outcome = plan(&cluster.state, &SoftView::default(), cluster.now, Budget::UNLIMITED);
    assert_eq!(outcome.placements, []);
    let found = explained(&cluster, waiting);
    assert_eq!(found.reasons[0].code, "restored");
    assert!(found.smallest_change.contains("2 of its nodes"), "{}", found.smallest_change);
}

#[test]
fn a_part_of_a_gpu_that_finds_no_room_is_named_as_one() {
    let mut cluster = Cluster::with_nodes([gpu_node(1)]);
    let part = |milli| job(Policy::Berth, share_task(milli));
    cluster.submit(part(600));
    place_all(&mut cluster);
    let waiting = cluster.submit(part(500));
    let found = explained(&cluster, waiting);
    assert_eq!(codes(&found), [("gpu-busy", 1)]);
    let detail = &found.reasons[0].detail;
    assert!(detail.contains("no suitable GPU has 500 thousandths"), "{detail}");
}

#[test]
fn a_gang_that_waits_says_how_many_places_there_are() {
    let mut cluster = Cluster::with_nodes([gpu_node(8), gpu_node(8)]);
    cluster.submit(job(Policy::BestFit, gpu_task(5)));
    place_all(&mut cluster);
    let gang = |count| TaskSpec { count, gang: Some(berth_model::Gang {}), ..gpu_task(1) };
    let waiting = cluster.submit(job(Policy::BestFit, gang(16)));
    let found = explained(&cluster, waiting);
    assert_eq!(codes(&found), [("gang", 0), ("fits", 2)]);
    assert_eq!(found.reasons[0].detail, "needs 16 places at once; 11 fit now");
    assert_eq!(found.smallest_change, "free 5 more places, or make it a gang of 11");
    assert!(found.can_ever_fit);
    let summary = "16 instances of task main wait; needs 16 places at once; 11 fit now; ";
    assert!(found.summary.starts_with(summary), "{}", found.summary);
    let waiting = cluster.submit(job(Policy::BestFit, gang(17)));
    let found = explained(&cluster, waiting);
    assert!(!found.can_ever_fit);
    assert_eq!(
        found.summary,
        "17 instances of task main wait: no host can ever fit: all together have 16 places, its \
         gang needs 17 at once"
    );
    // What fits says where its first member goes.
    let waiting = cluster.submit(JobSpec { priority: 90, ..job(Policy::BestFit, gang(10)) });
    let found = explained(&cluster, waiting);
    assert_eq!(found.smallest_change, "nothing: it fits now, first on node node-2");
    place_all(&mut cluster);
    let member = *cluster.state.allocations().iter().last().unwrap().0;
    assert_eq!(member.job, waiting);
    let node = cluster.state.allocations().get(&member).unwrap().node;
    let report = berth_model::EndReport {
        cause: berth_model::EndCause::HostRebooted,
        ..stopped(berth_model::WallMs(0))
    };
    cluster.end_allocation(node, member, report);
    let found = explained(&cluster, waiting);
    assert_eq!(codes(&found)[0], ("gang-ending", 0));
    assert_eq!(found.smallest_change, "wait: 9 of its gang have yet to end");
}
