//! Rolling upgrades, forth and back, while jobs are submitted and workers run;
//! and what an older build does with a cluster that has moved on.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use berth::local::{LocalCluster, LocalScheduler};
use berth_client::{Client, Options};
use berth_proto::v1;
use rustix::process::Signal;

use support::gates::Gates;
use support::load::Load;
use support::processes;
use support::schedulers::{check_refused, join_until_it_ends, run_until_it_ends};

const WORKERS: u32 = 10;

struct Upgrade {
    cluster: LocalCluster,
    load: Load,
}

impl Upgrade {
    /// One scheduler after the other ends in order and comes back as another
    /// program, as an operator does it: the next one when all are well.
    async fn roll(&mut self, program: &Path) {
        for id in [1, 2, 3] {
            self.roll_one(id, program).await;
        }
    }

    async fn roll_one(&mut self, id: u64, program: &Path) {
        self.stop(id).await;
        self.cluster.run_with(program.to_owned());
        self.cluster.restart_scheduler(id).unwrap();
        let what = format!("all to be well again with scheduler {id}");
        support::until(&what, || async {
            let members = status(&self.cluster).await?.members;
            (members.len() == 3 && members.iter().all(is_well)).then_some(())
        })
        .await;
        self.load.goes_on().await;
    }

    async fn stop(&mut self, id: u64) {
        let mut schedulers = self.cluster.schedulers.iter_mut();
        let child = &mut schedulers.find(|one| one.id == id).unwrap().child;
        processes::send(child.pid, Signal::TERM);
        assert!(child.ended().await.unwrap().success(), "scheduler {id} ends in order");
    }

    fn scheduler(&self, id: u64) -> &LocalScheduler {
        self.cluster.schedulers.iter().find(|one| one.id == id).unwrap()
    }

    async fn restart_agent(&mut self, name: &str) {
        let mut agents = self.cluster.agents.iter_mut();
        let child = &mut agents.find(|agent| agent.name == name).unwrap().child;
        processes::send(child.pid, Signal::KILL);
        let _ = child.ended().await.unwrap();
        self.cluster.restart_agent(name).unwrap();
        let client = self.cluster.client();
        let what = format!("{name} to be there again");
        support::until(&what, || async {
            (support::node_state(&client, name).await? == "ready").then_some(())
        })
        .await;
        self.load.goes_on().await;
    }

    async fn finalize(&self) -> v1::FinalizeReply {
        // It is refused while one of them does not answer within a second.
        support::until("all of them to say what they know", || async {
            self.cluster.client().finalize(v1::FinalizeRequest {}).await.ok()
        })
        .await
    }
}

async fn status(cluster: &LocalCluster) -> Option<v1::ClusterStatus> {
    cluster.client().status(v1::StatusRequest { consistency: 0 }).await.ok()
}

/// It answers, has nearly all of the log, and says what it is.
fn is_well(member: &v1::Member) -> bool {
    member.healthy && member.cluster_version_max.is_some()
}

#[tokio::test]
async fn f21_two_versions_share_a_cluster_and_an_older_one_stops_at_the_future() {
    let next = tokio::task::spawn_blocking(support::programs::next).await.unwrap();
    let old = PathBuf::from(env!("CARGO_BIN_EXE_berth"));
    let folder = tempfile::tempdir().unwrap();
    let gates = Gates::new(folder.path(), WORKERS);
    let cluster = LocalCluster::start(support::plan(folder.path(), 3, 2)).await.unwrap();
    let workers = support::batch("workers", WORKERS, gates.command());
    let job = support::submit(&cluster.client(), &workers).await;
    support::job_when(&cluster.client(), job, "runs", |job| {
        job.tasks[0].running == u64::from(WORKERS)
    })
    .await;
    let pids: Vec<u32> = (0..WORKERS).map(|index| gates.pids(index)[0]).collect();
    let load = Load::start(cluster.client());
    let mut upgrade = Upgrade { cluster, load };

    // Mixed: the one that knows more changes nothing, and may not.
    upgrade.roll_one(1, &next).await;
    let held = upgrade.finalize().await;
    assert_eq!((held.cluster_version, held.raised), (1, false));
    assert_eq!(held.held_back_by, [2, 3]);
    upgrade.cluster.client().transfer(v1::TransferRequest { to: Some(1) }).await.unwrap();
    support::until("the newer one to lead", || async {
        (status(&upgrade.cluster).await?.leader_id == Some(1)).then_some(())
    })
    .await;
    let held = upgrade.finalize().await;
    assert_eq!((held.cluster_version, held.raised), (1, false));
    assert_eq!(held.held_back_by, [2, 3]);
    upgrade.load.goes_on().await;

    // All of them, agents too; and back.
    for program in [&next, &old] {
        upgrade.roll(program).await;
        for agent in ["node-1", "node-2"] {
            upgrade.restart_agent(agent).await;
        }
        let shown = status(&upgrade.cluster).await.unwrap();
        assert_eq!(shown.cluster_version, 1);
    }
    upgrade.roll(&next).await;
    assert_eq!(upgrade.load.so_far().failed, Vec::<String>::new(), "no submit failed");

    let raised = upgrade.finalize().await;
    assert_eq!((raised.cluster_version, raised.raised), (2, true));
    assert_eq!(raised.held_back_by, Vec::<u64>::new());
    assert!(!upgrade.finalize().await.raised, "there is no further version");
    upgrade.load.goes_on().await;
    check_that_an_older_one_stops(&mut upgrade, &old, &next).await;
    check_that_an_older_one_stays_out(&upgrade, &old, folder.path()).await;

    let Upgrade { cluster, load } = upgrade;
    let outcome = load.end().await;
    outcome.check_nothing_lost(&cluster.client()).await;
    check_that_decisions_changed_once(outcome.acknowledged.values().copied());
    support::hashes_agree(&cluster.servers()).await;
    let after: Vec<u32> = (0..WORKERS).map(|index| gates.pids(index)[0]).collect();
    assert_eq!(after, pids, "every worker ran once, as one process");
    assert!(pids.iter().all(|pid| processes::is_alive(*pid)), "workers live on");
    cluster.stop().await;
}

/// It stops before the entry that it does not understand, and before a snapshot
/// of what came after.
async fn check_that_an_older_one_stops(upgrade: &mut Upgrade, old: &Path, next: &Path) {
    for what in ["entry is not for this build", "snapshot is not for this build"] {
        upgrade.stop(3).await;
        let output = run_until_it_ends(old, upgrade.scheduler(3)).await;
        check_refused(&output, &[what, "the cluster is at version 2", "up to 1; a newer one"]);
        // Nothing of its data was touched: the newer one goes on from there.
        upgrade.cluster.run_with(next.to_owned());
        upgrade.cluster.restart_scheduler(3).unwrap();
        let client = Client::new(Options::new(vec![upgrade.scheduler(3).grpc.clone()]));
        let here = v1::StatusRequest { consistency: v1::Consistency::Stale.into() };
        support::until("a snapshot of scheduler 3 beyond the raise", || async {
            let version = client.status(here).await.ok()?.cluster_version;
            if version < 2 {
                return None;
            }
            client.snapshot(v1::SnapshotRequest {}).await.ok()
        })
        .await;
    }
    upgrade.load.goes_on().await;
}

/// A new scheduler of the older build is not given an id.
async fn check_that_an_older_one_stays_out(upgrade: &Upgrade, old: &Path, folder: &Path) {
    let output = join_until_it_ends(old, &upgrade.cluster, &folder.join("newcomer")).await;
    check_refused(&output, &["the cluster is at version 2"]);
    assert_eq!(status(&upgrade.cluster).await.unwrap().members.len(), 3);
}

/// The one thing that version 2 changes: ids are two apart from there on,
/// whoever led before.
fn check_that_decisions_changed_once(ids: impl Iterator<Item = u64>) {
    let ids: Vec<u64> = ids.collect::<BTreeSet<u64>>().into_iter().collect();
    let steps: Vec<u64> = ids.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let before = steps.iter().take_while(|step| **step == 1).count();
    assert!(before > 0 && before < steps.len(), "{steps:?}");
    assert!(steps[before..].iter().all(|step| *step == 2), "{steps:?}");
}
