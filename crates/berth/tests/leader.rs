//! Who leads, and what everybody else answers: forwarding, reads, the loss of
//! the majority, a planned stop, and data directories that are not what they
//! should be.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use berth::local::{LocalCluster, TRIAL_SETTINGS};
use berth_client::{Client, Options};
use berth_model::JobSpec;
use rustix::process::Signal;
use tokio::sync::Mutex;
use tonic::Code;

use support::processes;
use support::raw::{self, Read};
use support::schedulers::{kill, leader_after};

/// Elections are measured in fractions of a second: one cluster at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn quick(name: &str) -> JobSpec {
    support::batch(name, 1, support::shell("true"))
}

/// Where the schedulers with these ids listen.
fn addresses(cluster: &LocalCluster, wanted: impl Fn(u64) -> bool) -> Vec<String> {
    let found = cluster.schedulers.iter().filter(|scheduler| wanted(scheduler.id));
    found.map(|scheduler| scheduler.grpc.clone()).collect()
}

#[tokio::test]
async fn any_scheduler_takes_a_submit_and_reads_what_another_acknowledged() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 3, 1)).await.unwrap();
    let old = leader_after(&cluster, None).await;
    check_that_all_serve(&cluster.servers(), "whole").await;

    kill(&mut cluster, &[old]).await;
    leader_after(&cluster, Some(old)).await;
    check_that_all_serve(&addresses(&cluster, |id| id != old), "two").await;

    // The one that led comes back as one of those who forward.
    cluster.restart_scheduler(old).unwrap();
    support::hashes_agree(&cluster.servers()).await;
    assert_ne!(leader_after(&cluster, None).await, old, "it did not take the lead again");
    check_that_all_serve(&cluster.servers(), "back").await;
    cluster.stop().await;
}

/// Each server takes a submit, which each server then shows at once.
async fn check_that_all_serve(servers: &[String], round: &str) {
    for (number, server) in servers.iter().enumerate() {
        let name = format!("{round}-{number}");
        // An election may just be over, and not yet known to everybody.
        let reply = support::until(&format!("{server} to take a submit"), || async {
            raw::submit(server, &quick(&name), &name).await.ok()
        })
        .await;
        for reader in servers {
            let what = format!("{reader} to read {name}");
            let job = support::until(&what, || async {
                match raw::get(reader, &name, Read::Linearizable).await {
                    Err(status) if status.code() == Code::Unavailable => None,
                    answer => Some(answer),
                }
            });
            let job = job.await.unwrap_or_else(|status| panic!("{reader} reads {name}: {status}"));
            assert_eq!(job.id, reply.job_id, "{name} as {reader} shows it");
        }
    }
}

#[tokio::test]
async fn f03_one_of_three_refuses_at_once_and_shows_what_it_knows() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 3, 1)).await.unwrap();
    let client = cluster.client();
    let mut acknowledged = Vec::new();
    // Left alone once as the leader and once as a follower.
    for (round, alone_as) in [("leader", Alone::Leads), ("follower", Alone::Follows)] {
        for number in 0..5 {
            let name = format!("{round}-{number}");
            acknowledged.push((support::submit(&client, &quick(&name)).await, name));
        }
        support::hashes_agree(&cluster.servers()).await;
        let leader = leader_after(&cluster, None).await;
        let alone = match alone_as {
            Alone::Leads => leader,
            Alone::Follows => leader % 3 + 1,
        };
        let others: Vec<u64> = (1..=3).filter(|id| *id != alone).collect();
        kill(&mut cluster, &others).await;
        let server = addresses(&cluster, |id| id == alone).remove(0);
        check_that_it_refuses(&server, round, &acknowledged).await;

        for other in others {
            cluster.restart_scheduler(other).unwrap();
        }
        for (id, name) in &acknowledged {
            let shown = support::job_when(&client, *id, "is there", |_| true).await;
            assert_eq!(&shown.name, name);
        }
        support::hashes_agree(&cluster.servers()).await;
    }
    for (id, name) in &acknowledged {
        let ended = support::job_when(&client, *id, "ends", |job| job.finished_at_ms.is_some());
        assert_eq!(ended.await.state, "succeeded", "{name}");
    }
    cluster.stop().await;
}

enum Alone {
    Leads,
    Follows,
}

async fn check_that_it_refuses(server: &str, round: &str, acknowledged: &[(u64, String)]) {
    for attempt in 0..3 {
        let key = format!("{round}-refused-{attempt}");
        raw::is_refused("submit", raw::submit(server, &quick(&key), &key)).await;
    }
    let (id, name) = acknowledged.last().unwrap();
    raw::is_refused("read", raw::get(server, name, Read::Linearizable)).await;
    let stale = raw::get(server, name, Read::Stale).await.unwrap();
    assert_eq!((stale.id, stale.name.as_str()), (*id, name.as_str()));
    // Since a majority last answered the leader; since the leader was last heard.
    assert!(stale.stale_ms.is_some_and(|age| age < 600_000), "{:?}", stale.stale_ms);

    let shown = berth(&["job", "show", name, "--stale", "--server", server]);
    assert!(shown.status.success(), "{shown:?}");
    assert!(String::from_utf8_lossy(&shown.stdout).contains(name.as_str()), "{shown:?}");
    let refused = berth(&["job", "show", name, "--server", server]);
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(complaint.contains("--stale"), "the way out is told: {complaint}");
}

fn berth(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_berth")).args(arguments).envs(TRIAL_SETTINGS).output().unwrap()
}

#[tokio::test]
async fn a_planned_stop_of_the_leader_fails_no_submit() {
    let _turn = ONE_AT_A_TIME.lock().await;
    const STOPS: usize = 3;
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 3, 1)).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    // On a machine that does far too much an election may take a client's
    // usual patience; a submit that fails for another reason fails at once.
    let patience = Options { deadline: Duration::from_secs(60), ..Options::new(cluster.servers()) };
    let submitting = tokio::spawn(submit_until(Client::new(patience), done.clone()));
    for _ in 0..STOPS {
        let old = leader_after(&cluster, None).await;
        let scheduler = cluster.schedulers.iter_mut().find(|one| one.id == old).unwrap();
        processes::send(scheduler.child.pid, Signal::TERM);
        let ended = support::until("the leader to end", || {
            let ended = scheduler.child.has_ended();
            async move { ended }
        });
        let ended = ended.await;
        assert!(ended.success(), "scheduler {old}: {ended}");
        leader_after(&cluster, Some(old)).await;
        cluster.restart_scheduler(old).unwrap();
        support::hashes_agree(&cluster.servers()).await;
    }
    done.store(true, Ordering::Relaxed);
    let (submitted, slowest) = submitting.await.unwrap();
    eprintln!("{submitted} submits, the slowest in {slowest:?}");
    assert!(submitted >= STOPS * 3, "the submits went on: {submitted}");
    cluster.stop().await;
}

/// Submits one job after the other, none of which may fail.
async fn submit_until(client: Client, done: Arc<AtomicBool>) -> (usize, Duration) {
    let mut slowest = Duration::ZERO;
    let mut submitted = 0;
    while !done.load(Ordering::Relaxed) {
        let name = format!("planned-{submitted}");
        let began = Instant::now();
        let reply = client.submit(support::request(&quick(&name), &name)).await;
        reply.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        slowest = slowest.max(began.elapsed());
        submitted += 1;
    }
    (submitted, slowest)
}

#[tokio::test]
async fn a_scheduler_refuses_data_that_is_not_its_own() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(folder.path(), 3, 0)).await.unwrap();
    let client = cluster.client();
    for number in 0..20 {
        support::submit(&client, &quick(&format!("data-{number}"))).await;
    }
    support::hashes_agree(&cluster.servers()).await;
    kill(&mut cluster, &[2, 3]).await;
    let second = cluster.schedulers[1].data_dir.clone();
    let listens = cluster.schedulers[2].grpc.clone();

    let check = |data_dir: &Path, names: &Path, says: &str| {
        let output = berth(&[
            "scheduler",
            "--data-dir",
            data_dir.to_str().unwrap(),
            "--listen",
            &listens,
            "--http",
            "127.0.0.1:0",
            "--log-level",
            "off",
        ]);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{complaint}");
        assert!(complaint.contains(&names.display().to_string()), "{names:?} in: {complaint}");
        assert!(complaint.contains(says), "`{says}` in: {complaint}");
        assert!(!complaint.contains("panicked"), "{complaint}");
    };
    // Another node's directory.
    check(&second, &second.join("scheduler.json"), "is known to its cluster at");
    // Another node's store in this node's directory.
    let mixed = copy_of(&cluster.schedulers[2].data_dir, folder.path(), "mixed");
    std::fs::remove_dir_all(mixed.join("raft")).unwrap();
    copy(&second.join("raft"), &mixed.join("raft"));
    check(&mixed, &mixed.join("raft"), "belongs to node 2");
    check_what_verify_says(&cluster, &second, &mixed, folder.path());
    // A directory without its store, with an empty one, and with nothing.
    let emptied = copy_of(&cluster.schedulers[2].data_dir, folder.path(), "emptied");
    std::fs::remove_dir_all(emptied.join("raft")).unwrap();
    check(&emptied, &emptied.join("raft"), "");
    std::fs::create_dir(emptied.join("raft")).unwrap();
    check(&emptied, &emptied.join("raft"), "");
    std::fs::remove_dir_all(emptied.join("raft")).unwrap();
    std::fs::remove_file(emptied.join("scheduler.json")).unwrap();
    check(&emptied, &emptied, "holds no scheduler");

    // What was not touched starts as ever.
    cluster.restart_scheduler(2).unwrap();
    cluster.restart_scheduler(3).unwrap();
    support::hashes_agree(&cluster.servers()).await;
    cluster.stop().await;
}

/// `berth storage verify` of a whole directory, of one in use, one mixed up and
/// a damaged one.
fn check_what_verify_says(cluster: &LocalCluster, whole: &Path, mixed: &Path, folder: &Path) {
    let check = |data_dir: &Path, code: i32, says: &str| {
        let output = berth(&["storage", "verify", "--data-dir", data_dir.to_str().unwrap()]);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(says), "`{says}` in: {said}");
    };
    check(whole, 0, "whole: log, snapshots and high-water mark agree");
    check(&cluster.schedulers[0].data_dir, 1, "in use by pid");
    check(mixed, 1, "belongs to scheduler 2, not to this one");
    check(folder, 1, "holds no scheduler");
    let damaged = copy_of(whole, folder, "damaged");
    std::fs::remove_file(damaged.join("raft/high-water")).unwrap();
    check(&damaged, 1, "raft/high-water: is missing");
    check(&damaged, 1, "hint: ");
}

fn copy_of(from: &Path, folder: &Path, name: &str) -> std::path::PathBuf {
    let to = folder.join(name);
    copy(from, &to);
    to
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
