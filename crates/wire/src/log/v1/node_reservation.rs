//! Reservations of nodes.

use std::sync::Arc;

use berth_model::{Name, NodeReservation};
use berth_proto::log::v1;
use berth_proto::log::v1::command::Command as Kind;
use berth_state::Command;

use crate::problem::{Field, Problems};
use crate::spec::{node_reservation_to_proto, read_node_reservation};

pub(super) fn set(spec: &NodeReservation, if_version: Option<u32>) -> Kind {
    let spec = Some(node_reservation_to_proto(spec));
    Kind::ReserveNodes(v1::ReserveNodes { spec, if_version })
}

pub(super) fn free(name: &Name, if_version: Option<u32>) -> Kind {
    Kind::FreeNodes(v1::FreeNodes { name: name.to_string(), if_version })
}

pub(super) fn turn(name: &Name) -> Kind {
    Kind::TurnNodeReservation(v1::TurnNodeReservation { name: name.to_string() })
}

pub(super) fn read_set(
    at: Field<'_>,
    proto: v1::ReserveNodes,
    problems: &mut Problems,
) -> Option<Command> {
    let spec_at = at.named("spec");
    let spec = problems.present(spec_at, proto.spec)?;
    let spec = Arc::new(read_node_reservation(spec_at, spec, problems)?);
    Some(Command::ReserveNodes { spec, if_version: proto.if_version })
}

pub(super) fn read_free(
    at: Field<'_>,
    proto: v1::FreeNodes,
    problems: &mut Problems,
) -> Option<Command> {
    let name = problems.name(at.named("name"), &proto.name)?;
    Some(Command::FreeNodes { name, if_version: proto.if_version })
}

pub(super) fn read_turn(
    at: Field<'_>,
    proto: v1::TurnNodeReservation,
    problems: &mut Problems,
) -> Option<Command> {
    let name = problems.name(at.named("name"), &proto.name)?;
    Some(Command::TurnNodeReservation { name })
}
