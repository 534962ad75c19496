//! Reservations of nodes.

use berth_model::AtBegin;
use berth_proto::v1::{NodeReservation, NodeReservationSpec};
use serde_json::{Value, json};

use super::{Answer, Piece, Table, rfc3339, rfc3339_or_null};

pub(crate) fn reservation_answer(one: &NodeReservation) -> Answer {
    let spec = spec_of(one);
    let mut text = format!(
        "reservation {}, version {}: {}\nlets in: {}\nfrom {} until {}; what else runs there then {}\n",
        spec.name,
        one.version,
        if one.begun { "in force" } else { "ahead" },
        whom(one),
        rfc3339(spec.from_ms),
        until(&spec),
        match running(&spec) {
            AtBegin::Keep => "runs on",
            AtBegin::End => "is asked to end",
        },
    );
    let unnamed = (one.node_count as usize).saturating_sub(one.nodes.len());
    let more = if unnamed > 0 { format!(" and {unnamed} more") } else { String::new() };
    let pool = spec.pool.as_ref().map_or_else(String::new, |pool| format!(" (pool {pool})"));
    text.push_str(&format!("nodes{pool}: {}{more}\n", or_none(&one.nodes)));
    let missing: Vec<String> =
        spec.nodes.iter().filter(|name| !one.nodes.contains(name)).cloned().collect();
    if !missing.is_empty() {
        text.push_str(&format!("not there: {}\n", missing.join(", ")));
    }
    text.push_str(&format!("not let in and running there: {}", one.others_running));
    Answer { json: reservation_json(one), pieces: vec![Piece::Text(text)], ids: vec![spec.name] }
}

pub(crate) fn reservations_answer(all: &[NodeReservation]) -> Answer {
    let mut table =
        Table::new(&["NAME", "STATE", "NODES", "LETS IN", "FROM", "UNTIL", "OTHERS"], &[]);
    for one in all {
        let spec = spec_of(one);
        table.row(vec![
            spec.name.clone(),
            if one.begun { "in-force" } else { "ahead" }.to_owned(),
            one.node_count.to_string(),
            whom(one),
            rfc3339(spec.from_ms),
            until(&spec),
            one.others_running.to_string(),
        ]);
    }
    let piece = match all.is_empty() {
        true => Piece::Text("no nodes are reserved".to_owned()),
        false => Piece::Table(table),
    };
    Answer {
        json: all.iter().map(reservation_json).collect(),
        pieces: vec![piece],
        ids: all.iter().map(|one| spec_of(one).name).collect(),
    }
}

fn spec_of(one: &NodeReservation) -> NodeReservationSpec {
    one.spec.clone().unwrap_or_default()
}

fn reservation_json(one: &NodeReservation) -> Value {
    let spec = spec_of(one);
    json!({
        "name": spec.name,
        "version": one.version,
        "state": if one.begun { "in-force" } else { "ahead" },
        "nodes_named": spec.nodes,
        "pool": spec.pool,
        "namespaces": spec.namespaces,
        "namespaces_hidden": one.namespaces_hidden,
        "priority_min": spec.priority_min,
        "from": rfc3339(spec.from_ms),
        "until": rfc3339_or_null(spec.until_ms),
        "running": running(&spec).name(),
        "changed_at": rfc3339(one.changed_at_ms),
        "nodes": one.nodes,
        "node_count": one.node_count,
        "others_running": one.others_running,
    })
}

fn running(spec: &NodeReservationSpec) -> AtBegin {
    if spec.end_running { AtBegin::End } else { AtBegin::Keep }
}

fn until(spec: &NodeReservationSpec) -> String {
    spec.until_ms.map_or_else(|| "removed".to_owned(), rfc3339)
}

/// `research at 80 or more`, `anything at 80 or more`, `nobody`.
fn whom(one: &NodeReservation) -> String {
    let spec = spec_of(one);
    let mut names = spec.namespaces.clone();
    if one.namespaces_hidden > 0 {
        names.push(format!("{} that you do not see", one.namespaces_hidden));
    }
    let least = spec.priority_min.map(|least| format!("priority {least} or more"));
    match (names.is_empty(), least) {
        (true, None) => "nobody".to_owned(),
        (true, Some(least)) => least,
        (false, None) => names.join(", "),
        (false, Some(least)) => format!("{} at {least}", names.join(", ")),
    }
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
