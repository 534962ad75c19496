//! New versions of a service that do not get ready: the old one serves on until a person
//! decides.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use berth::local::LocalCluster;
use berth_client::Client;
use berth_model::{DurationMs, HealthCheck, HealthProbe, JobKind, JobSpec, RestartPolicy};
use berth_proto::v1;

const REPLICAS: u32 = 2;

/// A service whose replicas are ready when `check` succeeds.
fn service(check: &str) -> JobSpec {
    let mut spec = support::batch("web", REPLICAS, support::shell("exec sleep 1000"));
    spec.kind = JobKind::Service;
    spec.update.progress_deadline = Some(DurationMs::from_secs(3));
    let task = &mut spec.tasks[0];
    task.restart = RestartPolicy::default_for(JobKind::Service);
    task.health = Some(HealthCheck {
        probe: HealthProbe::Command { command: vec![check.to_owned()] },
        interval: DurationMs(500),
        timeout: DurationMs(500),
        failures: 3,
        // It does not become unhealthy: it is for ever about to be ready.
        start_period: DurationMs::from_secs(600),
    });
    spec
}

async fn submit(client: &Client, check: &str) -> v1::SubmitReply {
    client.submit(support::request(&service(check), check)).await.unwrap()
}

/// The versions of the replicas that are ready, and their ids.
async fn ready(client: &Client, job: u64) -> Vec<(u32, String)> {
    let all = support::allocations(client, job).await.into_iter();
    let mut ready: Vec<_> = all
        .filter(|one| one.state == "running" && one.ready)
        .map(|one| (one.job_version, one.id))
        .collect();
    ready.sort();
    ready
}

async fn until_ready(client: &Client, job: u64) -> Vec<(u32, String)> {
    support::until("every replica to be ready", || async {
        Some(ready(client, job).await).filter(|ready| ready.len() == REPLICAS as usize)
    })
    .await
}

#[tokio::test]
async fn f44_a_version_that_never_gets_ready_is_given_up_and_the_old_one_serves_on() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 1, 1)).await.unwrap();
    let client = cluster.client();
    let job = submit(&client, "true").await.job_id;
    let before = until_ready(&client, job).await;

    assert_eq!(submit(&client, "false").await.version, 2);
    let given_up = support::job_when(&client, job, "says that its update has failed", |job| {
        job.reason.contains("no replica of version 2 got ready within 3 s")
    })
    .await;
    assert_eq!(given_up.state, "running");
    let serves = ready(&client, job).await;
    assert_eq!(serves.len(), 1, "{serves:?}");
    assert!(before.contains(&serves[0]), "the old one serves on");
    let reference = support::reference("web");
    let request = v1::EventsRequest { job: reference.clone(), after: String::new(), follow: false };
    let mut events = client.events(request);
    let mut kinds = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        kinds.push(event.kind);
    }
    assert_eq!(kinds.iter().filter(|kind| *kind == "update-failed").count(), 1, "{kinds:?}");
    let explain = v1::ExplainRequest { job: reference.clone(), ..Default::default() };
    let summary = client.explain(explain).await.unwrap().summary;
    assert!(summary.starts_with("the update has failed: no replica of version 2"), "{summary}");

    let back = v1::RollbackJobRequest { job: reference, ..Default::default() };
    client.rollback_job(back).await.unwrap();
    let after = until_ready(&client, job).await;
    assert!(after.contains(&serves[0]), "whoever served was left alone: {after:?}");
    assert_eq!(support::job(&client, job).await.unwrap().reason, "");
    cluster.stop().await;
}
