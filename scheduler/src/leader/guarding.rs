//! Proposes what a look at the hosts came to: nodes that are closed or opened, and who leaves one
//! that runs out of memory.

use berth_reconcile::Relief;
use berth_state::Command;
use berth_wire::log::v1 as log;
use tracing::{info, warn};

use super::Leader;

/// What is to be proposed.
#[derive(Default)]
pub(super) struct Guarding {
    /// Guards that change, as many as fit an entry of the log.
    pub changes: Vec<Command>,
    pub reliefs: Vec<Relief>,
}

pub(super) async fn propose(leader: &Leader, guarding: Guarding) {
    let Guarding { changes, reliefs } = guarding;
    if !changes.is_empty() {
        let now = leader.clock.now();
        for command in &changes {
            if let Command::SetGuards { node, guards } = command {
                info!(node_id = %node, %guards, "what the host is short of has changed");
                leader.soft().hosts.has_proposed(*node, now);
            }
        }
        let bytes = changes.iter().map(log::encoded_len).sum();
        // One that was not taken is proposed again before long.
        let _ = leader.propose_all(changes, bytes).await;
    }
    for Relief { node, command } in reliefs {
        leader.soft().hosts.has_moved(node, leader.clock.now());
        match leader.propose(command).await {
            Ok(Ok(_)) => {
                info!(node_id = %node, "work leaves a host that runs out of memory");
                metrics::counter!("berth_memory_moves_total").increment(1);
            }
            Ok(Err(refusal)) => warn!(node_id = %node, %refusal, "order refused"),
            Err(_) => return,
        }
    }
}
