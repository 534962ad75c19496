//! Policies that are set for the cluster and for a pool: what jobs get that say none, which
//! submits are the same, and that another leader fills in the same.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use berth::local::LocalCluster;
use berth_client::{Client, ClientError};
use berth_model::{JobKind, JobSpec, Policy, PolicyOrigin};
use berth_proto::v1;
use berth_wire::spec::{job_spec_from_proto, job_spec_to_proto, policy_to_proto};
use tonic::Code;

use support::schedulers::{kill, leader_after};

async fn set(client: &Client, pool: Option<&str>, policy: Option<Policy>) -> Vec<String> {
    let (pool, policy) = (pool.map(str::to_owned), policy.map(policy_to_proto));
    let request = v1::SetPolicyDefaultRequest { pool, policy };
    client.set_policy_default(request).await.unwrap().warnings
}

fn silent(name: &str, pool: Option<&str>) -> JobSpec {
    let spec = support::batch(name, 1, support::shell("true"));
    let mut spec = JobSpec { policy_origin: PolicyOrigin::LeftOut, ..spec };
    spec.constraints.pool = pool.map(support::text);
    spec
}

async fn stored(client: &Client, id: u64) -> JobSpec {
    let job = support::reference(&id.to_string());
    let request = v1::GetJobRequest { job, consistency: 0, with_spec: true };
    job_spec_from_proto(client.get_job(request).await.unwrap().spec.unwrap()).unwrap()
}

/// What a job has, as the job itself and its explanation tell.
async fn check(client: &Client, id: u64, expected: (Policy, PolicyOrigin)) {
    let spec = stored(client, id).await;
    assert_eq!((spec.policy, spec.policy_origin), expected, "job {id}");
    let job = support::reference(&id.to_string());
    let request = v1::ExplainRequest { job, consistency: 0 };
    let said = client.explain(request).await.unwrap();
    assert_eq!(said.policy, expected.0.name());
    let origin = berth_wire::spec::policy_origin_from_proto(said.policy_origin);
    assert_eq!(origin, Some(expected.1));
}

async fn listed(client: &Client) -> Vec<(Option<String>, i32)> {
    let reply = client.list_policy_defaults(v1::ListPolicyDefaultsRequest { consistency: 0 }).await;
    reply.unwrap().defaults.into_iter().map(|one| (one.pool, one.policy)).collect()
}

#[tokio::test]
async fn what_a_job_leaves_out_is_its_pools_or_the_clusters_whoever_leads() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 3, 1)).await.unwrap();
    let client = cluster.client();
    assert_eq!(listed(&client).await, []);
    let before = support::submit(&client, &silent("before", None)).await;
    check(&client, before, (Policy::Berth, PolicyOrigin::Berth)).await;

    assert_eq!(set(&client, None, Some(Policy::Fgd)).await, Vec::<String>::new());
    assert_eq!(set(&client, Some("default"), Some(Policy::Spread)).await, Vec::<String>::new());
    let warned = set(&client, Some("gold"), Some(Policy::BestFit)).await;
    assert_eq!(warned, ["no node is in pool `gold`"]);
    let of_cluster = support::submit(&client, &silent("of-cluster", None)).await;
    check(&client, of_cluster, (Policy::Fgd, PolicyOrigin::Cluster)).await;
    let of_pool = support::submit(&client, &silent("of-pool", Some("default"))).await;
    check(&client, of_pool, (Policy::Spread, PolicyOrigin::Pool)).await;
    check(&client, before, (Policy::Berth, PolicyOrigin::Berth)).await;
    // Its place was chosen by it.
    support::job_when(&client, of_pool, "succeeds", |job| job.state == "succeeded").await;

    let old = leader_after(&cluster, None).await;
    kill(&mut cluster, &[old]).await;
    leader_after(&cluster, Some(old)).await;
    let after = support::submit(&client, &silent("after", Some("default"))).await;
    check(&client, after, (Policy::Spread, PolicyOrigin::Pool)).await;
    let all =
        [(None, Policy::Fgd), (Some("default"), Policy::Spread), (Some("gold"), Policy::BestFit)];
    let all = all.map(|(pool, policy)| (pool.map(str::to_owned), policy_to_proto(policy)));
    assert_eq!(listed(&client).await, all);
    cluster.stop().await;
}

#[tokio::test]
async fn a_key_stays_its_jobs_and_a_plan_shows_what_another_default_changes() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 1, 1)).await.unwrap();
    let client = cluster.client();
    let request = support::request(&silent("keyed", None), "key");
    let first = client.submit(request.clone()).await.unwrap();
    set(&client, None, Some(Policy::Fgd)).await;
    let again = client.submit(request).await.unwrap();
    assert_eq!((again.job_id, again.existed), (first.job_id, true));
    check(&client, first.job_id, (Policy::Berth, PolicyOrigin::Berth)).await;

    let mut service = silent("serving", None);
    service.kind = JobKind::Service;
    service.tasks[0].command = support::shell("sleep 600");
    let id = support::submit(&client, &service).await;
    set(&client, None, Some(Policy::Spread)).await;
    let spec = Some(job_spec_to_proto(&service));
    let plan = client.plan(v1::PlanRequest { spec, ..v1::PlanRequest::default() }).await.unwrap();
    assert_eq!((plan.updates_job, plan.diff), (Some(id), vec!["policy: fgd -> spread".to_owned()]));
    let job = support::reference(&id.to_string());
    let scale = v1::ScaleJobRequest { job, if_version: None, task: String::new(), count: 2 };
    client.scale_job(scale).await.unwrap();
    check(&client, id, (Policy::Fgd, PolicyOrigin::Cluster)).await;
    let update = client.submit(support::request(&service, "")).await.unwrap();
    assert_eq!((update.job_id, update.version, update.existed), (id, 3, false));
    check(&client, id, (Policy::Spread, PolicyOrigin::Cluster)).await;

    let request = v1::SetPolicyDefaultRequest { pool: None, policy: Some(99) };
    let Err(ClientError::Refused(refusal)) = client.set_policy_default(request).await else {
        panic!("there is no such policy");
    };
    assert_eq!(refusal.code, Code::InvalidArgument);
    for policy in Policy::ALL {
        assert!(refusal.message.contains(policy.name()), "{}", refusal.message);
    }
    cluster.stop().await;
}
