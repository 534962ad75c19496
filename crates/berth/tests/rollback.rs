//! Releases of a service with one GPU on a cluster with one GPU: a new version takes the place of
//! the old one, a broken one gives it back, and callers wait meanwhile.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use berth::local::{GatewayPort, LocalCluster};
use berth_client::Client;
use berth_model::{DurationMs, GpuRequest, JobSpec, OnFailure};
use support::callers::{SHORT, ask, chat, until_answered};

/// One replica that holds every GPU of the only node.
fn release(version: &str) -> JobSpec {
    let mut spec = chat(version);
    let task = &mut spec.tasks[0];
    task.count = 1;
    task.gpu = Some(GpuRequest::whole(2));
    task.restart.backoff = DurationMs(100);
    spec.update.progress_deadline = Some(DurationMs::from_secs(30));
    spec.update.on_failure = OnFailure::Rollback;
    spec.route.drain = DurationMs::from_secs(5);
    spec
}

async fn submit(client: &Client, spec: &JobSpec) -> u64 {
    client.submit(support::request(spec, "")).await.unwrap().job_id
}

/// Versions of the replicas that serve.
async fn serving(client: &Client, job: u64) -> Vec<u32> {
    let all = support::allocations(client, job).await.into_iter();
    all.filter(|one| one.state == "running" && one.ready).map(|one| one.job_version).collect()
}

async fn until_serves(client: &Client, job: u64, version: u32) {
    support::until(&format!("version {version} to serve"), || async {
        (serving(client, job).await == [version]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn f44_on_a_full_cluster_a_release_finishes_and_a_broken_one_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 1, 1)).await.unwrap();
    let client = cluster.client();
    cluster.start_gateway(GatewayPort::Any).unwrap();
    let edge = cluster.gateway.as_ref().unwrap().address.clone();
    let job = submit(&client, &release("1")).await;
    until_answered(&edge).await;

    submit(&client, &release("2")).await;
    until_serves(&client, job, 2).await;

    let mut broken = release("3");
    broken.tasks[0].command = support::shell("echo no such weights >&2; exit 3");
    submit(&client, &broken).await;
    support::until("the second version to be gone", || async {
        serving(&client, job).await.is_empty().then_some(())
    })
    .await;
    // Who asks now waits until there is somebody to answer.
    let asked = tokio::spawn({
        let edge = edge.clone();
        async move { ask(&edge, SHORT).await.unwrap_or_default() }
    });
    let back = support::job_when(&client, job, "is back", |job| job.version == 4).await;
    let said = "a replica of version 3 failed 4 times: ";
    assert!(back.reason.starts_with(said), "{}", back.reason);
    assert!(back.reason.ends_with("; version 2 comes back as version 4"), "{}", back.reason);
    let answer = asked.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    until_serves(&client, job, 4).await;
    assert_eq!(support::job(&client, job).await.unwrap().reason, back.reason, "still to be read");

    let events = support::events(&client, job).await;
    let failed: Vec<_> = events.iter().filter(|one| one.kind == "update-failed").collect();
    assert_eq!(failed.len(), 1, "{events:?}");
    assert!(failed[0].message.contains("version 2 comes back as version 4"), "{failed:?}");
    cluster.stop().await;
}
