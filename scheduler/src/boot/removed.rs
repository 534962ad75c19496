//! A scheduler that was removed ends. Raft may never tell it: the others stop
//! talking to it. So one that hears no leader asks them.

use std::time::Duration;

use berth_proto::v1;
use berth_proto::v1::operator_client::OperatorClient;
use tracing::debug;

use super::formation::connect;
use crate::identity::to_hex;
use crate::rpc::Shared;

/// How long no leader speaks before it asks, and how often it asks again.
const ASK_AFTER: Duration = Duration::from_secs(3);

/// Resolves when the cluster says that this scheduler was removed.
pub(super) async fn removed(shared: Shared) {
    let own = shared.node.node_id();
    loop {
        tokio::time::sleep(ASK_AFTER).await;
        let heard = shared.node.leader_heard_ms();
        if heard.is_some_and(|heard| u128::from(heard) < ASK_AFTER.as_millis()) {
            continue;
        }
        let members = shared.node.status().members;
        for member in members.iter().filter(|member| member.id != own) {
            match says_removed(&shared, &member.address).await {
                Ok(true) => return,
                Ok(false) => break,
                Err(error) => debug!(peer = member.id, %error, "not asked about removal"),
            }
        }
    }
}

/// What the cluster says through a member: a majority stands behind it.
async fn says_removed(shared: &Shared, address: &str) -> anyhow::Result<bool> {
    let mut client = OperatorClient::new(connect(address).await?);
    let status = client.status(v1::StatusRequest { consistency: 0 }).await?.into_inner();
    let same_cluster = status.cluster_id == to_hex(&shared.cluster_id);
    Ok(same_cluster && status.removed.contains(&shared.node.node_id()))
}
