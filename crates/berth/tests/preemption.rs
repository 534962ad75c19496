//! A full cluster and something urgent: the least work ends for it, is told why, and comes back;
//! the place is kept for what it ended for, also when the leader dies meanwhile.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use berth::local::LocalCluster;
use berth_client::Client;
use berth_model::{DurationMs, GpuRequest, JobSpec, Policy, Preemption};
use berth_proto::v1;
use support::schedulers::{kill, leader_after};

/// Runs until it is asked to end, and then until it may: as if it wrote a checkpoint.
fn work(folder: &Path, name: &str, priority: u8, gpus: (u32, u32)) -> JobSpec {
    let (count, gpus) = gpus;
    let script = format!(
        "trap 'echo asked > {0}/asked-$BERTH_ALLOC_ID; while [ ! -e {0}/may-end ]; do sleep 0.05; \
         done; exit 143' TERM; while :; do sleep 0.05; done",
        folder.display()
    );
    let mut spec = support::batch(name, count, support::shell(&script));
    spec.tasks[0].gpu = Some(GpuRequest::whole(gpus));
    spec.tasks[0].stop.grace = DurationMs(60_000);
    let preemption = Preemption { min_run: DurationMs(0), ..Preemption::default() };
    JobSpec { priority, preemption, policy: Policy::BestFit, ..spec }
}

async fn runs(client: &Client, job: u64, count: u64) {
    support::job_when(client, job, "all run", |job| job.tasks[0].running == count).await;
}

async fn explain(client: &Client, job: u64) -> v1::ExplainReply {
    let job = support::reference(&job.to_string());
    client.explain(v1::ExplainRequest { job, consistency: 0 }).await.unwrap()
}

async fn stop(client: &Client, job: u64) {
    let job = support::reference(&job.to_string());
    client.stop_job(v1::ChangeJobRequest { job, if_version: None }).await.unwrap();
}

/// Those of the job's allocations that have ended for others.
async fn preempted(client: &Client, job: u64) -> Vec<v1::Allocation> {
    let all = support::allocations(client, job).await;
    all.into_iter().filter(|one| one.state == "preempted").collect()
}

#[tokio::test]
async fn the_least_work_ends_for_what_is_urgent_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 3, 2)).await.unwrap();
    let client = cluster.client();
    let files = tempfile::tempdir().unwrap();
    // Four GPUs: one node with a worker on each of two, which came first, and one with a worker
    // on both.
    let first = support::submit(&client, &work(files.path(), "first", 20, (2, 1))).await;
    runs(&client, first, 2).await;
    let second = support::submit(&client, &work(files.path(), "second", 22, (1, 2))).await;
    runs(&client, second, 1).await;
    let equal = support::submit(&client, &work(files.path(), "equal", 29, (1, 1))).await;

    let urgent = work(files.path(), "urgent", 45, (1, 2));
    let plan = v1::PlanRequest { spec: Some(berth_wire::spec::job_spec_to_proto(&urgent)) };
    let planned = client.plan(plan).await.unwrap();
    let kept = planned.kept.first().unwrap();
    let urgent = support::submit(&client, &urgent).await;
    let asked = || async {
        let names = fs::read_dir(files.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let asked: BTreeSet<String> =
            names.filter_map(|name| name.strip_prefix("asked-").map(str::to_owned)).collect();
        (asked.len() == kept.victims.len()).then_some(asked)
    };
    let asked = support::until("those who end to be asked to", asked).await;
    let victims = kept.victims.iter().map(|victim| victim.allocation_id.clone());
    assert_eq!(asked, victims.collect(), "as the dry run said");

    // They end only when they may. Until then the place is kept, whoever leads.
    let said = explain(&client, urgent).await;
    assert_eq!(said.reasons[0].code, "reserved", "{said:?}");
    assert!(said.smallest_change.contains(&kept.node), "{said:?}");
    let old = leader_after(&cluster, None).await;
    kill(&mut cluster, &[old]).await;
    leader_after(&cluster, Some(old)).await;
    let said = explain(&client, urgent).await;
    assert_eq!(said.reasons[0].code, "reserved", "{said:?}");
    fs::write(files.path().join("may-end"), "").unwrap();
    runs(&client, urgent, 1).await;

    let ended: Vec<v1::Allocation> =
        [preempted(&client, first).await, preempted(&client, second).await].concat();
    let ids: BTreeSet<String> = ended.iter().map(|one| one.id.clone()).collect();
    assert_eq!(ids, asked);
    for one in &ended {
        assert!(
            one.reason.contains("preempted for 4.0.0.1 of job `urgent`: priority 45"),
            "{one:?}"
        );
    }
    // An equal, or nearly, ends nobody, and comes first when there is room without that.
    let waiting = support::job(&client, equal).await.unwrap();
    assert_eq!(waiting.tasks[0].running, 0);
    stop(&client, urgent).await;
    runs(&client, equal, 1).await;
    stop(&client, equal).await;
    runs(&client, first, 2).await;
    runs(&client, second, 1).await;
    cluster.stop().await;
}
