//! Hosts that run short of processor or memory: nothing new comes to them, and work leaves where
//! memory runs out. What is in use of them is pretended.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::path::Path;
use std::process::Command;

use berth::local::LocalCluster;
use berth_client::Client;
use berth_model::{DurationMs, JobSpec, MemoryBytes, Preemption};
use berth_proto::v1;

/// As somebody does who tries it out.
fn pretend(data_dir: &Path, agent: &str, what: &str, percent: u32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.args(["dev", "fault", "--agent", agent, what, &percent.to_string()]);
    let status = command.arg("--data-dir").arg(data_dir).status().unwrap();
    assert!(status.success(), "{status}");
}

fn work(name: &str, node: Option<&str>) -> JobSpec {
    let mut spec = support::batch(name, 1, support::shell("exec sleep 1000"));
    spec.constraints.node = node.map(support::text);
    spec
}

async fn node(client: &Client, name: &str) -> Option<v1::Node> {
    let request = v1::GetNodeRequest { node: name.to_owned(), consistency: 0 };
    client.get_node(request).await.ok()
}

/// A node once it takes work.
async fn open(client: &Client, name: &str) -> v1::Node {
    let what = "the node to open";
    support::until(what, || async { node(client, name).await.filter(|node| node.schedulable) })
        .await
}

/// A node once it does not.
async fn shut(client: &Client, name: &str) -> v1::Node {
    let what = "the node to close";
    support::until(what, || async { node(client, name).await.filter(|node| !node.schedulable) })
        .await
}

/// What has happened, as people are told.
async fn sentences(client: &Client) -> Vec<String> {
    let mut events = client.events(v1::EventsRequest::default());
    let mut told = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        told.push(event.message);
    }
    told
}

async fn runs(client: &Client, job: u64) -> v1::Allocation {
    support::job_when(client, job, "it runs", |job| job.tasks[0].running == 1).await;
    let mut all = support::allocations(client, job).await.into_iter();
    all.rfind(|one| one.state == "running").unwrap()
}

#[tokio::test]
async fn a_busy_host_gets_nothing_new_until_it_is_less_busy() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 1, 2)).await.unwrap();
    let client = cluster.client();
    let there = support::submit(&client, &work("there", Some("node-1"))).await;
    let stays = runs(&client, there).await;

    pretend(folder.path(), "node-1", "--cpu", 95);
    let shut = shut(&client, "node-1").await;
    let [guard] = shut.guards.as_slice() else { panic!("{shut:?}") };
    assert_eq!((guard.resource.as_str(), guard.opens_below_percent), ("cpu", 80));
    assert!(guard.used_percent > 85 && !shut.cordoned, "{shut:?}");
    assert_eq!(shut.cpu_used_percent, Some(95));

    let waits = support::submit(&client, &work("waits", Some("node-1"))).await;
    let anywhere = support::submit(&client, &work("anywhere", None)).await;
    assert_eq!(runs(&client, anywhere).await.node, "node-2");
    let job = support::reference(&waits.to_string());
    let why = client.explain(v1::ExplainRequest { job, consistency: 0 }).await.unwrap();
    let reasons: Vec<(&str, u32)> =
        why.reasons.iter().map(|one| (one.code.as_str(), one.nodes)).collect();
    assert_eq!(reasons, [("other-node", 1), ("cpu-pressure", 1)]);
    let said = "CPU 95 % in use, pauses new placements until below 80 %";
    assert_eq!(why.reasons[1].detail, said);
    assert_eq!(why.smallest_change, format!("wait: node node-1: {said}"));
    let planned = client
        .plan(v1::PlanRequest {
            spec: Some(berth_wire::spec::job_spec_to_proto(&work("planned", Some("node-1")))),
            ..Default::default()
        })
        .await
        .unwrap();
    assert!(format!("{planned:?}").contains(said), "{planned:?}");
    let same = runs(&client, there).await;
    assert_eq!((same.id, same.node), (stays.id, stays.node), "what runs stays");

    pretend(folder.path(), "node-1", "--cpu", 10);
    let open = open(&client, "node-1").await;
    assert_eq!(open.guards, []);
    assert_eq!(runs(&client, waits).await.node, "node-1");
    cluster.stop().await;
}

#[tokio::test]
async fn f40_a_host_that_runs_out_of_memory_loses_who_can_best_be_spared_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 1, 2)).await.unwrap();
    let client = cluster.client();
    // All on the first node, and each could be on the other.
    client.cordon_node(v1::NodeRef { node: "node-2".to_owned() }).await.unwrap();
    let movable = |name: &str, priority, memory: Option<u64>| {
        let mut spec = work(name, None);
        spec.priority = priority;
        spec.preemption = Preemption { min_run: DurationMs(0), ..Preemption::default() };
        spec.tasks[0].restart.attempts = Some(1);
        memory.iter().for_each(|bytes| spec.tasks[0].memory = MemoryBytes(*bytes));
        spec
    };
    let mut jobs = Vec::new();
    for spec in [
        movable("asks", 10, Some(1 << 30)),
        movable("urgent", 60, None),
        movable("spared", 20, None),
    ] {
        let job = support::submit(&client, &spec).await;
        assert_eq!(runs(&client, job).await.node, "node-1");
        jobs.push(job);
    }
    let mut stays = work("stays", None);
    stays.priority = 1;
    stays.preemption.preemptible = false;
    jobs.push(support::submit(&client, &stays).await);
    assert_eq!(runs(&client, jobs[3]).await.node, "node-1");
    client.uncordon_node(v1::NodeRef { node: "node-2".to_owned() }).await.unwrap();

    pretend(folder.path(), "node-1", "--memory", 93);
    let moved = support::until("one to leave", || async {
        let mut all = support::allocations(&client, jobs[2]).await.into_iter();
        all.rfind(|one| one.state == "running" && one.node == "node-2")
    })
    .await;
    // What it had is free now.
    pretend(folder.path(), "node-1", "--memory", 80);
    assert_eq!(moved.attempt, 2);
    open(&client, "node-1").await;
    for job in [jobs[0], jobs[1], jobs[3]] {
        let one = runs(&client, job).await;
        assert_eq!((one.node.as_str(), one.attempt), ("node-1", 1), "{one:?}");
    }
    let told = sentences(&client).await;
    let of = |part: &str| told.iter().filter(|sentence| sentence.contains(part)).count();
    let moved = "is being stopped: moved elsewhere: 93 % of the memory of node node-1 is in use, it \
                 was above 90 %; of 3 that may move this one can best be spared (best-effort, \
                 priority 20, ";
    assert_eq!(of(moved), 1, "{told:?}");
    let pauses = "node node-1: memory 93 % in use, pauses new placements until below 85 %";
    let again = "the host of node node-1 has enough of everything again";
    assert_eq!((of(pauses), of(again)), (1, 1), "{told:?}");
    cluster.stop().await;
}
