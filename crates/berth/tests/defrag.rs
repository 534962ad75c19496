//! Work in the way of work: which moves would make room is planned on a live cluster, and nothing
//! is moved for it.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use berth::local::LocalCluster;
use berth_client::ClientError;
use berth_model::{DurationMs, GpuRequest, JobSpec, Policy, Preemption, ShareMilli};
use berth_proto::v1;

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
