//! Why a job waits, or why it is where it is.

use berth_model::PolicyOrigin;
use berth_proto::v1::{AlsoAgainst, ExplainReply, Reason};
use serde_json::{Value, json};

use super::{Answer, Piece, Table, rfc3339, rfc3339_or_null};

pub(crate) fn reasons_json(reasons: &[Reason]) -> Vec<Value> {
    let also = |also: &AlsoAgainst| json!({ "code": also.code, "nodes": also.nodes });
    let one = |reason: &Reason| {
        json!({
            "code": reason.code,
            "nodes": reason.nodes,
            "detail": reason.detail,
            "also": reason.also.iter().map(also).collect::<Vec<_>>(),
        })
    };
    reasons.iter().map(one).collect()
}

pub(crate) fn reasons_table(reasons: &[Reason]) -> Table {
    let mut table = Table::new(&["NODES", "REASON", "DETAIL", "ALSO"], &[]);
    for reason in reasons {
        let Reason { code, nodes, detail, also } = reason;
        let also = also.iter().map(|AlsoAgainst { code, nodes }| format!("{code} on {nodes}"));
        let also = also.collect::<Vec<_>>().join(", ");
        table.row(vec![nodes.to_string(), code.clone(), detail.clone(), also]);
    }
    table
}

pub(crate) fn explain_answer(reply: &ExplainReply) -> Answer {
    let mut pieces = vec![Piece::Text(reply.summary.clone())];
    if !reply.policy.is_empty() {
        let origin = origin_of(reply).map_or("of a newer version", PolicyOrigin::told);
        pieces.push(Piece::Text(format!("policy: {} ({origin})", reply.policy)));
    }
    if let Some(position) = reply.position {
        pieces.push(Piece::Text(format!("place in the queue: {position}")));
    }
    if let Some(at_ms) = reply.expected_start_ms {
        pieces.push(Piece::Text(format!("expected start: {} at the latest", rfc3339(at_ms))));
    }
    if !reply.smallest_change.is_empty() {
        pieces.push(Piece::Text(format!("smallest change: {}", reply.smallest_change)));
    }
    if !reply.reasons.is_empty() {
        pieces.push(Piece::Text(format!("\nnodes that are out, of {}:", reply.nodes_total)));
        pieces.push(Piece::Table(reasons_table(&reply.reasons)));
    }
    if !reply.placed.is_empty() {
        pieces.push(Piece::Text(String::new()));
        pieces.push(Piece::Table(placed_table(reply)));
    }
    Answer { json: explain_json(reply), pieces, ids: vec![reply.job_id.to_string()] }
}

fn origin_of(reply: &ExplainReply) -> Option<PolicyOrigin> {
    berth_wire::spec::policy_origin_from_proto(reply.policy_origin)
}

fn placed_table(reply: &ExplainReply) -> Table {
    let mut table = Table::new(&["ALLOCATION", "NODE", "POLICY", "SCORE"], &["VIEW"]);
    for placed in &reply.placed {
        let parts: Vec<String> =
            placed.parts.iter().map(|part| format!("{}={}", part.name, part.value)).collect();
        table.row(vec![
            placed.allocation_id.clone(),
            placed.node.clone(),
            placed.policy.clone(),
            parts.join(" "),
            placed.view_index.to_string(),
        ]);
    }
    table
}

fn explain_json(reply: &ExplainReply) -> Value {
    let placed: Vec<Value> = reply
        .placed
        .iter()
        .map(|placed| {
            let parts: Vec<Value> = placed
                .parts
                .iter()
                .map(|part| json!({ "name": part.name, "value": part.value }))
                .collect();
            json!({
                "allocation_id": placed.allocation_id,
                "node": placed.node,
                "policy": placed.policy,
                "parts": parts,
                "view_index": placed.view_index,
            })
        })
        .collect();
    json!({
        "job_id": reply.job_id,
        "summary": reply.summary,
        "position": reply.position,
        "expected_start": rfc3339_or_null(reply.expected_start_ms),
        "reasons": reasons_json(&reply.reasons),
        "nodes_total": reply.nodes_total,
        "smallest_change": reply.smallest_change,
        "placed": placed,
        "policy": Some(&reply.policy).filter(|policy| !policy.is_empty()),
        "policy_origin": origin_of(reply).filter(|_| !reply.policy.is_empty()).map(PolicyOrigin::name),
    })
}
