//! What jobs get that say no policy.

use std::sync::Arc;

use berth_model::{Name, Policy};
use berth_proto::v1;
use berth_state::{ClusterState, Command};
use berth_wire::spec::{policy_from_proto, policy_to_proto};
use tonic::Status;

use super::{Shared, settle, status};
use crate::access::Granted;
use crate::leader::Leader;

pub async fn set(
    granted: &Granted,
    leader: Arc<Leader>,
    asked: v1::SetPolicyDefaultRequest,
) -> Result<v1::SetPolicyDefaultReply, Status> {
    let named = |text: &str| {
        Name::new(text).map_err(|error| status::invalid_field("pool", error.to_string()))
    };
    let pool = asked.pool.as_deref().map(named).transpose()?;
    let known = |number: i32| {
        let names = Policy::ALL.map(Policy::name).join(", ");
        let wrong = || status::invalid_field("policy", format!("expected one of {names}"));
        policy_from_proto(number).ok_or_else(wrong)
    };
    let policy = asked.policy.map(known).transpose()?;
    granted.about(match &pool {
        Some(pool) => format!("the default policy of pool {pool}"),
        None => "the default policy of the cluster".to_owned(),
    });
    settle(&leader, Command::SetPolicyDefault { pool: pool.clone(), policy }).await?;
    let view = leader.published.view();
    let warning = pool.filter(|_| policy.is_some()).and_then(|pool| without_nodes(&view, &pool));
    Ok(v1::SetPolicyDefaultReply { warnings: warning.into_iter().collect() })
}

/// What may be a slip of the pen. Nodes may come later, so that it is no more than a warning.
fn without_nodes(view: &ClusterState, pool: &Name) -> Option<String> {
    let has_nodes = view.nodes().values().any(|node| node.spec.pool == *pool);
    (!has_nodes).then(|| format!("no node is in pool `{pool}`"))
}

pub async fn list(
    shared: &Shared,
    granted: &Granted,
    _leader: Option<Arc<Leader>>,
    asked: v1::ListPolicyDefaultsRequest,
) -> Result<v1::ListPolicyDefaultsReply, Status> {
    let view = shared.read(granted, asked.consistency).await?;
    let defaults = &view.state.cluster().policies;
    let told = |pool: Option<&Name>, policy: Policy| v1::PolicyDefault {
        pool: pool.map(Name::to_string),
        policy: policy_to_proto(policy),
    };
    let cluster = defaults.cluster.map(|policy| told(None, policy));
    let pools = defaults.pools.iter().map(|(pool, policy)| told(Some(pool), *policy));
    let defaults = cluster.into_iter().chain(pools).collect();
    Ok(v1::ListPolicyDefaultsReply { defaults, stale_ms: view.stale_ms })
}
