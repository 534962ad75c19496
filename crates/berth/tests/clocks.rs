//! A host whose wall clock is wrong.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use berth::local::LocalCluster;
use berth_proto::v1;
use berth_tests::skip::skipped;

use support::schedulers::{kill, leader_after};

/// The library that Debian's package `faketime` brings. It answers for the wall
/// clock alone, where it is told to leave the monotonic one.
fn fake_time() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten();
    folders.map(|folder| folder.path().join("faketime/libfaketime.so.1")).find(|at| at.exists())
}

/// A program that is `berth` on a host whose wall clock is so far ahead.
fn berth_ahead(folder: &Path, library: &Path, ahead: &str) -> PathBuf {
    let script = format!(
        "#!/bin/sh\nexport LD_PRELOAD={} FAKETIME={ahead} FAKETIME_DONT_FAKE_MONOTONIC=1\n\
         exec {} \"$@\"\n",
        library.display(),
        env!("CARGO_BIN_EXE_berth"),
    );
    let program = folder.join("berth-ahead");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[tokio::test]
async fn b73_a_wall_clock_that_is_off_is_named_and_disturbs_nothing() {
    let test = "b73_a_wall_clock_that_is_off_is_named_and_disturbs_nothing";
    let Some(library) = fake_time() else {
        return skipped(test, "faketime", "the package that shows a process another time");
    };
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 3, 1)).await.unwrap();
    let client = cluster.client();
    let warnings = || async {
        let asked = v1::StatusRequest { consistency: 0 };
        Some(client.status(asked).await.ok()?.warnings)
    };
    let leader = leader_after(&cluster, None).await;
    let odd = (1..=3).find(|id| *id != leader).unwrap();
    support::until("nothing to warn of", || async {
        warnings().await.is_some_and(|warnings| warnings.is_empty()).then_some(())
    })
    .await;

    kill(&mut cluster, &[odd]).await;
    cluster.run_with(berth_ahead(folder.path(), &library, "+1h"));
    cluster.restart_scheduler(odd).unwrap();
    let named = format!("the wall clock of scheduler {odd} is 3");
    let said = support::until("the clock to be named", || async {
        let warnings = warnings().await?;
        warnings.iter().find(|warning| warning.starts_with(&named)).cloned()
    })
    .await;
    assert!(said.contains("s ahead of the others'"), "{said}");

    // It may even lead: what runs, and what has a lease, notices nothing.
    let held = support::batch("held", 1, support::shell("exec sleep 600"));
    let job = support::submit(&client, &held).await;
    support::job_when(&client, job, "runs", |job| job.tasks[0].running == 1).await;
    let asked = v1::TransferRequest { to: Some(odd) };
    support::until("it to lead", || async {
        let _ = client.transfer(asked).await;
        (cluster.leader().await.ok()? == odd).then_some(())
    })
    .await;
    let short = support::batch("short", 1, support::shell("true"));
    let short = support::submit(&client, &short).await;
    support::job_when(&client, short, "succeeds", |job| job.state == "succeeded").await;
    let running = support::job(&client, job).await.unwrap();
    assert_eq!((running.tasks[0].running, running.tasks[0].lost), (1, 0));
    assert_eq!(support::node_state(&client, "node-1").await.as_deref(), Some("ready"));
    cluster.stop().await;
}
