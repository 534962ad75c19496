//! Nodes that are reserved in a cluster that runs: for whom, from when on, whoever leads.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth::local::LocalCluster;
use berth_client::{Client, ClientError};
use berth_model::{DurationMs, JobSpec, StopPolicy};
use berth_proto::v1;
use tonic::Code;

use support::schedulers::{kill, leader_after};

/// How far ahead the reservations of these tests begin.
const AHEAD: Duration = Duration::from_secs(6);

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// The first node, for the namespace `launch`.
fn of_first(from_ms: u64) -> v1::NodeReservationSpec {
    v1::NodeReservationSpec {
        name: "launch-day".to_owned(),
        nodes: vec!["node-1".to_owned()],
        namespaces: vec!["launch".to_owned()],
        from_ms,
        end_running: true,
        ..v1::NodeReservationSpec::default()
    }
}

async fn set(client: &Client, spec: v1::NodeReservationSpec) -> Result<u32, ClientError> {
    let request = v1::SetNodeReservationRequest { spec: Some(spec), if_version: None };
    Ok(client.set_node_reservation(request).await?.version)
}

async fn shown(client: &Client) -> v1::NodeReservation {
    let request = v1::GetNodeReservationRequest { name: "launch-day".to_owned(), consistency: 0 };
    client.get_node_reservation(request).await.unwrap()
}

fn sleeping(name: &str, namespace: &str) -> JobSpec {
    let mut spec = support::batch(name, 1, support::shell("exec sleep 600"));
    spec.namespace = support::text(namespace);
    spec.tasks[0].stop = StopPolicy { grace: DurationMs(1_000), ..spec.tasks[0].stop };
    spec
}

async fn node_of(client: &Client, job: u64) -> String {
    node_in(client, "default", job).await
}

async fn node_in(client: &Client, namespace: &str, job: u64) -> String {
    let job = Some(v1::JobRef { job: job.to_string(), namespace: namespace.to_owned() });
    let request =
        || v1::ListAllocationsRequest { job: job.clone(), page_size: 100, ..Default::default() };
    let running = support::until("it runs", || async {
        let live = client.list_allocations(request()).await.unwrap().allocations;
        live.into_iter().find(|one| one.state == "running")
    });
    running.await.node
}

async fn explained(client: &Client, job: u64) -> Vec<String> {
    let job = support::reference(&job.to_string());
    let request = v1::ExplainRequest { job, consistency: 0 };
    let said = client.explain(request).await.unwrap();
    said.reasons.into_iter().map(|reason| reason.code).collect()
}

#[tokio::test]
async fn it_begins_whoever_leads_and_what_it_does_not_let_in_goes_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 3, 2)).await.unwrap();
    let client = cluster.client();
    let mut pinned = sleeping("pinned", "default");
    pinned.constraints.node = Some(support::text("node-1"));
    let pinned = support::submit(&client, &pinned).await;
    assert_eq!(node_of(&client, pinned).await, "node-1");
    let from_ms = now_ms() + u64::try_from(AHEAD.as_millis()).unwrap();
    assert_eq!(set(&client, of_first(from_ms)).await.unwrap(), 1);
    let ahead = shown(&client).await;
    assert_eq!(
        (ahead.begun, ahead.nodes, ahead.others_running),
        (false, vec!["node-1".to_owned()], 1)
    );

    let old = leader_after(&cluster, None).await;
    kill(&mut cluster, &[old]).await;
    leader_after(&cluster, Some(old)).await;
    let begun = || async { Some(shown(&client).await).filter(|one| one.begun) };
    support::until("it begins", begun).await;
    assert!(now_ms() >= from_ms, "not before its time");
    // What was there ends and waits: it may run on that node alone.
    support::job_when(&client, pinned, "is asked to end", |job| job.state == "queued").await;
    assert_eq!(explained(&client, pinned).await, ["other-node", "node-reserved"]);
    for number in 0..3 {
        let job = sleeping(&format!("elsewhere-{number}"), "default");
        let job = support::submit(&client, &job).await;
        assert_eq!(node_of(&client, job).await, "node-2");
    }
    let mut launch = sleeping("launch", "launch");
    launch.constraints.node = Some(support::text("node-1"));
    let launch = support::submit(&client, &launch).await;
    assert_eq!(node_in(&client, "launch", launch).await, "node-1");

    let name = "launch-day".to_owned();
    let request = v1::RemoveNodeReservationRequest { name, if_version: Some(1) };
    client.remove_node_reservation(request).await.unwrap();
    assert_eq!(node_of(&client, pinned).await, "node-1");
    cluster.stop().await;
}

#[tokio::test]
async fn what_ends_in_time_runs_before_and_the_rest_is_told_what_would() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 1, 1)).await.unwrap();
    let client = cluster.client();
    let hour_ms = 3_600_000;
    let keep = v1::NodeReservationSpec { end_running: false, ..of_first(now_ms() + hour_ms) };
    set(&client, keep.clone()).await.unwrap();
    let endless = support::submit(&client, &sleeping("endless", "default")).await;
    let mut short = sleeping("short", "default");
    short.tasks[0].time_limit = Some(DurationMs(1_000 * 60));
    let short = support::submit(&client, &short).await;
    assert_eq!(node_of(&client, short).await, "node-1");
    assert_eq!(explained(&client, endless).await, ["node-reserved-soon"]);

    let twice = v1::NodeReservationSpec { name: "other".to_owned(), ..keep };
    let Err(ClientError::Refused(refusal)) = set(&client, twice).await else {
        panic!("two are in force at one time");
    };
    assert_eq!(refusal.code, Code::FailedPrecondition);
    // From now on, and again: the second means the same.
    let now = || v1::NodeReservationSpec { from_ms: 0, ..of_first(0) };
    assert_eq!(set(&client, now()).await.unwrap(), 2);
    assert_eq!(set(&client, now()).await.unwrap(), 2);
    support::job_when(&client, short, "is asked to end", |job| job.state == "queued").await;
    cluster.stop().await;
}
