//! What a submit would do.

use berth_proto::v1::PlanReply;
use serde_json::{Value, json};

use super::explain::{reasons_json, reasons_table};
use super::{Answer, Piece, Table};

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
    if !reply.placements.is_empty() {
        pieces.push(Piece::Table(placements_table(reply)));
    }
    if !reply.reasons.is_empty() {
        pieces.push(Piece::Text(format!("nodes that are out, of {}:", reply.nodes_total)));
        pieces.push(Piece::Table(reasons_table(&reply.reasons)));
    }
    Answer { json: plan_json(reply), pieces, ids: Vec::new() }
}

fn placements_table(reply: &PlanReply) -> Table {
    let mut table = Table::new(&["TASK", "INDEX", "NODE", "GPUS"], &[]);
    for placement in &reply.placements {
        let gpus: Vec<String> = placement.device_indices.iter().map(u32::to_string).collect();
        table.row(vec![
            placement.task.clone(),
            placement.index.to_string(),
            placement.node.clone(),
            gpus.join(","),
        ]);
    }
    table
}

fn plan_json(reply: &PlanReply) -> Value {
    let placements: Vec<Value> = reply
        .placements
        .iter()
        .map(|placement| {
            json!({
                "task": placement.task,
                "index": placement.index,
                "node": placement.node,
                "gpus": placement.device_indices,
            })
        })
        .collect();
    json!({
        "placements": placements,
        "waiting": reply.waiting,
        "reasons": reasons_json(&reply.reasons),
        "nodes_total": reply.nodes_total,
        "updates_job": reply.updates_job,
        "diff": reply.diff,
    })
}
