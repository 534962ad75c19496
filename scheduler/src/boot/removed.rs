//! A scheduler that was removed ends. Raft may never tell it: the others stop
//! talking to it. So one that hears no leader asks them.

use std::time::Duration;

use berth_proto::v1;
use berth_proto::v1::operator_client::OperatorClient;
use berth_raft::Timers;
use tracing::debug;

use super::formation::connect;
use crate::identity::to_hex;
use crate::rpc::{Shared, status};

/// How long no leader speaks at least before it asks, and how often it asks
/// again; longer than an election where those are slow.
const ASK_AFTER: Duration = Duration::from_secs(3);

/// Resolves when the cluster says that this scheduler was removed. It asks the
/// members that it knows and `others`: one that never became a member knows
/// none.
pub(super) async fn removed(shared: Shared, others: Vec<String>, timers: Timers) {
    let own = shared.node.node_id();
    let ask_after = ASK_AFTER.max(2 * Duration::from_millis(timers.election_max_ms));
    loop {
        tokio::time::sleep(ask_after).await;
        let heard = shared.node.leader_heard_ms();
        if heard.is_some_and(|heard| u128::from(heard) < ask_after.as_millis()) {
            continue;
        }
        let members = shared.node.status().members;
        let peers = members.iter().filter(|member| member.id != own);
        for address in peers.map(|member| &member.address).chain(&others) {
            match says_removed(&shared, address).await {
                Ok(true) => return,
                Ok(false) => break,
                Err(error) => debug!(address, %error, "not asked about removal"),
            }
        }
    }
}

/// What the cluster says through a member: a majority stands behind it.
async fn says_removed(shared: &Shared, address: &str) -> anyhow::Result<bool> {
    let mut client = OperatorClient::new(connect(address, &shared.dialer).await?);
    let status = match client.status(v1::StatusRequest { consistency: 0 }).await {
        Ok(status) => status.into_inner(),
        // With TLS only a person may ask for the status; but a scheduler that
        // has left is told that its certificate counts no more.
        Err(refused) => return Ok(status::says_revoked(&refused)),
    };
    let same_cluster = status.cluster_id == to_hex(&shared.cluster_id);
    let own = shared.node.node_id();
    // Until it has left Raft the others may need its vote.
    let still_needed = status.members.iter().any(|member| member.id == own);
    Ok(same_cluster && status.removed.contains(&own) && !still_needed)
}
