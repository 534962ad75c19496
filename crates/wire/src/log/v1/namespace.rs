//! What administrators set for namespaces.

use std::sync::Arc;

use berth_model::{Name, NamespaceSpec};
use berth_proto::log::v1;
use berth_proto::log::v1::command::Command as Kind;
use berth_state::Command;

use crate::problem::{Field, Problems};
use crate::spec::{namespace_spec_to_proto, read_namespace};

pub(super) fn apply(spec: &NamespaceSpec, if_version: Option<u32>) -> Kind {
    let spec = Some(namespace_spec_to_proto(spec));
    Kind::ApplyNamespace(v1::ApplyNamespace { spec, if_version })
}

pub(super) fn delete(name: &Name, if_version: Option<u32>) -> Kind {
    Kind::DeleteNamespace(v1::DeleteNamespace { name: name.to_string(), if_version })
}

pub(super) fn read_apply(
    at: Field<'_>,
    proto: v1::ApplyNamespace,
    problems: &mut Problems,
) -> Option<Command> {
    let spec_at = at.named("spec");
    let spec = problems.present(spec_at, proto.spec)?;
    let spec = Arc::new(read_namespace(spec_at, spec, problems)?);
    Some(Command::ApplyNamespace { spec, if_version: proto.if_version })
}

pub(super) fn read_delete(
    at: Field<'_>,
    proto: v1::DeleteNamespace,
    problems: &mut Problems,
) -> Option<Command> {
    let name = problems.name(at.named("name"), &proto.name)?;
    Some(Command::DeleteNamespace { name, if_version: proto.if_version })
}
