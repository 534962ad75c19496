//! A local cluster whose directory is kept.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use berth::local::LocalCluster;
use berth_proto::v1;

#[tokio::test]
async fn a_local_cluster_comes_back_on_its_own_directory() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = LocalCluster::start(support::plan(folder.path(), 3, 1)).await.unwrap();
    let spec = support::batch("kept", 1, support::shell("true"));
    let job = support::submit(&cluster.client(), &spec).await;
    let servers = cluster.servers();
    cluster.stop().await;

    let other = LocalCluster::start(support::plan(folder.path(), 1, 1)).await;
    let problem = other.err().unwrap().to_string();
    assert!(problem.ends_with("has a cluster of 3 schedulers; give --schedulers 3"), "{problem}");

    let cluster = LocalCluster::start(support::plan(folder.path(), 3, 1)).await.unwrap();
    assert_eq!(cluster.servers(), servers);
    let found = cluster.client().list_jobs(v1::ListJobsRequest::default()).await.unwrap();
    let jobs: Vec<_> = found.jobs.iter().map(|found| found.id).collect();
    assert_eq!(jobs, [job]);
    cluster.stop().await;
}
