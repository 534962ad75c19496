//! Requests that no client of ours makes: each is refused with the field that is
//! wrong and what would be right, and the scheduler goes on.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use berth::local::LocalCluster;
use berth_proto::v1;
use berth_proto::v1::jobs_client::JobsClient;
use berth_proto::v1::nodes_client::NodesClient;
use prost::Message as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

async fn channel(cluster: &LocalCluster) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.servers()[0])).unwrap();
    endpoint.connect().await.unwrap()
}

/// The call is refused with this code; message, fields and hint say all of
/// `parts`.
#[track_caller]
fn check<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, parts: &[&str]) {
    let refused = answer.unwrap_err();
    let detail = v1::ErrorDetail::decode(refused.details()).unwrap_or_default();
    let fields =
        detail.violations.iter().map(|one| format!("{}: {} {}", one.field, one.message, one.hint));
    let fields: Vec<String> = fields.collect();
    let said = format!("{} {} {}", refused.message(), fields.join("\n"), detail.hint);
    assert_eq!(refused.code(), code, "{said}");
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
}

#[tokio::test]
async fn b41_b42_b43_b50_requests_that_make_no_sense_are_refused_by_field() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 1, 0)).await.unwrap();
    let client = cluster.client();
    let spec = support::batch("known", 1, support::shell("true"));
    let id = support::submit(&client, &spec).await;
    let mut jobs = JobsClient::new(channel(&cluster).await);
    let mut nodes = NodesClient::new(channel(&cluster).await);

    // Every problem of a specification, each at its place.
    let mut bad = support::request(&spec, "bad");
    let proto = bad.spec.as_mut().unwrap();
    proto.kind = 99;
    proto.name = "not a name".to_owned();
    proto.tasks[0].stop = Some(v1::StopPolicy { signal: 77, grace_ms: u64::MAX });
    proto.tasks[0].command.clear();
    let parts = ["kind", "99", "name", "tasks.main.stop.signal", "77"];
    check(jobs.submit(bad).await, Code::InvalidArgument, &parts);
    let nothing = v1::SubmitRequest::default();
    check(jobs.submit(nothing).await, Code::InvalidArgument, &["spec"]);

    let get = |job: &str, consistency: i32| v1::GetJobRequest {
        job: support::reference(job),
        consistency,
        with_spec: false,
    };
    let allocation = format!("{id}.0.0.1");
    let parts = ["expected a job, found the allocation", &format!("its job is {id}")];
    check(jobs.get(get(&allocation, 0)).await, Code::InvalidArgument, &parts);
    check(jobs.get(get("KNOWN", 0)).await, Code::NotFound, &["no job `KNOWN`"]);
    check(jobs.get(get("know me", 0)).await, Code::NotFound, &["did you mean known?"]);
    let parts = ["unknown value 7; 0 is linearizable, 1 is stale"];
    check(jobs.get(get("known", 7)).await, Code::InvalidArgument, &parts);
    let unnamed = v1::GetJobRequest::default();
    check(jobs.get(unnamed).await, Code::InvalidArgument, &["a job is missing"]);
    let node = v1::GetNodeRequest { node: "node-9".to_owned(), consistency: 0 };
    check(nodes.get(node).await, Code::NotFound, &["no node `node-9`", "berth node list"]);

    let page = |page_size: u32, page_token: &str| v1::ListAllocationsRequest {
        job: support::reference("known"),
        page_size,
        page_token: page_token.to_owned(),
        ..Default::default()
    };
    for token in ["edited", "1.0.0", "999.0.0.1"] {
        let parts = ["page_token", "not a token of this job's listing"];
        check(jobs.list_allocations(page(10, token)).await, Code::InvalidArgument, &parts);
    }
    for size in [0, u32::MAX] {
        jobs.list_allocations(page(size, "")).await.unwrap();
    }

    let watch = |after: &str| v1::EventsRequest { after: after.to_owned(), ..Default::default() };
    let parts = ["after", "such as 42-0"];
    check(jobs.events(watch("yesterday")).await, Code::InvalidArgument, &parts);
    let parts = ["no event has this token yet", "list again"];
    check(jobs.events(watch("4000000000-0")).await, Code::OutOfRange, &parts);
    assert_eq!(support::job(&client, id).await.unwrap().name, "known", "it goes on");
    cluster.stop().await;
}
