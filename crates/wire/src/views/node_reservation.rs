//! A reservation of nodes: what is set of it, and what it comes to.

use berth_model::Name;
use berth_proto::v1;
use berth_state::{ClusterState, NodeReservationRow, NodeRow};

use crate::spec::node_reservation_to_proto;

/// Nodes that are named, so that all reservations together stay below what a client takes.
const NODES_MAX: usize = 1000;

/// A reservation, for somebody who `sees` some namespaces. Costs O(nodes, and what runs on those
/// that are reserved).
pub fn node_reservation(
    state: &ClusterState,
    row: &NodeReservationRow,
    sees: &dyn Fn(&Name) -> bool,
) -> v1::NodeReservation {
    let on_it = state.nodes().values().filter(|node| row.covers(node));
    let on_it: Vec<&NodeRow> = on_it.map(|node| node.as_ref()).collect();
    let live = on_it.iter().flat_map(|node| &node.live);
    let others =
        live.filter(|id| state.jobs().get(&id.job).is_some_and(|job| !row.lets_in(&job.spec)));
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let others = count(others.count());
    let mut names: Vec<String> = on_it.iter().map(|node| node.name.to_string()).collect();
    names.sort_unstable();
    let node_count = count(names.len());
    names.truncate(NODES_MAX);
    let mut spec = node_reservation_to_proto(&row.spec);
    spec.namespaces.retain(|name| Name::new(name).is_ok_and(|name| sees(&name)));
    v1::NodeReservation {
        namespaces_hidden: count(row.spec.namespaces.len() - spec.namespaces.len()),
        spec: Some(spec),
        version: row.version,
        begun: row.begun,
        changed_at_ms: row.changed_at.0,
        nodes: names,
        node_count,
        others_running: others,
        stale_ms: None,
    }
}
