//! Workers that a restored cluster does not know: shown, and ended when an
//! operator says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::{AllocationId, Name, NodeId};
use berth_proto::v1;
use berth_state::{ClusterState, Command, NodeRow, OrphanRow};
use berth_wire::spec::{device_claim_to_proto, port_claim_to_proto};
use tonic::Status;

use super::{Shared, lookup, settle, status};
use crate::access::Granted;
use crate::leader::Leader;

/// Orphans in one command, so that it fits a log entry.
const IN_COMMAND_MAX: usize = 256;
/// Orphans named in one call.
const NAMED_MAX: usize = 10_000;
const REASON: &str = "an operator ended it";

impl Shared {
    pub async fn list_orphans(
        &self,
        granted: &Granted,
        asked: v1::ListOrphansRequest,
    ) -> Result<v1::ListOrphansReply, Status> {
        let view = self.read(granted, asked.consistency).await?;
        let nodes = view.state.nodes().values();
        let orphans = nodes
            .flat_map(|node| node.orphans.iter().map(move |(id, row)| (node, *id, row)))
            .filter(|(_, _, row)| match Name::new(&row.namespace) {
                Ok(namespace) => granted.sees(&namespace),
                Err(_) => granted.sees_all(),
            })
            .map(|(node, id, row)| shown(node, id, row))
            .collect();
        Ok(v1::ListOrphansReply { orphans, stale_ms: view.stale_ms })
    }

    pub async fn stop_orphans(
        &self,
        granted: &Granted,
        leader: Arc<Leader>,
        asked: v1::StopOrphansRequest,
    ) -> Result<v1::StopOrphansReply, Status> {
        let view = self.read(granted, 0).await?.state;
        let chosen = chosen(&view, &asked)?;
        let mut stopping = 0;
        let count: usize = chosen.values().map(Vec::len).sum();
        granted.about(format!("{count} orphans on {} nodes", chosen.len()));
        for (node, orphans) in chosen {
            stopping += orphans.len();
            for some in orphans.chunks(IN_COMMAND_MAX) {
                let (orphans, reason) = (some.to_vec(), REASON.to_owned());
                let command = Command::StopOrphans { node, orphans, reason };
                settle(&leader, command).await?;
            }
        }
        Ok(v1::StopOrphansReply { stopping: u32::try_from(stopping).unwrap_or(u32::MAX) })
    }
}

fn chosen(
    view: &ClusterState,
    asked: &v1::StopOrphansRequest,
) -> Result<BTreeMap<NodeId, Vec<AllocationId>>, Status> {
    if asked.allocation_ids.len() > NAMED_MAX {
        let message = format!("expected at most {NAMED_MAX} ids; name their nodes instead");
        return Err(status::invalid_field("allocation_ids", message));
    }
    let orphans = view.nodes().values();
    let orphans = orphans.flat_map(|node| node.orphans.keys().map(|id| (*id, node.id)));
    let node_of: BTreeMap<AllocationId, NodeId> = orphans.collect();
    let mut chosen: BTreeMap<NodeId, Vec<AllocationId>> = BTreeMap::new();
    for text in &asked.allocation_ids {
        let id: AllocationId = text
            .parse()
            .map_err(|error| status::invalid_field("allocation_ids", format!("{error}")))?;
        let Some(node) = node_of.get(&id) else {
            return Err(Status::not_found(format!("no orphan {id}")));
        };
        chosen.entry(*node).or_default().push(id);
    }
    if !asked.node.is_empty() {
        let node = lookup::node(view, &asked.node)?;
        chosen.entry(node.id).or_default().extend(node.orphans.keys());
    }
    if asked.allocation_ids.is_empty() && asked.node.is_empty() {
        return Err(status::invalid_field(
            "allocation_ids",
            "name the orphans to end, or a node, all of whose orphans are to end",
        ));
    }
    for orphans in chosen.values_mut() {
        orphans.sort_unstable();
        orphans.dedup();
    }
    Ok(chosen)
}

fn shown(node: &NodeRow, id: AllocationId, row: &OrphanRow) -> v1::Orphan {
    v1::Orphan {
        allocation_id: id.to_string(),
        node: node.name.to_string(),
        namespace: row.namespace.clone(),
        job_name: row.job_name.clone(),
        why: row.why.clone(),
        found_at_ms: row.found_at.0,
        cpu_milli: row.claim.cpu.0,
        memory_bytes: row.claim.memory.0,
        devices: row.claim.devices.iter().map(device_claim_to_proto).collect(),
        ports: row.claim.ports.iter().map(port_claim_to_proto).collect(),
        stop_reason: row.stop.clone(),
    }
}
