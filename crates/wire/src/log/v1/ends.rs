//! What tells allocations to end, and whose callers are waited for no more.

use berth_model::{AllocationId, StopIntent};
use berth_proto::log::v1;
use berth_proto::log::v1::command::Command as Kind;
use berth_state::Command;

use crate::enumeration;
use crate::frozen::values::{allocations_to_proto, read_allocations};
use crate::problem::{Field, Problems};

pub(super) fn stop(allocations: &[AllocationId], intent: StopIntent, reason: &str) -> Kind {
    Kind::StopAllocations(v1::StopAllocations {
        allocations: allocations_to_proto(allocations),
        intent: enumeration::number::<v1::StopIntent, _>(intent),
        reason: reason.to_owned(),
    })
}

pub(super) fn read_stop(
    at: Field<'_>,
    proto: v1::StopAllocations,
    problems: &mut Problems,
) -> Option<Command> {
    let v1::StopAllocations { allocations, intent, reason } = proto;
    let allocations = read_allocations(at.named("allocations"), allocations, problems);
    let intent = enumeration::read::<v1::StopIntent, _>(at.named("intent"), intent, problems)?;
    Some(Command::StopAllocations { allocations, intent, reason })
}

pub(super) fn let_go(allocations: &[AllocationId], reason: &str) -> Kind {
    let allocations = allocations_to_proto(allocations);
    Kind::LetGo(v1::LetGo { allocations, reason: reason.to_owned() })
}

pub(super) fn read_let_go(at: Field<'_>, proto: v1::LetGo, problems: &mut Problems) -> Command {
    let v1::LetGo { allocations, reason } = proto;
    let allocations = read_allocations(at.named("allocations"), allocations, problems);
    Command::LetGo { allocations, reason }
}
