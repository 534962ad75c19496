//! Drains that find no room elsewhere: a replica serves on until there is a place for its
//! successor, or the deadline is over.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::time::{Duration, Instant};

use berth::local::LocalCluster;
use berth_client::Client;
use berth_model::{GpuRequest, JobKind, JobSpec, RestartPolicy};
use berth_proto::v1;

fn service(name: &str, gpus: u32) -> JobSpec {
    let mut spec = support::batch(name, 1, support::shell("exec sleep 1000"));
    spec.kind = JobKind::Service;
    spec.tasks[0].restart = RestartPolicy::default_for(JobKind::Service);
    spec.tasks[0].gpu = Some(GpuRequest::whole(gpus));
    spec
}

/// Its allocation that runs, if there is one.
async fn running(client: &Client, job: u64) -> Option<v1::Allocation> {
    let all = support::allocations(client, job).await.into_iter();
    all.filter(|one| one.state == "running").max_by_key(|one| one.attempt)
}

async fn runs(client: &Client, job: u64) -> v1::Allocation {
    support::until("it to run", || running(client, job)).await
}

async fn drain(client: &Client, node: &str, deadline_ms: Option<u64>) {
    let node = node.to_owned();
    client.drain_node(v1::DrainRequest { node, deadline_ms }).await.unwrap();
}

/// What keeps the node from being empty.
async fn waits(client: &Client, node: &str) -> Vec<v1::DrainWait> {
    let request = v1::GetNodeRequest { node: node.to_owned(), consistency: 0 };
    client.get_node(request).await.unwrap().drain_waits
}

#[tokio::test]
async fn f45_a_lone_replica_serves_on_until_there_is_a_place_for_its_successor() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 1, 2)).await.unwrap();
    let client = cluster.client();
    // Both nodes are full, of two GPUs each.
    let web = support::submit(&client, &service("web", 2)).await;
    let here = runs(&client, web).await;
    let other = support::submit(&client, &service("other", 2)).await;
    runs(&client, other).await;

    drain(&client, &here.node, None).await;
    let waits = support::until("the drain to say what it waits for", || async {
        Some(waits(&client, &here.node).await).filter(|waits| !waits.is_empty())
    })
    .await;
    assert_eq!(waits.len(), 1, "{waits:?}");
    assert_eq!(waits[0].allocation_id, here.id);
    assert!(waits[0].reason.contains("waits for a place elsewhere: "), "{waits:?}");
    assert_eq!(running(&client, web).await.map(|one| one.id), Some(here.id.clone()));

    let job = support::reference(&other.to_string());
    let stop = v1::ChangeJobRequest { job, if_version: None };
    client.stop_job(stop).await.unwrap();
    let moved = support::until("it to run elsewhere", || async {
        running(&client, web).await.filter(|one| one.id != here.id)
    })
    .await;
    assert_ne!(moved.node, here.node);
    cluster.stop().await;
}

#[tokio::test]
async fn f45_a_drain_without_room_elsewhere_ends_at_its_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 1, 1)).await.unwrap();
    let client = cluster.client();
    let web = support::submit(&client, &service("web", 1)).await;
    let here = runs(&client, web).await;
    drain(&client, &here.node, Some(3_600_000)).await;
    let waiting = waits(&client, &here.node).await;
    assert_eq!(waiting.len(), 1, "{waiting:?}");
    assert!(waiting[0].reason.contains("at the latest"), "{waiting:?}");
    // The deadline is another one now.
    let began = Instant::now();
    drain(&client, &here.node, Some(1_000)).await;
    let waiting = support::job_when(&client, web, "waits again", |job| {
        job.state == "queued" && job.tasks[0].running == 0
    });
    waiting.await;
    assert!(began.elapsed() >= Duration::from_secs(1), "it served on until then");
    let ended = support::allocations(&client, web).await;
    assert!(ended[0].reason.contains("is being drained"), "{ended:?}");
    cluster.stop().await;
}
