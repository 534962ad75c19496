//! The cluster itself.

use berth_proto::v1::ClusterStatus;
use serde_json::{Value, json};

use super::{Answer, Piece, Table};

fn status_json(status: &ClusterStatus) -> Value {
    let members: Vec<Value> = status
        .members
        .iter()
        .map(|member| {
            json!({
                "id": member.id,
                "address": member.address,
                "role": member.role,
                "healthy": member.healthy,
                "last_log_index": member.last_log_index,
                "applied_index": member.applied_index,
                "version": member.version,
                "cluster_version_max": member.cluster_version_max,
            })
        })
        .collect();
    json!({
        "cluster_id": status.cluster_id,
        "leader": status.leader_id,
        "term": status.term,
        "members": members,
        "nodes": status.nodes,
        "jobs": status.jobs,
        "allocations": status.allocations,
        "queued": status.queued,
        "answered_by": status.answered_by,
        "applied_index": status.applied_index,
        "stale_ms": status.stale_ms,
        "version": status.version,
        "removed": status.removed,
        "warnings": status.warnings,
        "incarnation": status.incarnation,
        "awaited_nodes": status.awaited_nodes,
        "awaited_for_ms": status.awaited_for_ms,
        "orphans": status.orphans,
        "places_in_ms": status.places_in_ms,
        "cluster_version": status.cluster_version,
        "cluster_version_max": status.cluster_version_max,
    })
}

pub(crate) fn status_answer(status: &ClusterStatus) -> Answer {
    let leader = status.leader_id.map_or_else(|| "none".to_owned(), |id| id.to_string());
    let facts = format!(
        "leader {leader}, term {}, version {}, cluster version {}\n\
         {} nodes, {} jobs ({} queued), {} allocations\n",
        status.term,
        status.version,
        status.cluster_version,
        status.nodes,
        status.jobs,
        status.queued,
        status.allocations,
    );
    let columns = ["ID", "ADDRESS", "ROLE", "HEALTHY", "LAST-LOG", "APPLIED", "VERSION"];
    let mut table = Table::new(&columns, &[]);
    let index = |index: Option<u64>| index.map(|index| index.to_string()).unwrap_or_default();
    for member in &status.members {
        table.row(vec![
            member.id.to_string(),
            member.address.clone(),
            member.role.clone(),
            if member.healthy { "yes" } else { "no" }.to_owned(),
            index(member.last_log_index),
            index(member.applied_index),
            member.version.clone(),
        ]);
    }
    Answer {
        json: status_json(status),
        pieces: vec![Piece::Text(facts), Piece::Table(table)],
        ids: status.members.iter().map(|member| member.id.to_string()).collect(),
    }
}
