//! Rows of the state as people and programs see them. Shows what the state
//! holds; what only one process knows (a node's last report, how stale a read
//! is) is left for that process to fill in.

mod allocation;
mod diff;
mod event;
mod job;
mod namespace;
mod node;
mod node_reservation;
mod routes;
mod service;

use berth_model::NodeId;
use berth_state::ClusterState;

pub use allocation::{TIME_SLICED, allocation};
pub use diff::spec_diff;
pub use event::event;
pub use job::{FAILURES_SHOWN_MAX, job, listed_job, versions};
pub use namespace::namespace;
pub use node::node;
pub use node_reservation::node_reservation;
pub use routes::routes;
pub use service::service;

/// The name of a node, or its number once it is forgotten.
fn node_name(state: &ClusterState, id: NodeId) -> String {
    state.nodes().get(&id).map_or_else(|| id.to_string(), |node| node.name.to_string())
}

#[cfg(test)]
mod tests;
