//! The schedulers of a local cluster: who leads, and the end of some.

use berth::local::LocalCluster;

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
