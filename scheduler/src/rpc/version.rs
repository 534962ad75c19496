//! The cluster version: raised when every scheduler knows the next one, and
//! only when somebody says so, since there is no way back.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_proto::v1;
use berth_state::{CLUSTER_VERSION_MAX, Command, NewerCluster, Refusal};
use tonic::Status;

use super::{Shared, status};
use crate::access::Granted;
use crate::leader::Leader;
use crate::peers::ask_all;

pub async fn finalize(
    shared: &Shared,
    granted: &Granted,
    leader: Arc<Leader>,
) -> Result<v1::FinalizeReply, Status> {
    let mut known = BTreeMap::from([(shared.node.node_id(), CLUSTER_VERSION_MAX)]);
    let mut silent = BTreeMap::new();
    for (scheduler, said) in ask_all(&shared.node).await {
        match said {
            Ok(report) => drop(known.insert(scheduler, report.cluster_version_max)),
            Err(error) => drop(silent.insert(scheduler, error)),
        }
    }
    let view = shared.published.view();
    for (scheduler, row) in &view.cluster().schedulers {
        // It has an id and is no member yet.
        if row.seat.is_some() && !known.contains_key(scheduler) {
            silent.entry(*scheduler).or_insert_with(|| "it is still joining".to_owned());
        }
    }
    if !silent.is_empty() {
        return Err(status::silent_schedulers(&silent));
    }
    let found = view.cluster().cluster_version;
    let target = known.values().copied().min().unwrap_or(found).max(found);
    granted.about(format!("cluster version {target}"));
    for version in found + 1..=target {
        raise(&leader, version).await?;
    }
    let newest = known.values().copied().max().unwrap_or(target);
    let behind = known.iter().filter(|(_, max)| **max <= target && target < newest);
    Ok(v1::FinalizeReply {
        cluster_version: target,
        raised: target > found,
        held_back_by: behind.map(|(scheduler, _)| *scheduler).collect(),
    })
}

/// Somebody else may have raised it meanwhile.
async fn raise(leader: &Leader, version: u32) -> Result<(), Status> {
    let answer = leader.propose(Command::RaiseClusterVersion { version }).await;
    match answer.map_err(|error| status::from_propose(&error))? {
        Ok(_) => Ok(()),
        Err(Refusal::ClusterVersion { found, .. }) if found >= version => Ok(()),
        Err(refusal) => Err(status::from_refusal(&refusal)),
    }
}

/// Whether a scheduler that knows versions up to `max` can come into a cluster;
/// 0 stands for one that does not say.
///
/// # Errors
/// It would stop at the first entry.
pub fn check_newcomer(shared: &Shared, max: u32) -> Result<(), Status> {
    let found = shared.published.view().cluster().cluster_version;
    if max.max(1) >= found {
        return Ok(());
    }
    Err(status::too_old_to_join(&NewerCluster { found, known: max.max(1) }))
}
