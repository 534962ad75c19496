//! A namespace with half of a cluster's GPUs: two hundred clients at once take no more of them,
//! others have theirs, and what waits knows the sum; another leader keeps to it.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::Path;

use berth::local::{Gpus, LocalCluster};
use berth_client::{Client, ClientError};
use berth_model::{
    Bounds, CpuMilli, GpuRequest, JobSpec, LeftOut, Limit, LimitRange, NamespaceSpec, Quota,
    Resource,
};
use berth_proto::v1;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Code;

use support::raw;
use support::schedulers::{kill, leader_after};

const CLIENTS: usize = 200;
const QUOTA_MILLI: u64 = 8_000;

fn limits(amounts: &[(Resource, u64)]) -> Limit {
    Limit { amounts: amounts.iter().copied().collect(), submits_per_second: None }
}

async fn set(client: &Client, limit: Limit) -> v1::ApplyNamespaceReply {
    let spec = NamespaceSpec::new(support::text("default"));
    apply(client, NamespaceSpec { quota: Quota { limit, ..Quota::default() }, ..spec }).await
}

async fn apply(client: &Client, spec: NamespaceSpec) -> v1::ApplyNamespaceReply {
    let spec = Some(berth_wire::spec::namespace_spec_to_proto(&spec));
    client.apply_namespace(v1::ApplyNamespaceRequest { spec, if_version: None }).await.unwrap()
}

async fn used_milli(client: &Client) -> u64 {
    let request = v1::GetNamespaceRequest { name: "default".to_owned(), consistency: 0 };
    client.get_namespace(request).await.unwrap().used.unwrap().gpu_milli
}

fn work(name: &str, count: u32, gpus: u32, script: &str) -> JobSpec {
    let mut spec = support::batch(name, count, support::shell(script));
    spec.tasks[0].gpu = Some(GpuRequest::whole(gpus));
    spec
}

fn until_there_is(file: &Path) -> String {
    format!("while [ ! -e {} ]; do sleep 0.05; done", file.display())
}

async fn sixteen_gpus(folder: &Path, schedulers: u8) -> LocalCluster {
    let mut plan = support::plan(folder, schedulers, 2);
    plan.gpus = Gpus::Simulated("8xH100-80GB".to_owned());
    LocalCluster::start(plan).await.unwrap()
}

async fn explain(client: &Client, job: u64) -> v1::ExplainReply {
    let job = support::reference(&job.to_string());
    client.explain(v1::ExplainRequest { job, consistency: 0 }).await.unwrap()
}

/// Reads what is used at each event, until it is told that all is over; the most that was read.
async fn sample(client: Client, over: watch::Receiver<bool>) -> u64 {
    let request = v1::EventsRequest { follow: true, ..v1::EventsRequest::default() };
    let mut events = client.events(request);
    let mut most = 0;
    loop {
        let mut over = over.clone();
        let event = tokio::select! {
            event = events.next() => event.unwrap().unwrap(),
            _ = over.wait_for(|over| *over) => return most,
        };
        if event.kind == "allocation-planned" {
            most = most.max(used_milli(&client).await);
        }
    }
}

/// How many of these jobs' allocations had a place at one time, as the log has it.
async fn most_at_once(client: &Client, jobs: &BTreeSet<u64>) -> usize {
    let mut events = client.events(v1::EventsRequest::default());
    let (mut held, mut most) = (BTreeSet::new(), 0);
    while let Some(event) = events.next().await.unwrap() {
        if !event.job_id.is_some_and(|job| jobs.contains(&job)) {
            continue;
        }
        match event.kind.as_str() {
            "allocation-planned" => held.insert(event.allocation_id),
            "allocation-ended" => held.remove(&event.allocation_id),
            _ => continue,
        };
        most = most.max(held.len());
    }
    most
}

#[tokio::test]
async fn two_hundred_clients_at_once_take_no_more_than_the_quota() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = sixteen_gpus(folder.path(), 1).await;
    let client = cluster.client();
    set(&client, limits(&[(Resource::Gpus, QUOTA_MILLI)])).await;
    let (ended, over) = watch::channel(false);
    let sampler = tokio::spawn(sample(cluster.client(), over));
    let clients: JoinSet<u64> = (0..CLIENTS)
        .map(|number| {
            let client = cluster.client();
            async move {
                support::submit(&client, &work(&format!("job-{number}"), 1, 1, "sleep 0.05")).await
            }
        })
        .collect();
    let jobs: BTreeSet<u64> = clients.join_all().await.into_iter().collect();
    assert_eq!(jobs.len(), CLIENTS);
    for job in &jobs {
        support::job_when(&client, *job, "succeeds", |job| job.state == "succeeded").await;
    }
    ended.send(true).unwrap();
    let most_read = sampler.await.unwrap();
    assert!((1..=QUOTA_MILLI).contains(&most_read), "{most_read}");
    // All of it was taken, or the race would have been none.
    assert_eq!(most_at_once(&client, &jobs).await as u64 * 1000, QUOTA_MILLI);
    assert_eq!(used_milli(&client).await, 0);
    cluster.stop().await;
}

#[tokio::test]
async fn what_waits_for_its_quota_says_so_and_starts_when_there_is_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = sixteen_gpus(folder.path(), 3).await;
    let client = cluster.client();
    let files = tempfile::tempdir().unwrap();
    let script = until_there_is(&files.path().join("end"));
    set(&client, limits(&[(Resource::Gpus, QUOTA_MILLI)])).await;
    let job = support::submit(&client, &work("many", 12, 1, &script)).await;
    let runs = |count| {
        let client = &client;
        async move {
            support::job_when(client, job, "some run", |job| job.tasks[0].running == count).await
        }
    };
    runs(8).await;
    let sum = "wait: namespace `default`: GPUs 8 of 8 in use, 1 asked for";
    let said = explain(&client, job).await;
    assert_eq!((said.reasons[0].code.as_str(), said.smallest_change.as_str()), ("quota", sum));
    assert_eq!(support::job(&client, job).await.unwrap().reason, sum);
    // Others are not held up by what waits before them.
    let mut other = work("other", 1, 4, "true");
    other.namespace = support::text("other");
    let other = support::submit(&client, &other).await;
    support::until("another namespace's work to be done", || async {
        let reference = v1::JobRef { namespace: "other".to_owned(), job: other.to_string() };
        let job = Some(reference);
        let found = client.get_job(v1::GetJobRequest { job, consistency: 0, with_spec: false });
        found.await.ok().filter(|job| job.state == "succeeded")
    })
    .await;

    let old = leader_after(&cluster, None).await;
    kill(&mut cluster, &[old]).await;
    leader_after(&cluster, Some(old)).await;
    let said = explain(&client, job).await;
    assert_eq!(said.smallest_change, sum, "another leader counts the same");
    assert_eq!(used_milli(&client).await, QUOTA_MILLI);
    let more = set(&client, limits(&[(Resource::Gpus, 10_000)])).await;
    assert_eq!((more.version, more.warnings), (2, Vec::new()));
    runs(10).await;

    // Less than is in use: nobody ends, and nobody starts.
    let less = set(&client, limits(&[(Resource::Gpus, 2_000)])).await;
    let told = "GPUs: 10 in use and 2 allowed; nothing is ended, and nothing that needs some \
                starts until less is";
    assert_eq!(less.warnings, [told]);
    runs(10).await;
    let said = explain(&client, job).await;
    let sum = "wait: namespace `default`: GPUs 10 of 2 in use, 1 asked for";
    assert_eq!(said.smallest_change, sum);
    std::fs::write(files.path().join("end"), "").unwrap();
    support::job_when(&client, job, "succeeds", |job| job.state == "succeeded").await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_submit_beyond_its_quota_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = sixteen_gpus(folder.path(), 1).await;
    let client = cluster.client();
    set(&client, limits(&[(Resource::Gpus, 0), (Resource::QueuedJobs, 20)])).await;
    let submit = |number: usize| {
        let client = cluster.client();
        let request = support::request(&work(&format!("job-{number}"), 1, 1, "true"), "");
        async move { client.submit(request).await }
    };
    let answers: JoinSet<_> = (0..CLIENTS).map(submit).collect();
    let answers = answers.join_all().await;
    let full = "namespace `default`: queued jobs 20 of 20 in use, 1 asked for";
    let mut words: BTreeMap<String, usize> = BTreeMap::new();
    for answer in answers {
        let word = match answer {
            Ok(_) => "accepted".to_owned(),
            Err(ClientError::Refused(refusal)) => {
                assert_eq!(refusal.code, Code::ResourceExhausted);
                refusal.message
            }
            Err(other) => panic!("{other}"),
        };
        *words.entry(word).or_default() += 1;
    }
    let expected = [("accepted".to_owned(), 20), (full.to_owned(), CLIENTS - 20)];
    assert_eq!(words, BTreeMap::from(expected));
    let found = client.list_jobs(v1::ListJobsRequest { page_size: 1000, ..Default::default() });
    assert_eq!(found.await.unwrap().jobs.len(), 20);

    // In a call of several each has its own answer.
    set(&client, limits(&[(Resource::Gpus, 0), (Resource::QueuedJobs, 21)])).await;
    let submits = [0, 1, 2].map(|number| {
        support::request(&work(&format!("one-of-{number}"), 1, 1, "true"), &number.to_string())
    });
    let results = client.submit_many(submits.to_vec()).await.unwrap().results;
    let accepted = |result: &v1::SubmitResult| {
        matches!(result.result, Some(v1::submit_result::Result::Accepted(_)))
    };
    assert_eq!(results.iter().map(accepted).collect::<Vec<_>>(), [true, false, false]);

    // One a second, and told when to come back.
    let rate = Limit { submits_per_second: NonZeroU32::new(1), ..Limit::default() };
    set(&client, rate).await;
    let server = cluster.servers().remove(0);
    let quick = |name: &str| work(name, 1, 1, "true");
    let first = raw::submit(&server, &quick("first"), "first").await.unwrap();
    let refused = raw::submit(&server, &quick("second"), "second").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.message(), "namespace `default` submits more than 1 jobs a second");
    support::job_when(&client, first.job_id, "succeeds", |job| job.state == "succeeded").await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_job_is_given_what_it_left_out_and_held_to_what_a_task_may_ask_for() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 1, 1)).await.unwrap();
    let client = cluster.client();
    let bounds = Bounds { default: Some(250), min: None, max: Some(1_000) };
    let range = LimitRange([(Resource::Cpu, bounds)].into());
    let spec = NamespaceSpec { range, ..NamespaceSpec::new(support::text("default")) };
    apply(&client, spec).await;
    let mut said_nothing = support::batch("left-out", 1, support::shell("true"));
    said_nothing.tasks[0].left_out = LeftOut { cpu: true, memory: true };
    for (spec, cpu) in
        [(said_nothing, 250), (support::batch("said", 1, support::shell("true")), 100)]
    {
        let id = support::submit(&client, &spec).await;
        let job = support::reference(&id.to_string());
        let request = v1::GetJobRequest { job, consistency: 0, with_spec: true };
        let found = client.get_job(request).await.unwrap().spec.unwrap();
        assert_eq!((found.tasks[0].cpu_milli, found.tasks[0].cpu_left_out), (cpu, false));
        support::job_when(&client, id, "succeeds", |job| job.state == "succeeded").await;
    }
    let mut large = support::batch("large", 1, support::shell("true"));
    large.tasks[0].cpu = CpuMilli(1_500);
    let Err(ClientError::Refused(refusal)) = client.submit(support::request(&large, "")).await
    else {
        panic!("it asks for more than it may");
    };
    let said =
        "tasks.main.cpu: namespace `default` lets a task ask for at most 1 cores, found 1500m";
    assert_eq!((refusal.code, refusal.message.as_str()), (Code::InvalidArgument, said));
    cluster.stop().await;
}
