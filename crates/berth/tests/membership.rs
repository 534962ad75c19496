//! Schedulers that come, go, die and are replaced while jobs are submitted all
//! the time: nothing that was acknowledged is lost.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use berth::local::{LocalCluster, TRIAL_SETTINGS};
use berth_client::ClientError;
use berth_proto::v1;
use berth_scheduler::Seat;
use tonic::Code;

use support::load::Load;
use support::schedulers::{kill, leader_after};

async fn status(cluster: &LocalCluster) -> Option<v1::ClusterStatus> {
    cluster.client().status(v1::StatusRequest { consistency: 0 }).await.ok()
}

async fn voters_are(cluster: &LocalCluster, expected: &[u64]) {
    let expected: BTreeSet<u64> = expected.iter().copied().collect();
    support::until(&format!("the voters to be {expected:?}"), || async {
        let members = status(cluster).await?.members;
        let voters = members.iter().filter(|member| member.role != "learner");
        let found: BTreeSet<u64> = voters.map(|member| member.id).collect();
        (found == expected && members.len() == expected.len()).then_some(())
    })
    .await;
}

/// Waits until a new scheduler is a member, with or without a vote.
async fn comes_in(cluster: &LocalCluster, id: u64) {
    support::until(&format!("scheduler {id} to come in"), || async {
        let members = status(cluster).await?.members;
        members.iter().any(|member| member.id == id).then_some(())
    })
    .await;
}

/// Kills the leader in the middle of whatever is going on, and starts it again.
async fn kill_the_leader(cluster: &mut LocalCluster) {
    let old = leader_after(cluster, None).await;
    kill(cluster, &[old]).await;
    cluster.restart_scheduler(old).unwrap();
}

/// A removal as an operator does it: repeated until there is an answer.
async fn remove(cluster: &LocalCluster, id: u64) {
    support::until(&format!("scheduler {id} to be removed"), || async {
        match cluster.client().remove(v1::RemoveRequest { id }).await {
            Ok(reply) => reply.done.then_some(()),
            Err(ClientError::Refused(refusal)) if refusal.code == Code::FailedPrecondition => {
                // Whoever was started again has to be heard, and to catch up.
                assert!(refusal.message.contains("too few of the others"), "{refusal:?}");
                None
            }
            Err(ClientError::Refused(refusal)) => panic!("remove {id}: {refusal:?}"),
            Err(_) => None,
        }
    })
    .await;
}

/// What is under a folder, in bytes, without the ballast.
fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| match path.is_dir() {
            true => bytes_in(&path),
            false if path.ends_with("ballast") => 0,
            // A file may be replaced between two looks.
            false => std::fs::metadata(&path).map_or(0, |file| file.len()),
        })
        .sum()
}

#[tokio::test]
async fn f18_members_change_under_load_and_nothing_acknowledged_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 1, 1)).await.unwrap();
    let load = Load::start(cluster.client());
    load.goes_on().await;

    // One becomes three; the leader falls while the third comes in.
    cluster.add_scheduler(Seat::Voter).unwrap();
    voters_are(&cluster, &[1, 2]).await;
    let third = cluster.add_scheduler(Seat::Voter).unwrap();
    comes_in(&cluster, third).await;
    kill_the_leader(&mut cluster).await;
    voters_are(&cluster, &[1, 2, 3]).await;
    load.ask(&cluster);
    load.goes_on().await;

    // Three become five.
    cluster.add_scheduler(Seat::Voter).unwrap();
    voters_are(&cluster, &[1, 2, 3, 4]).await;
    let fifth = cluster.add_scheduler(Seat::Voter).unwrap();
    comes_in(&cluster, fifth).await;
    kill_the_leader(&mut cluster).await;
    voters_are(&cluster, &[1, 2, 3, 4, 5]).await;
    load.ask(&cluster);
    load.goes_on().await;

    // One loses its disk. What comes up on the empty one, at the same address,
    // is somebody else.
    let wiped = if leader_after(&cluster, None).await == 2 { 3 } else { 2 };
    kill(&mut cluster, &[wiped]).await;
    assert_eq!(cluster.replace_scheduler(wiped).unwrap(), 6);
    comes_in(&cluster, 6).await;
    remove(&cluster, wiped).await;
    let mut members: Vec<u64> = [1, 2, 3, 4, 5, 6].into_iter().filter(|id| *id != wiped).collect();
    voters_are(&cluster, &members).await;
    load.ask(&cluster);
    load.goes_on().await;

    // Five become three: the leader falls while a follower goes, and then the
    // leader itself goes.
    let old = leader_after(&cluster, None).await;
    let follower = *members.iter().find(|id| **id != old).unwrap();
    let client = cluster.client();
    let asking = tokio::spawn(async move {
        // Who asked does not wait for the end of it.
        let _ = client.remove(v1::RemoveRequest { id: follower }).await;
    });
    kill_the_leader(&mut cluster).await;
    asking.await.unwrap();
    remove(&cluster, follower).await;
    let last = leader_after(&cluster, None).await;
    remove(&cluster, last).await;
    members.retain(|id| *id != follower && *id != last);
    let mut ended = Vec::new();
    for id in [follower, last] {
        let position = cluster.schedulers.iter().position(|one| one.id == id).unwrap();
        let mut scheduler = cluster.schedulers.remove(position);
        let how = scheduler.child.ended().await.unwrap();
        assert_eq!(how.code(), Some(1), "a removed scheduler ends by itself");
        ended.push((scheduler.data_dir, scheduler.grpc));
    }
    voters_are(&cluster, &members).await;
    load.ask(&cluster);
    load.goes_on().await;

    load.end().await.check_nothing_lost(&cluster.client()).await;
    support::hashes_agree(&cluster.servers()).await;
    for scheduler in &cluster.schedulers {
        let bytes = bytes_in(&scheduler.data_dir);
        assert!(bytes < 128 << 20, "{bytes} bytes in {}", scheduler.data_dir.display());
    }
    for (folder, address) in ended {
        check_that_it_stays_out(&cluster, &folder, &address).await;
    }
    cluster.stop().await;
}

#[tokio::test]
async fn f18_no_change_of_members_costs_the_majority() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 3, 0)).await.unwrap();
    let refused = async |cluster: &LocalCluster, id: u64| {
        let answer = support::until("an answer", || async {
            match cluster.client().remove(v1::RemoveRequest { id }).await {
                Err(ClientError::Refused(refusal)) => Some(refusal),
                Ok(reply) => panic!("{reply:?}"),
                Err(_) => None,
            }
        });
        answer.await
    };

    // A learner has no part in the majority until it is promoted.
    let learner = cluster.add_scheduler(Seat::Learner).unwrap();
    support::until("a learner", || async {
        let members = status(&cluster).await?.members;
        let found = members.iter().find(|member| member.id == learner)?;
        (found.role == "learner" && found.healthy).then_some(())
    })
    .await;
    cluster.client().promote(v1::PromoteRequest { id: learner }).await.unwrap();
    voters_are(&cluster, &[1, 2, 3, 4]).await;
    let warnings = status(&cluster).await.unwrap().warnings;
    assert_eq!(warnings, ["4 voters bear the loss of 1, as 3 do"]);
    remove(&cluster, learner).await;
    voters_are(&cluster, &[1, 2, 3]).await;
    cluster.schedulers.pop();

    // With one of three dead the two others need each other.
    let old = leader_after(&cluster, None).await;
    let dead = old % 3 + 1;
    let other = dead % 3 + 1;
    kill(&mut cluster, &[dead]).await;
    support::until("the dead one to be missed", || async {
        let members = status(&cluster).await?.members;
        members.iter().find(|member| member.id == dead && !member.healthy).map(drop)
    })
    .await;
    let refusal = refused(&cluster, other).await;
    assert_eq!(refusal.code, Code::FailedPrecondition);
    let expected = format!("without scheduler {other} too few of the others answer to go on");
    assert_eq!(refusal.message, expected);
    remove(&cluster, dead).await;
    remove(&cluster, other).await;
    voters_are(&cluster, &[old]).await;
    assert_eq!(refused(&cluster, old).await.message, format!("scheduler {old} has the last vote"));
    assert_eq!(refused(&cluster, 9).await.code, Code::NotFound);
    cluster.stop().await;
}

/// With its data, and with nothing but the key that it joined by.
async fn check_that_it_stays_out(cluster: &LocalCluster, data_dir: &Path, address: &str) {
    check_that_it_ends(cluster, data_dir, address).await;
    // The founder has no such key.
    if data_dir.join("joining.json").exists() {
        std::fs::remove_file(data_dir.join("scheduler.json")).unwrap();
        std::fs::remove_dir_all(data_dir.join("raft")).unwrap();
        check_that_it_ends(cluster, data_dir, address).await;
    }
}

async fn check_that_it_ends(cluster: &LocalCluster, data_dir: &Path, address: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.args(["scheduler", "--join", &cluster.servers().join(",")]);
    command.arg("--data-dir").arg(data_dir).args(["--listen", address]);
    command.args(["--http", "127.0.0.1:0", "--log-level", "off"]).envs(TRIAL_SETTINGS);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("was removed from"), "{said}");
}
