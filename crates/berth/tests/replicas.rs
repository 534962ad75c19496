//! A replica whose state is not that of the others.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::path::{Path, PathBuf};

use berth::local::{LocalCluster, LocalScheduler};
use berth_client::{Client, Options};
use berth_proto::v1;

use support::schedulers::{check_refused, kill, leader_after, run_until_it_ends};

/// The newest snapshot of a scheduler.
fn snapshot_of(scheduler: &LocalScheduler) -> PathBuf {
    let folder = scheduler.data_dir.join("raft/snapshots");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.max().unwrap()
}

/// Damage that no checksum shows, as broken memory or a defect of apply leaves
/// it: one letter of a name is another, and the file whole.
fn falsify(file: &Path, name: &str, other: &str) {
    let mut bytes = std::fs::read(file).unwrap();
    let mut found = 0;
    for at in 0..bytes.len() - name.len() {
        if bytes[at..].starts_with(name.as_bytes()) {
            bytes[at..at + name.len()].copy_from_slice(other.as_bytes());
            found += 1;
        }
    }
    assert!(found > 0 && name.len() == other.len());
    let end = bytes.len() - 4;
    let checksum = crc32c::crc32c(&bytes[..end]).to_le_bytes();
    bytes[end..].copy_from_slice(&checksum);
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn f23_a_replica_that_differs_is_set_aside() {
    let program = Path::new(env!("CARGO_BIN_EXE_berth"));
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 3, 0)).await.unwrap();
    let client = cluster.client();
    support::submit(&client, &support::batch("sameness", 1, support::shell("true"))).await;

    let leader = leader_after(&cluster, None).await;
    let odd = leader % 3 + 1;
    let position = cluster.schedulers.iter().position(|one| one.id == odd).unwrap();
    let own = Client::new(Options::new(vec![cluster.schedulers[position].grpc.clone()]));
    own.snapshot(v1::SnapshotRequest {}).await.unwrap();
    kill(&mut cluster, &[odd]).await;
    falsify(&snapshot_of(&cluster.schedulers[position]), "sameness", "samebess");

    let id = odd.to_string();
    let output = run_until_it_ends(program, &cluster.schedulers[position]).await;
    check_refused(&output, &["stopped for safety", &format!("scheduler {id}"), "a majority"]);
    let evidence = cluster.schedulers[position].data_dir.join("quarantine");
    let report = std::fs::read(evidence.join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["scheduler"], odd);
    assert_eq!(report["majority"].as_array().unwrap().len(), 2);
    assert_ne!(report["own_hash"], report["majority_hash"]);
    let state = std::fs::read(evidence.join("state.snapshot")).unwrap();
    assert!(state.windows(8).any(|part| part == b"samebess"), "the state it had is kept");

    let output = run_until_it_ends(program, &cluster.schedulers[position]).await;
    let remove = format!("berth operator remove {id}");
    check_refused(&output, &["was set aside", &remove, "--join", "quarantine"]);
    // The others have the right one, and go on.
    let jobs = client.list_jobs(v1::ListJobsRequest::default()).await.unwrap().jobs;
    assert_eq!(jobs[0].name, "sameness");
    support::submit(&client, &support::batch("another", 1, support::shell("true"))).await;
    cluster.schedulers.remove(position);
    support::hashes_agree(&cluster.servers()).await;
    cluster.stop().await;
}
