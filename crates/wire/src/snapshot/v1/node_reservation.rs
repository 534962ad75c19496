//! Reservations of nodes.

use berth_model::WallMs;
use berth_proto::log::v1;
use berth_state::NodeReservationRow;

use crate::problem::{Field, Problems};
use crate::spec::{node_reservation_to_proto, read_node_reservation};

pub(super) fn to_proto(row: &NodeReservationRow) -> v1::NodeReservationRow {
    let NodeReservationRow { spec, version, begun, changed_at } = row;
    v1::NodeReservationRow {
        spec: Some(node_reservation_to_proto(spec)),
        version: *version,
        begun: *begun,
        changed_wall_ms: changed_at.0,
    }
}

pub(super) fn read(
    at: Field<'_>,
    proto: v1::NodeReservationRow,
    problems: &mut Problems,
) -> Option<NodeReservationRow> {
    let v1::NodeReservationRow { spec, version, begun, changed_wall_ms } = proto;
    let spec_at = at.named("spec");
    let spec = problems.present(spec_at, spec)?;
    let spec = read_node_reservation(spec_at, spec, problems)?;
    Some(NodeReservationRow { spec, version, begun, changed_at: WallMs(changed_wall_ms) })
}
