//! Reservations of nodes: whatever the types hold.

use std::sync::Arc;

use berth_model::{AtBegin, NodeReservation, ReservedNodes};
use berth_state::{Command, NodeReservationRow};
use proptest::collection::btree_set;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::log::wall_ms;
use super::name;

fn spec() -> impl Strategy<Value = NodeReservation> {
    let nodes = prop_oneof![
        btree_set(name(), 0..4).prop_map(ReservedNodes::Named),
        name().prop_map(ReservedNodes::Pool),
    ];
    let whom = (btree_set(name(), 0..4), any::<Option<u8>>());
    let times = (wall_ms(), option::of(wall_ms()));
    (name(), nodes, whom, times, select(AtBegin::ALL.to_vec())).prop_map(
        |(name, nodes, (namespaces, priority_min), (from, until), running)| NodeReservation {
            name,
            nodes,
            namespaces,
            priority_min,
            from,
            until,
            running,
        },
    )
}

pub(crate) fn node_reservation_row() -> impl Strategy<Value = NodeReservationRow> {
    (spec(), any::<u32>(), any::<bool>(), wall_ms()).prop_map(
        |(spec, version, begun, changed_at)| NodeReservationRow {
            spec,
            version,
            begun,
            changed_at,
        },
    )
}

pub(crate) fn node_reservation_command() -> BoxedStrategy<Command> {
    let version = any::<Option<u32>>;
    prop_oneof![
        (spec(), version()).prop_map(|(spec, if_version)| Command::ReserveNodes {
            spec: Arc::new(spec),
            if_version
        }),
        (name(), version()).prop_map(|(name, if_version)| Command::FreeNodes { name, if_version }),
        name().prop_map(|name| Command::TurnNodeReservation { name }),
    ]
    .boxed()
}
