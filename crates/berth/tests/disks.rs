//! Schedulers on disks that stall.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::time::{Duration, Instant};

use berth::local::LocalCluster;
use berth_proto::v1;
use berth_tests::skip::skipped;

use support::disk::Disk;
use support::load::Load;
use support::schedulers::leader_after;

/// A stalled leader hands over after two seconds, and the next one serves.
const HANDOVER_MAX: Duration = Duration::from_secs(5);

#[tokio::test]
async fn f10_a_leader_whose_disk_stalls_hands_over_and_comes_back() {
    let test = "f10_a_leader_whose_disk_stalls_hands_over_and_comes_back";
    if !rustix::process::geteuid().is_root() {
        return skipped(test, "root", "mounting a file system takes root");
    }
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("cluster");
    std::fs::create_dir(&data_dir).unwrap();
    let mounted = Disk::mount(&folder.path().join("disk.img"), data_dir.join("scheduler-1"));
    let disk = match mounted {
        Ok(disk) => disk,
        Err(lack) => return skipped(test, "root", &lack),
    };
    let cluster = LocalCluster::start(support::plan(&data_dir, 3, 1)).await.unwrap();
    support::until("scheduler 1 to lead", || async {
        cluster.client().transfer(v1::TransferRequest { to: Some(1) }).await.ok()?;
        (cluster.leader().await.ok()? == 1).then_some(())
    })
    .await;
    let load = Load::start(cluster.client());
    load.goes_on().await;

    let frozen = disk.freeze();
    let began = Instant::now();
    let second = leader_after(&cluster, Some(1)).await;
    load.goes_on().await;
    assert!(began.elapsed() < HANDOVER_MAX, "{:?} until {second} served", began.elapsed());
    drop(frozen);

    // It was slow, not broken: it goes on as a follower.
    support::until("all to be well", || async {
        let status = cluster.client().status(v1::StatusRequest { consistency: 0 }).await.ok()?;
        status.members.iter().all(|member| member.healthy).then_some(())
    })
    .await;
    load.end().await.check_nothing_lost(&cluster.client()).await;
    support::hashes_agree(&cluster.servers()).await;
    cluster.stop().await;
}
