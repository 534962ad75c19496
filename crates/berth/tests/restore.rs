//! A backup is restored into new schedulers while workers of a later time run:
//! none of them is touched, nothing is given out twice, and what the backup
//! does not know is shown with its way out.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use berth::local::{Gpus, LocalCluster};
use berth_client::Client;
use berth_model::{GpuRequest, JobKind, JobSpec};
use berth_proto::v1;
use berth_scheduler::Seat;

use support::processes;
use support::schedulers::{kill, leader_after};

/// Says who it is and on what, each start on a line of its own, and stays.
const STAYS: &str = "echo $$ $CUDA_VISIBLE_DEVICES >> SEEN/$BERTH_ALLOC_ID; exec sleep 600";
/// The same, until it is told to end.
const ENDS: &str = "echo $$ >> SEEN/$BERTH_ALLOC_ID; until [ -e SEEN/../end ]; do sleep 0.1; done";

fn job(name: &str, count: u32, gpus: u32, script: &str, seen: &Path) -> JobSpec {
    let script = script.replace("SEEN", &seen.display().to_string());
    let mut spec = support::batch(name, count, support::shell(&script));
    spec.tasks[0].gpu = (gpus > 0).then_some(GpuRequest::whole(gpus));
    spec
}

fn berth(cluster: &LocalCluster, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(arguments)
        .env("BERTH_SERVER", cluster.servers().join(","))
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Every worker that ever said who it is: its process and devices, by
/// allocation. One that was started twice has two lines.
fn seen(folder: &Path) -> BTreeMap<String, Vec<String>> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let lines = std::fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, lines.lines().map(str::to_owned).collect())
        })
        .collect()
}

fn is_alive(line: &str) -> bool {
    processes::is_alive(line.split(' ').next().unwrap().parse().unwrap())
}

/// Workers that are alive, with what they said.
fn alive(folder: &Path) -> BTreeMap<String, String> {
    let all = seen(folder).into_iter().flat_map(|(id, lines)| {
        lines.into_iter().map(move |line| (id.clone(), line)).collect::<Vec<_>>()
    });
    all.filter(|(_, line)| is_alive(line)).collect()
}

async fn until_alive(folder: &Path, count: usize) -> BTreeMap<String, String> {
    support::until(&format!("{count} workers to run"), || async {
        let alive = alive(folder);
        (alive.len() == count).then_some(alive)
    })
    .await
}

/// No device is held by two workers that are alive.
async fn check_devices(client: &Client, folder: &Path) {
    let alive = alive(folder);
    let nodes = client.list_nodes(v1::ListNodesRequest { consistency: 0 }).await.unwrap().nodes;
    let mut held = BTreeSet::new();
    for (id, line) in &alive {
        for device in line.split(' ').nth(1).unwrap_or_default().split(',') {
            assert!(device.is_empty() || held.insert(device), "{device} of {id} is held twice");
        }
    }
    // What the cluster counts as given out is what is really held.
    let given: u32 =
        nodes.iter().flat_map(|node| &node.devices).map(|one| one.allocated_milli).sum();
    assert_eq!(given as usize, held.len() * 1000);
}

async fn status(client: &Client) -> Option<v1::ClusterStatus> {
    client.status(v1::StatusRequest { consistency: 0 }).await.ok()
}

/// Twenty workers. When the backup was made two of them waited for a GPU, and
/// six belong to a job that nobody had thought of yet; thirteen others ran then
/// and have ended since.
struct Scene {
    cluster: LocalCluster,
    backup: PathBuf,
    seen: PathBuf,
    /// Ran when the backup was made, and have ended since.
    passing: u64,
    /// Waited when the backup was made.
    waiting: u64,
    late: u64,
}

async fn scene(folder: &Path) -> Scene {
    let mut plan = support::plan(&folder.join("cluster"), 3, 2);
    plan.gpus = Gpus::Simulated("8xH100-80GB".to_owned());
    let cluster = LocalCluster::start(plan).await.unwrap();
    let client = cluster.client();
    let seen = folder.join("seen");
    std::fs::create_dir(&seen).unwrap();
    support::submit(&client, &job("many", 10, 0, STAYS, &seen)).await;
    let mut serving = job("serving", 2, 1, STAYS, &seen);
    serving.kind = JobKind::Service;
    support::submit(&client, &serving).await;
    let passing = support::submit(&client, &job("passing", 14, 1, ENDS, &seen)).await;
    until_alive(&seen, 26).await;
    let waiting = support::submit(&client, &job("waiting", 2, 1, STAYS, &seen)).await;

    let backup = folder.join("cluster.backup");
    let path = backup.display().to_string();
    let saved = said(&berth(&cluster, &["operator", "snapshot", "save", &path]));
    assert!(saved.contains("2 nodes, 4 jobs, 26 allocations"), "{saved}");

    std::fs::write(folder.join("end"), "").unwrap();
    support::job_when(&client, passing, "ends", |job| job.state == "succeeded").await;
    until_alive(&seen, 14).await;
    let late = support::submit(&client, &job("late", 6, 1, STAYS, &seen)).await;
    until_alive(&seen, 20).await;
    Scene { cluster, backup, seen, passing, waiting, late }
}

#[tokio::test]
async fn a_backup_is_restored_while_twenty_workers_run() {
    let folder = tempfile::tempdir().unwrap();
    let scene = scene(folder.path()).await;
    let Scene { mut cluster, backup, seen: seen_in, passing, waiting, late } = scene;
    let before = alive(&seen_in);
    let used: BTreeSet<String> = seen(&seen_in).into_keys().collect();

    let dead: Vec<_> = cluster.schedulers.iter().map(|one| (one.id, one.grpc.clone())).collect();
    let ids: Vec<u64> = dead.iter().map(|(id, _)| *id).collect();
    kill(&mut cluster, &ids).await;
    cluster.restore(&backup, 1001).unwrap();
    assert_eq!(cluster.add_scheduler(Seat::Voter).unwrap(), 1002);
    assert_eq!(cluster.add_scheduler(Seat::Voter).unwrap(), 1003);
    let client = cluster.client();
    let status = support::until("every node to say what is on it", || async {
        let status = status(&client).await?;
        let complete = status.awaited_nodes.is_empty() && status.members.len() == 3;
        complete.then_some(status)
    })
    .await;
    assert_eq!((status.incarnation, status.orphans), (2, 6));
    assert_eq!(status.removed, [1, 2, 3]);

    // Who ended in the lost time is known by the records on its node, who began
    // in it is taken back, and nobody was touched.
    let ended = support::job_when(&client, passing, "is known to have ended", |job| {
        job.state == "succeeded"
    });
    assert_eq!(ended.await.tasks[0].succeeded, 14);
    support::job_when(&client, waiting, "is taken back", |job| job.tasks[0].running == 2).await;
    assert_eq!(alive(&seen_in), before, "none was restarted or killed");

    // The job that the backup does not know is an orphan in each of its parts.
    let orphans = said(&berth(&cluster, &["orphan", "list", "--quiet"]));
    let orphans: Vec<&str> = orphans.lines().collect();
    let expected: Vec<String> = (0..6).map(|instance| format!("{late}.0.{instance}.1")).collect();
    let sorted: BTreeSet<&str> = orphans.iter().copied().collect();
    assert_eq!(sorted, expected.iter().map(String::as_str).collect());
    check_devices(&client, &seen_in).await;

    // New work takes what is free, and only that, under ids that never were.
    let new = support::submit(&client, &job("new", 16, 1, STAYS, &seen_in)).await;
    assert!(new > 1_000_000, "{new}");
    until_alive(&seen_in, 26).await;
    check_devices(&client, &seen_in).await;
    let came: BTreeSet<String> = seen(&seen_in).into_keys().collect();
    let fresh: Vec<_> = came.difference(&used).collect();
    assert_eq!(fresh.len(), 6, "no allocation id came twice: {fresh:?}");
    assert!(seen(&seen_in).values().all(|lines| lines.len() == 1), "nothing began twice");

    // One orphan ends by itself, one is ended by name, the rest by their node;
    // what they held is given out.
    let pid = |id: &str| before[id].split(' ').next().unwrap().parse().unwrap();
    processes::send(pid(&expected[0]), rustix::process::Signal::KILL);
    support::until("its end to be known", || async {
        (orphan_count(&client).await == 5).then_some(())
    })
    .await;
    said(&berth(&cluster, &["orphan", "stop", &expected[1]]));
    said(&berth(&cluster, &["orphan", "stop", "--node", "node-1"]));
    said(&berth(&cluster, &["orphan", "stop", "--node", "node-2"]));
    support::job_when(&client, new, "has the orphans' GPUs", |job| job.tasks[0].running == 12)
        .await;
    assert_eq!(orphan_count(&client).await, 0);
    check_devices(&client, &seen_in).await;
    let still = alive(&seen_in);
    let touched = before.keys().filter(|id| !still.contains_key(*id)).cloned();
    assert_eq!(touched.collect::<Vec<_>>(), expected, "only orphans were ended");

    // What the new incarnation agreed on outlives its leader.
    // All of them have a vote, or the loss of one would be too much.
    support::until("three voters", || async {
        let asked = v1::StatusRequest { consistency: 0 };
        let members = cluster.client().status(asked).await.ok()?.members;
        let voters = members.iter().filter(|member| member.role != "learner" && member.healthy);
        (voters.count() == 3).then_some(())
    })
    .await;
    let leader = leader_after(&cluster, None).await;
    kill(&mut cluster, &[leader]).await;
    leader_after(&cluster, Some(leader)).await;
    cluster.restart_scheduler(leader).unwrap();
    support::hashes_agree(&cluster.servers()).await;
    assert_eq!(alive(&seen_in), still);
    cluster.stop().await;
}

async fn orphan_count(client: &Client) -> usize {
    let listed = client.list_orphans(v1::ListOrphansRequest { consistency: 0 }).await;
    listed.map_or(usize::MAX, |listed| listed.orphans.len())
}

/// A scheduler that ends with the test.
struct Lone(std::process::Child);

impl Lone {
    fn start(data_dir: &Path, address: &str, more: &[&str], copies: Option<&Path>) -> Lone {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command.arg("scheduler").arg("--data-dir").arg(data_dir).args(["--listen", address]);
        command.args(["--http", "127.0.0.1:0", "--log-level", &support::log_level()]).args(more);
        if let Some(folder) = copies {
            command.env("BERTH_SCHEDULER__BACKUP__FOLDER", folder);
            command.env("BERTH_SCHEDULER__BACKUP__EVERY", "100ms");
            command.env("BERTH_SCHEDULER__BACKUP__KEEP", "2");
        }
        Lone(command.spawn().unwrap())
    }
}

impl Drop for Lone {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn copies_are_made_by_themselves_and_are_restored() {
    let folder = tempfile::tempdir().unwrap();
    let copies = folder.path().join("copies");
    let address = format!("127.0.0.1:{}", berth::local::free_ports(1).unwrap()[0]);
    let client = Client::new(berth_client::Options::new(vec![address.clone()]));
    let first = folder.path().join("first");
    let lone = Lone::start(&first, &address, &["--bootstrap"], Some(&copies));
    let mut submitted = Vec::new();
    let mut newest = PathBuf::new();
    for number in 0..4 {
        let spec = support::batch(&format!("job-{number}"), 1, support::shell("true"));
        submitted.push(support::submit(&client, &spec).await);
        newest = support::until("a copy with this job", || async {
            let mut files: Vec<PathBuf> =
                std::fs::read_dir(&copies).ok()?.map(|entry| entry.unwrap().path()).collect();
            files.retain(|file| file.extension().is_some_and(|end| end == "backup"));
            files.sort();
            let newest = files.pop()?;
            let mut show = Command::new(env!("CARGO_BIN_EXE_berth"));
            show.args(["operator", "snapshot", "show", "-o", "json"]).arg(&newest);
            let output = show.output().unwrap();
            // The oldest go while one looks.
            let shown: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            (shown["jobs"] == number + 1).then_some(newest)
        })
        .await;
    }
    drop(lone);
    let files = std::fs::read_dir(&copies).unwrap().count();
    assert!(files <= 3, "{files} files: two copies, and perhaps one that was being made");

    let second = folder.path().join("second");
    let mut restore = Command::new(env!("CARGO_BIN_EXE_berth"));
    restore.args(["operator", "snapshot", "restore", "--advertise", &address]);
    restore.args(["--await-at-least", "1h"]);
    restore.arg("--data-dir").arg(&second).arg(&newest);
    said(&restore.output().unwrap());
    let lone = Lone::start(&second, &address, &[], None);
    for id in submitted {
        support::job_when(&client, id, "is there", |job| job.state == "queued").await;
    }
    // Nobody was there to be awaited, but others might come.
    let shown = status(&client).await.unwrap();
    assert_eq!((shown.incarnation, shown.awaited_nodes.len(), shown.orphans), (2, 0, 0));
    assert!(shown.places_in_ms.is_some_and(|left| left > 3_500_000), "{shown:?}");
    client.resume(v1::ResumeRequest {}).await.unwrap();
    assert_eq!(status(&client).await.unwrap().places_in_ms, None);
    drop(lone);
}

/// No backup, and two of three disks are lost.
#[tokio::test]
async fn the_last_disk_of_three_is_enough_to_begin_anew() {
    let folder = tempfile::tempdir().unwrap();
    let plan = support::plan(&folder.path().join("cluster"), 3, 1);
    let mut cluster = LocalCluster::start(plan).await.unwrap();
    let client = cluster.client();
    let seen_in = folder.path().join("seen");
    std::fs::create_dir(&seen_in).unwrap();
    let stays = support::submit(&client, &job("stays", 2, 1, STAYS, &seen_in)).await;
    let before = until_alive(&seen_in, 2).await;
    // A part of it is in a snapshot, the rest only in the log.
    client.snapshot(v1::SnapshotRequest {}).await.unwrap();
    let last = support::submit(&client, &job("last", 1, 0, STAYS, &seen_in)).await;
    until_alive(&seen_in, 3).await;
    support::hashes_agree(&cluster.servers()).await;
    kill(&mut cluster, &[1, 2, 3]).await;
    let kept = cluster.schedulers[1].data_dir.clone();
    for lost in [0, 2] {
        std::fs::remove_dir_all(&cluster.schedulers[lost].data_dir).unwrap();
    }
    let backup = folder.path().join("salvaged.backup");
    let (file, dir) = (backup.display().to_string(), kept.display().to_string());
    let saved = berth(&cluster, &["operator", "snapshot", "save", &file, "--data-dir", &dir]);
    assert!(said(&saved).contains("its log ends at index"), "{saved:?}");
    let whole = said(&berth(&cluster, &["storage", "verify", "--data-dir", &dir]));
    assert!(whole.contains("whole: "), "nothing was written to it: {whole}");
    cluster.restore(&backup, 1001).unwrap();
    let client = cluster.client();
    support::until("the node to say what is on it", || async {
        status(&client).await.filter(|status| status.awaited_nodes.is_empty()).map(drop)
    })
    .await;
    for (id, running) in [(stays, 2), (last, 1)] {
        support::job_when(&client, id, "runs", |job| job.tasks[0].running == running).await;
    }
    let after = alive(&seen_in);
    assert!(before.iter().all(|worker| after.get(worker.0) == Some(worker.1)));
    assert_eq!((after.len(), orphan_count(&client).await), (3, 0));
    cluster.stop().await;
}
