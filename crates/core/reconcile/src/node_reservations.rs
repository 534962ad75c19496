//! Reservations of nodes whose time has come: they begin, or are over.

use berth_model::StateMs;
use berth_state::{ClusterState, Command};

pub fn commands(view: &ClusterState, now: StateMs) -> Vec<Command> {
    let wall = view.wall_at(now);
    let due = view.node_reservations().values().filter(|row| row.is_due(wall));
    due.map(|row| Command::TurnNodeReservation { name: row.spec.name.clone() }).collect()
}
