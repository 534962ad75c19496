//! Two namespaces to which six and four of ten GPUs are guaranteed: what one leaves idle the other
//! borrows, gives back when it is asked for, whoever leads, and borrows again.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::path::Path;

use berth::local::{Gpus, LocalCluster};
use berth_client::Client;
use berth_model::{
    DurationMs, GpuRequest, Guarantee, JobSpec, NamespaceSpec, Preemption, Resource,
};
use berth_proto::v1;
use support::schedulers::{kill, leader_after};

async fn guarantee(client: &Client, namespace: &str, gpus: u64) -> Vec<String> {
    let mut spec = NamespaceSpec::new(support::text(namespace));
    spec.quota.guaranteed = Guarantee { amounts: [(Resource::Gpus, gpus * 1000)].into() };
    let spec = Some(berth_wire::spec::namespace_spec_to_proto(&spec));
    let request = v1::ApplyNamespaceRequest { spec, if_version: None };
    client.apply_namespace(request).await.unwrap().warnings
}

/// Runs until there is a file.
fn work(namespace: &str, file: &Path, priority: u8, count: u32) -> JobSpec {
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", file.display());
    let mut spec = support::batch(namespace, count, support::shell(&script));
    spec.tasks[0].gpu = Some(GpuRequest::whole(1));
    spec.namespace = support::text(namespace);
    let preemption = Preemption { min_run: DurationMs(0), ..Preemption::default() };
    JobSpec { priority, preemption, ..spec }
}

async fn job(client: &Client, namespace: &str, job: u64) -> Option<v1::Job> {
    let job = v1::JobRef { namespace: namespace.to_owned(), job: job.to_string() };
    let request = v1::GetJobRequest { job: Some(job), consistency: 0, with_spec: false };
    client.get_job(request).await.ok()
}

/// So many of the namespace's job run, of the other's so many.
async fn run(client: &Client, sure: (u64, u64), lent: (u64, u64)) {
    support::until(&format!("{} and {} to run", sure.1, lent.1), || async {
        let sure_runs = job(client, "sure", sure.0).await?.tasks[0].running == sure.1;
        let lent_runs = job(client, "lent", lent.0).await?.tasks[0].running == lent.1;
        (sure_runs && lent_runs).then_some(())
    })
    .await;
}

async fn used(client: &Client, namespace: &str) -> u64 {
    let request = v1::GetNamespaceRequest { name: namespace.to_owned(), consistency: 0 };
    client.get_namespace(request).await.unwrap().used.unwrap().gpu_milli
}

#[tokio::test]
async fn what_is_guaranteed_and_idle_is_borrowed_and_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = support::plan(folder.path(), 3, 2);
    plan.gpus = Gpus::Simulated("5xH100-80GB".to_owned());
    let mut cluster = LocalCluster::start(plan).await.unwrap();
    let client = cluster.client();
    assert_eq!(guarantee(&client, "sure", 6).await, [""; 0]);
    let too_much = guarantee(&client, "lent", 5).await;
    let told = "GPUs: 11 are guaranteed to all namespaces together, and the nodes have 10";
    assert_eq!(too_much, [told]);
    assert_eq!(guarantee(&client, "lent", 4).await, [""; 0]);

    let files = tempfile::tempdir().unwrap();
    let (first, second) = (files.path().join("first"), files.path().join("second"));
    let lent = support::submit(&client, &work("lent", &second, 90, 12)).await;
    support::until("all of it to be lent", || async {
        (used(&client, "lent").await == 10_000).then_some(())
    })
    .await;
    let sure = support::submit(&client, &work("sure", &first, 0, 9)).await;
    run(&client, (sure, 6), (lent, 4)).await;
    assert_eq!((used(&client, "sure").await, used(&client, "lent").await), (6_000, 4_000));
    let reference = v1::JobRef { namespace: "lent".to_owned(), job: lent.to_string() };
    let request = v1::ListAllocationsRequest { job: Some(reference), ..Default::default() };
    let all = client.list_allocations(request).await.unwrap().allocations;
    let ended: Vec<_> = all.iter().filter(|one| one.state == "preempted").collect();
    assert_eq!(ended.len(), 6);
    for one in ended {
        let rule = "of another namespace: that one has less than is guaranteed to it, and this one \
                    more;";
        assert!(one.reason.contains(rule), "{}", one.reason);
    }

    // Another leader knows what is whose.
    let old = leader_after(&cluster, None).await;
    kill(&mut cluster, &[old]).await;
    leader_after(&cluster, Some(old)).await;
    run(&client, (sure, 6), (lent, 4)).await;
    let more = JobSpec { name: support::text("more"), ..work("sure", &first, 100, 1) };
    let more = support::submit(&client, &more).await;
    let explained = support::until("it to wait", || async {
        let job = Some(v1::JobRef { namespace: "sure".to_owned(), job: more.to_string() });
        client.explain(v1::ExplainRequest { job, consistency: 0 }).await.ok()
    })
    .await;
    assert!(explained.position.is_some(), "beyond its guarantee it takes nothing of another's");
    assert_eq!((used(&client, "sure").await, used(&client, "lent").await), (6_000, 4_000));

    // What becomes idle is borrowed once more.
    std::fs::write(&first, "").unwrap();
    support::until("what is idle to be lent again", || async {
        (used(&client, "lent").await == 10_000).then_some(())
    })
    .await;
    std::fs::write(&second, "").unwrap();
    support::until("all to be done", || async {
        let done = job(&client, "lent", lent).await?.state == "succeeded";
        (done && used(&client, "sure").await == 0).then_some(())
    })
    .await;
    cluster.stop().await;
}
