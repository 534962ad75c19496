//! Terms of leadership, as they begin and end.

use std::sync::Arc;
use std::time::Duration;

use berth_raft::Role;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app::Published;
use crate::leader::{Leader, LeaderSettings, Node};

/// A node that leads and could not confirm it asks again after this.
const BEGIN_RETRY: Duration = Duration::from_millis(20);

/// Begins and ends terms of leadership as Raft says.
pub(super) async fn follow_leadership(
    node: Node,
    published: Arc<Published>,
    settings: LeaderSettings,
    leader: watch::Sender<Option<Arc<Leader>>>,
    stop: CancellationToken,
) {
    let mut changes = node.status_changes();
    loop {
        let raft = changes.current();
        let present = leader.borrow().clone();
        let leads = raft.role == Role::Leader;
        let same = present.as_ref().is_some_and(|present| leads && present.term == raft.term);
        if !same {
            if let Some(old) = present {
                old.end();
                leader.send_replace(None);
            }
            // Leading begins when everything committed before is applied: a
            // decision on less could give a device twice in one view.
            if leads && node.read_index().await.is_ok() && node.status().term == raft.term {
                let term = raft.term;
                let begun = Leader::begin(term, node.clone(), published.clone(), settings);
                leader.send_replace(Some(begun));
            }
        }
        let undecided = leads && leader.borrow().is_none();
        let again = async {
            if undecided {
                tokio::time::sleep(BEGIN_RETRY).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_none() { break },
            () = again => {}
            () = stop.cancelled() => break,
        }
    }
    let last = leader.borrow().clone();
    if let Some(last) = last {
        last.end();
        leader.send_replace(None);
    }
}
