//! What a submit would do.

use berth_proto::v1::{PlanReply, PlannedPlacement, PlannedVictim};
use serde_json::{Value, json};

use super::explain::{reasons_json, reasons_table};
use super::{Answer, Piece, Table, rfc3339, rfc3339_or_null};

pub(crate) fn plan_answer(reply: &PlanReply) -> Answer {
    let mut pieces = Vec::new();
    match reply.updates_job {
        Some(job) => pieces.push(Piece::Text(format!("would update job {job}"))),
        None => pieces.push(Piece::Text("would make a new job".to_owned())),
    }
    pieces.extend(reply.diff.iter().map(|line| Piece::Text(format!("  {line}"))));
    pieces.push(Piece::Text(format!(
        "instances that would start now: {}, that would wait: {}",
        reply.placements.len(),
        reply.waiting
    )));
    if let Some(at_ms) = reply.expected_start_ms {
        let at = rfc3339(at_ms);
        pieces.push(Piece::Text(format!("the next of these would start by {at} at the latest")));
    }
    if !reply.placements.is_empty() {
        pieces.push(Piece::Table(placements_table(reply)));
    }
    if !reply.kept.is_empty() {
        pieces.push(Piece::Text("places that would be kept until others have ended there:".into()));
        pieces.push(Piece::Table(kept_table(reply)));
    }
    if !reply.reasons.is_empty() {
        pieces.push(Piece::Text(format!("nodes that are out, of {}:", reply.nodes_total)));
        pieces.push(Piece::Table(reasons_table(&reply.reasons)));
    }
    Answer { json: plan_json(reply), pieces, ids: Vec::new() }
}

fn placements_table(reply: &PlanReply) -> Table {
    let mut table = Table::new(&["TASK", "INDEX", "NODE", "GPUS"], &[]);
    reply.placements.iter().for_each(|placement| table.row(cells(placement)));
    table
}

fn kept_table(reply: &PlanReply) -> Table {
    let mut table = Table::new(&["TASK", "INDEX", "NODE", "GPUS", "ENDS FOR IT"], &[]);
    for kept in &reply.kept {
        let victim = |victim: &PlannedVictim| {
            let PlannedVictim { allocation_id, job_name, priority, namespace } = victim;
            match namespace.is_empty() {
                true => format!("{allocation_id} (of another namespace, priority {priority})"),
                false => format!("{allocation_id} ({namespace}/{job_name}, priority {priority})"),
            }
        };
        let victims: Vec<String> = kept.victims.iter().map(victim).collect();
        let mut row = cells(kept);
        row.push(victims.join(", "));
        table.row(row);
    }
    table
}

fn cells(placement: &PlannedPlacement) -> Vec<String> {
    let gpus: Vec<String> = placement.device_indices.iter().map(u32::to_string).collect();
    let PlannedPlacement { task, index, node, .. } = placement;
    vec![task.clone(), index.to_string(), node.clone(), gpus.join(",")]
}

fn plan_json(reply: &PlanReply) -> Value {
    let placements: Vec<Value> = reply.placements.iter().map(placement_json).collect();
    let with_victims = |kept: &PlannedPlacement| {
        let victim = |victim: &PlannedVictim| {
            json!({
                "allocation_id": victim.allocation_id,
                "job": victim.job_name,
                "priority": victim.priority,
                "namespace": victim.namespace,
            })
        };
        let mut shown = placement_json(kept);
        shown["victims"] = kept.victims.iter().map(victim).collect();
        shown
    };
    json!({
        "placements": placements,
        "kept": reply.kept.iter().map(with_victims).collect::<Vec<_>>(),
        "waiting": reply.waiting,
        "expected_start": rfc3339_or_null(reply.expected_start_ms),
        "reasons": reasons_json(&reply.reasons),
        "nodes_total": reply.nodes_total,
        "updates_job": reply.updates_job,
        "diff": reply.diff,
    })
}

fn placement_json(placement: &PlannedPlacement) -> Value {
    json!({
        "task": placement.task,
        "index": placement.index,
        "node": placement.node,
        "gpus": placement.device_indices,
    })
}
