//! The schedulers of a local cluster: who leads, the end of some, and those that
//! do not start.

use std::path::Path;
use std::process::Output;

use berth::local::{LocalCluster, LocalScheduler, TRIAL_SETTINGS};
use tokio::process::Command;

/// The leader that the cluster names, other than `old`.
pub async fn leader_after(cluster: &LocalCluster, old: Option<u64>) -> u64 {
    super::until("a leader", || async {
        cluster.leader().await.ok().filter(|leader| Some(*leader) != old)
    })
    .await
}

/// With SIGKILL.
pub async fn kill(cluster: &mut LocalCluster, ids: &[u64]) {
    for scheduler in cluster.schedulers.iter_mut().filter(|one| ids.contains(&one.id)) {
        scheduler.child.kill().await.unwrap();
    }
}

/// Runs a program on a scheduler's data until it ends by itself.
pub async fn run_until_it_ends(program: &Path, scheduler: &LocalScheduler) -> Output {
    let mut command = Command::new(program);
    command.args(["scheduler", "--listen", &scheduler.grpc, "--http", "127.0.0.1:0"]);
    command.arg("--data-dir").arg(&scheduler.data_dir);
    output_of(command).await
}

/// Runs a new scheduler, of the data in `folder`, until it ends by itself.
pub async fn join_until_it_ends(program: &Path, cluster: &LocalCluster, folder: &Path) -> Output {
    let mut command = Command::new(program);
    command.args(["scheduler", "--join", &cluster.servers().join(","), "--data-dir"]);
    command.arg(folder).args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    output_of(command).await
}

async fn output_of(mut command: Command) -> Output {
    command.args(["--log-level", "off"]).envs(TRIAL_SETTINGS).kill_on_drop(true);
    let ended = tokio::time::timeout(super::LIMIT, command.output()).await;
    ended.expect("the scheduler does not end").unwrap()
}

/// It ended in the way of whoever cannot go on, and says all of `parts`.
#[track_caller]
pub fn check_refused(output: &Output, parts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part}: {said}");
    }
}
