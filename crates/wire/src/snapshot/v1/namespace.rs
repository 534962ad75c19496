//! What is set for namespaces, and what they held lately. What they use now follows from the other
//! rows.

use berth_model::{AverageUse, Name, StateMs, WallMs};
use berth_proto::log::v1;
use berth_state::NamespaceRow;

use crate::problem::{Field, Problems};
use crate::spec::{namespace_spec_to_proto, read_namespace};

pub(super) fn to_proto(row: &NamespaceRow) -> v1::NamespaceRow {
    let NamespaceRow { spec, version, changed_at } = row;
    v1::NamespaceRow {
        spec: Some(namespace_spec_to_proto(spec)),
        version: *version,
        changed_wall_ms: changed_at.0,
    }
}

pub(super) fn read(
    at: Field<'_>,
    proto: v1::NamespaceRow,
    problems: &mut Problems,
) -> Option<NamespaceRow> {
    let spec_at = at.named("spec");
    let spec = problems.present(spec_at, proto.spec)?;
    let spec = read_namespace(spec_at, spec, problems)?;
    let changed_at = WallMs(proto.changed_wall_ms);
    Some(NamespaceRow { spec, version: proto.version, changed_at })
}

pub(super) fn average_to_proto(name: &Name, row: &AverageUse) -> v1::AverageUse {
    let AverageUse { at, fine: [gpus, gpu_memory, cpu, memory] } = *row;
    v1::AverageUse { namespace: name.to_string(), at_ms: at.0, gpus, gpu_memory, cpu, memory }
}

pub(super) fn read_average(
    at: Field<'_>,
    proto: v1::AverageUse,
    problems: &mut Problems,
) -> Option<(Name, AverageUse)> {
    let v1::AverageUse { namespace, at_ms, gpus, gpu_memory, cpu, memory } = proto;
    let name = problems.name(at.named("namespace"), &namespace)?;
    Some((name, AverageUse { at: StateMs(at_ms), fine: [gpus, gpu_memory, cpu, memory] }))
}
