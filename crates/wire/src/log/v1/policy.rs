//! Policies that are set for the cluster and for pools.

use berth_model::{Name, Policy};
use berth_proto::log::v1;
use berth_proto::log::v1::command::Command as Kind;
use berth_proto::v1 as public;
use berth_state::Command;

use crate::enumeration;
use crate::problem::{Field, Problems};

pub(super) fn set(pool: Option<&Name>, policy: Option<Policy>) -> Kind {
    Kind::SetPolicyDefault(v1::SetPolicyDefault {
        pool: pool.map(Name::to_string),
        policy: policy.map(enumeration::number::<public::Policy, _>),
    })
}

pub(super) fn read_set(
    at: Field<'_>,
    proto: v1::SetPolicyDefault,
    problems: &mut Problems,
) -> Option<Command> {
    let pool = problems.optional_name(at.named("pool"), proto.pool.as_deref())?;
    let policy = enumeration::read_optional::<public::Policy, _>(
        at.named("policy"),
        proto.policy,
        problems,
    )?;
    Some(Command::SetPolicyDefault { pool, policy })
}
