//! A stopped scheduler's store is carried to a file and back.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use berth::local::LocalCluster;
use berth_client::{Client, Options};
use berth_proto::v1;

use support::schedulers::kill;

/// What `berth storage` says, with its exit code.
fn storage(what: &str, data_dir: &Path, file: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.args(["storage", what, "--data-dir"]).arg(data_dir).arg(file);
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[track_caller]
fn check((code, said): (Option<i32>, String), expected: i32, parts: &[&str]) {
    assert_eq!(code, Some(expected), "{said}");
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
}

#[tokio::test]
async fn a_store_is_carried_elsewhere_and_its_scheduler_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 3, 0)).await.unwrap();
    let client = cluster.client();
    let submit = async |name: &str| {
        support::submit(&client, &support::batch(name, 1, support::shell("true"))).await
    };
    let mut ids = vec![submit("before").await];
    let second = Client::new(Options::new(vec![cluster.schedulers[1].grpc.clone()]));
    second.snapshot(v1::SnapshotRequest {}).await.unwrap();
    for number in 0..20 {
        ids.push(submit(&format!("after-{number}")).await);
    }
    support::hashes_agree(&cluster.servers()).await;

    let data_dir = cluster.schedulers[1].data_dir.clone();
    let file = folder.path().join("second.store");
    check(storage("export", &data_dir, &file), 1, &["in use by pid"]);
    kill(&mut cluster, &[2]).await;
    check(storage("import", &data_dir, &file), 1, &["read", "second.store"]);
    let parts = ["the store of scheduler 2", "1 snapshots", "never start the directory"];
    check(storage("export", &data_dir, &file), 0, &parts);
    check(storage("export", &data_dir, &file), 1, &["second.store is there already"]);
    check(storage("import", &data_dir, &file), 1, &["holds a store already", "move it away"]);

    let (store, away) = (data_dir.join("raft"), folder.path().join("away"));
    fs::rename(&store, &away).unwrap();
    let damaged = folder.path().join("damaged.store");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, &bytes).unwrap();
    check(storage("import", &data_dir, &damaged), 1, &["damaged.store", "a checksum is wrong"]);
    let first = cluster.schedulers[0].data_dir.clone();
    let parts = ["is the store of node 2, not of node 1"];
    check(storage("import", &first, &file), 1, &parts);
    assert!(!store.exists(), "nothing was made");
    check(storage("import", &data_dir, &file), 0, &["the store of scheduler 2"]);

    // It is what it was: the others need it, and it them.
    kill(&mut cluster, &[3]).await;
    cluster.restart_scheduler(2).unwrap();
    ids.push(submit("with-two").await);
    cluster.restart_scheduler(3).unwrap();
    support::hashes_agree(&cluster.servers()).await;
    for id in ids {
        support::job(&client, id).await.unwrap();
    }
    cluster.stop().await;
}
