//! A full cluster and something urgent: the least work ends for it, is told why, and comes back;
//! the place is kept for what it ended for, also when the leader dies meanwhile.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use berth::local::{Gpus, LocalCluster, Plan};
use berth_client::Client;
use berth_model::{DurationMs, Gang, GpuRequest, JobSpec, Policy, Preemption};
use berth_proto::v1;
use support::schedulers::{kill, leader_after};

/// Runs until it is asked to end, and then until it may: as if it wrote a checkpoint.
fn work(folder: &Path, name: &str, priority: u8, gpus: (u32, u32)) -> JobSpec {
    let (count, gpus) = gpus;
    let script = format!(
        "trap 'echo asked > {0}/asked-$BERTH_ALLOC_ID; while [ ! -e {0}/may-end ]; do sleep 0.05; \
         done; exit 143' TERM; while :; do sleep 600 & wait $!; done",
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

async fn planned(client: &Client, spec: &JobSpec) -> v1::PlanReply {
    let spec = Some(berth_wire::spec::job_spec_to_proto(spec));
    client.plan(v1::PlanRequest { spec, ..v1::PlanRequest::default() }).await.unwrap()
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

/// So many workers have been asked to end: their allocations.
async fn asked(folder: &Path, count: usize) -> BTreeSet<String> {
    let asked = || async {
        let names = fs::read_dir(folder).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let asked: BTreeSet<String> =
            names.filter_map(|name| name.strip_prefix("asked-").map(str::to_owned)).collect();
        (asked.len() >= count).then_some(asked)
    };
    support::until("those who end to be asked to", asked).await
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
    let planned = planned(&client, &urgent).await;
    let kept = planned.kept.first().unwrap();
    let urgent = support::submit(&client, &urgent).await;
    let asked = asked(files.path(), kept.victims.len()).await;
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

/// Three hosts of eight, full: the gang takes two of them, from whom that costs least.
#[tokio::test]
async fn an_urgent_gang_of_sixteen_has_its_places_from_the_cheapest() {
    let folder = tempfile::tempdir().unwrap();
    let gpus = Gpus::Simulated("8xH100-80GB".to_owned());
    let plan = Plan { gpus, ..support::plan(folder.path(), 1, 3) };
    let cluster = LocalCluster::start(plan).await.unwrap();
    let client = cluster.client();
    let files = tempfile::tempdir().unwrap();
    let gang_of = |name: &str, priority, members| {
        let mut spec = work(files.path(), name, priority, (members, 1));
        spec.tasks[0].gang = Some(Gang {});
        spec
    };
    // What came first has lost the most if it ends.
    let first = support::submit(&client, &work(files.path(), "first", 20, (8, 1))).await;
    runs(&client, first, 8).await;
    let second = support::submit(&client, &work(files.path(), "second", 20, (4, 2))).await;
    runs(&client, second, 4).await;
    let third = support::submit(&client, &gang_of("third", 22, 8)).await;
    runs(&client, third, 8).await;

    // What waits is told the priority that would be enough.
    let modest = support::submit(&client, &gang_of("modest", 25, 16)).await;
    let said = explain(&client, modest).await.smallest_change;
    assert!(said.contains("or priority 30, so that less urgent work ends for it"), "{said}");
    for (priority, places) in [(29, 0), (30, 16)] {
        let planned = planned(&client, &gang_of("modest", priority, 16)).await;
        assert_eq!((planned.placements.len(), planned.kept.len()), (0, places), "{priority}");
    }
    // Two more hosts would do as well, and nobody ends then.
    let hosts = v1::ImaginedNodes {
        count: 2,
        gpus: 8,
        model: "H100".to_owned(),
        gpu_memory_bytes: 80_000_000_000,
        cpu_milli: 128_000,
        memory_bytes: 1 << 40,
    };
    let spec = Some(berth_wire::spec::job_spec_to_proto(&gang_of("modest", 60, 16)));
    let more = client.plan(v1::PlanRequest { spec, imagined: vec![hosts] }).await.unwrap();
    let nodes: BTreeSet<&str> = more.placements.iter().map(|one| one.node.as_str()).collect();
    assert_eq!((nodes, more.kept.len()), (["what-if-1", "what-if-2"].into(), 0));
    stop(&client, modest).await;

    let urgent = gang_of("urgent", 60, 16);
    let planned = planned(&client, &urgent).await;
    assert_eq!((planned.placements.len(), planned.kept.len()), (0, 16), "{planned:?}");
    let victims = planned.kept.iter().flat_map(|kept| &kept.victims);
    let victims: BTreeSet<String> = victims.map(|victim| victim.allocation_id.clone()).collect();
    let of = |job: u64| victims.iter().filter(|id| id.starts_with(&format!("{job}."))).count();
    assert_eq!((of(first), of(second), of(third)), (0, 4, 8));

    let urgent = support::submit(&client, &urgent).await;
    assert_eq!(asked(files.path(), victims.len()).await, victims, "as the dry run said");
    let said = explain(&client, urgent).await;
    assert_eq!(said.reasons[0].code, "reserved", "{said:?}");
    assert!(said.reasons[0].detail.contains("the places of all members are kept"), "{said:?}");
    fs::write(files.path().join("may-end"), "").unwrap();
    runs(&client, urgent, 16).await;

    for job in [second, third] {
        let ended = preempted(&client, job).await;
        assert_eq!(ended.len(), of(job));
        for one in &ended {
            assert!(one.reason.contains(&format!("preempted for {urgent}.0.")), "{one:?}");
        }
        let waiting = support::job(&client, job).await.unwrap();
        assert_eq!((waiting.tasks[0].running, waiting.tasks[0].failed), (0, 0));
    }
    stop(&client, urgent).await;
    runs(&client, second, 4).await;
    runs(&client, third, 8).await;
    cluster.stop().await;
}
