//! Work in the way of work: which moves would make room is planned on a live cluster, and made if
//! somebody asks for it.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::process::Command;

use berth::local::LocalCluster;
use berth_client::{Client, ClientError};
use berth_model::{DurationMs, GpuRequest, JobSpec, Policy, Preemption, ShareMilli};
use berth_proto::v1;
use support::schedulers::{kill, leader_after};

/// Runs for ever; further attempts of it are allowed, and it may be moved at once.
fn work(name: &str, count: u32, gpu: GpuRequest) -> JobSpec {
    let mut spec = support::batch(name, count, support::shell("while :; do sleep 0.05; done"));
    spec.tasks[0].gpu = Some(gpu);
    spec.tasks[0].restart.attempts = None;
    let preemption = Preemption { min_run: DurationMs(0), ..Preemption::default() };
    JobSpec { preemption, policy: Policy::Spread, ..spec }
}

#[tokio::test]
async fn moves_are_planned_and_nothing_moves() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 1, 2)).await.unwrap();
    let client = cluster.client();
    // Half a GPU on each of two nodes of two, and those who wait for both GPUs of one.
    let half = GpuRequest { share: ShareMilli(500), ..GpuRequest::whole(1) };
    let halves = support::submit(&client, &work("halves", 2, half)).await;
    let mut once = support::batch("once", 1, support::shell("while :; do sleep 0.05; done"));
    once.tasks[0].restart.attempts = Some(0);
    once.preemption.min_run = DurationMs(0);
    let once = support::submit(&client, &once).await;
    for (job, count) in [(halves, 2), (once, 1)] {
        support::job_when(&client, job, "all run", |job| job.tasks[0].running == count).await;
    }
    for number in 0..6 {
        support::submit(&client, &work(&format!("wide-{number}"), 1, GpuRequest::whole(2))).await;
    }
    let before = support::allocations(&client, halves).await;
    let nodes = |all: &[v1::Allocation]| -> Vec<(String, String)> {
        all.iter().map(|one| (one.id.clone(), one.node.clone())).collect()
    };

    // As soon as the leader has counted what the cluster is asked for.
    let plan = support::until("a move to be worth it", || async {
        let plan = client.plan_defrag(v1::PlanDefragRequest { moves_max: None }).await.unwrap();
        (!plan.moves.is_empty()).then_some(plan)
    })
    .await;
    let [one] = plan.moves.as_slice() else { panic!("one move is enough: {plan:?}") };
    let mover = before.iter().find(|other| other.id == one.allocation_id).unwrap();
    assert_eq!((&one.from, &one.job_name), (&mover.node, &"halves".to_owned()));
    assert!(before.iter().any(|other| other.node == one.to && other.id != mover.id), "{plan:?}");
    assert_eq!((one.devices.len(), one.devices[0].share_milli), (1, 500));
    assert!(plan.lost_after_milli + 100 <= plan.lost_before_milli, "{plan:?}");
    assert_eq!((plan.capacity_milli, plan.moves_unseen), (4_000, 0));
    let staying: Vec<(&str, u32)> =
        plan.staying.iter().map(|one| (one.why.as_str(), one.allocations)).collect();
    assert_eq!(staying, [("its job allows no further attempt", 1)]);

    let too_many = client.plan_defrag(v1::PlanDefragRequest { moves_max: Some(257) }).await;
    let refused = matches!(&too_many, Err(ClientError::Refused(_)));
    assert!(refused, "{too_many:?}");
    let none = client.plan_defrag(v1::PlanDefragRequest { moves_max: Some(0) }).await.unwrap();
    assert_eq!((none.moves.len(), none.lost_after_milli), (0, none.lost_before_milli));
    assert_eq!(nodes(&support::allocations(&client, halves).await), nodes(&before));
    cluster.stop().await;
}

/// Half a GPU on each of two nodes of two, and those who wait for both GPUs of one; the job of the
/// halves.
async fn halves_in_the_way(client: &Client, script: &str) -> u64 {
    let half = GpuRequest { share: ShareMilli(500), ..GpuRequest::whole(1) };
    let mut spec = work("halves", 2, half);
    spec.tasks[0].command = support::shell(script);
    let halves = support::submit(client, &spec).await;
    support::job_when(client, halves, "all run", |job| job.tasks[0].running == 2).await;
    for number in 0..6 {
        support::submit(client, &work(&format!("wide-{number}"), 1, GpuRequest::whole(2))).await;
    }
    halves
}

/// Those that live, by instance, node and attempt.
async fn live(client: &Client, job: u64) -> Vec<(u32, String, u32)> {
    let all = support::allocations(client, job).await.into_iter();
    let mut live: Vec<_> = all
        .filter(|one| one.finished_at_ms.is_none())
        .map(|one| (one.index, one.node, one.attempt))
        .collect();
    live.sort();
    live
}

/// Once both halves run on one node, one of them moved there.
async fn together(client: &Client, job: u64) {
    let both = support::until("both to be on one node", || async {
        let all = live(client, job).await;
        let job = support::job(client, job).await.ok()?;
        let [one, other] = all.as_slice() else { return None };
        (one.1 == other.1 && job.tasks[0].running == 2).then_some(all)
    })
    .await;
    let attempts: Vec<u32> = both.iter().map(|one| one.2).collect();
    assert!(attempts == [1, 2] || attempts == [2, 1], "one has moved, once: {both:?}");
}

#[tokio::test]
async fn what_is_worth_it_is_moved_and_makes_room() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 1, 2)).await.unwrap();
    let client = cluster.client();
    let halves = halves_in_the_way(&client, "while :; do sleep 0.05; done").await;
    support::until("a move to be worth it", || async {
        let plan = client.plan_defrag(v1::PlanDefragRequest { moves_max: None }).await.unwrap();
        (!plan.moves.is_empty()).then_some(())
    })
    .await;
    let server = cluster.servers().join(",");
    let making = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command.args(["node", "defrag", "-o", "json", "--server", &server]);
        command.output().unwrap()
    });
    let output = making.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let [one] = made["moves"].as_array().unwrap().as_slice() else { panic!("{made}") };
    assert_eq!((&one["state"], &one["job_name"]), (&"running".into(), &"halves".into()));
    together(&client, halves).await;
    let next = one["next"].as_str().unwrap();
    let all = support::allocations(&client, halves).await;
    let moved = all.iter().find(|one| one.id == next).unwrap();
    assert_eq!(
        (moved.state.as_str(), moved.node.as_str()),
        ("running", one["to"].as_str().unwrap())
    );
    support::until("somebody to have the node that is free", || async {
        let jobs = client.list_jobs(v1::ListJobsRequest::default()).await.ok()?.jobs;
        jobs.iter().any(|job| job.name.starts_with("wide-") && job.state == "running").then_some(())
    })
    .await;
    let again = client.defrag(v1::DefragRequest::default()).await.unwrap();
    assert_eq!((again.moves.len(), again.under_way), (0, 0), "{again:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn f01_a_leader_that_dies_while_work_moves_loses_none_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 3, 2)).await.unwrap();
    let client = cluster.client();
    // It takes its time to end, until a file is there.
    let gate = folder.path().join("gate");
    let script = format!(
        "trap 'while [ ! -e {gate} ]; do sleep 0.05; done; exit 143' TERM; while :; do sleep 0.05; done",
        gate = gate.display()
    );
    let halves = halves_in_the_way(&client, &script).await;
    let begun = support::until("a move to begin", || async {
        let begun = client.defrag(v1::DefragRequest::default()).await.ok()?;
        (!begun.moves.is_empty()).then_some(begun)
    })
    .await;
    let [one] = begun.moves.as_slice() else { panic!("one is enough: {begun:?}") };
    let next = one.next_id.clone();
    let old = leader_after(&cluster, None).await;
    kill(&mut cluster, &[old]).await;
    leader_after(&cluster, Some(old)).await;
    let watch = || v1::DefragRequest { moves_max: Some(0), watched: vec![next.clone()] };
    let seen =
        support::until("the next leader to tell", || async { client.defrag(watch()).await.ok() })
            .await;
    assert_eq!((seen.under_way, seen.states[0].state.as_str()), (1, "ending"), "{seen:?}");
    let busy = client.defrag(v1::DefragRequest::default()).await.unwrap();
    assert_eq!((busy.moves.len(), busy.under_way), (0, 1), "of a job one moves at a time");
    std::fs::write(&gate, "").unwrap();
    together(&client, halves).await;
    let seen = client.defrag(watch()).await.unwrap();
    assert_eq!((seen.under_way, seen.states[0].state.as_str()), (0, "running"), "{seen:?}");
    cluster.stop().await;
}
