//! Policies by their numbers, and where that of a job comes from.

use berth_model::{Policy, PolicyOrigin};
use berth_proto::v1;

use crate::enumeration::{self, Enumeration};
use crate::problem::{Cause, Field, Problems};

/// The number of a policy.
pub fn policy_to_proto(policy: Policy) -> i32 {
    enumeration::number::<v1::Policy, _>(policy)
}

/// The policy of a number; `None` for one that this version does not know.
pub fn policy_from_proto(number: i32) -> Option<Policy> {
    v1::Policy::try_from(number).ok().and_then(Policy::from_proto)
}

/// Its zero is what every specification was before the field was there, so that one of then has
/// the digest that it had.
pub fn policy_origin_to_proto(origin: PolicyOrigin) -> i32 {
    let proto = match origin {
        PolicyOrigin::Job => v1::PolicyOrigin::Job,
        PolicyOrigin::LeftOut => v1::PolicyOrigin::LeftOut,
        PolicyOrigin::Pool => v1::PolicyOrigin::Pool,
        PolicyOrigin::Cluster => v1::PolicyOrigin::Cluster,
        PolicyOrigin::Berth => v1::PolicyOrigin::Berth,
    };
    proto.into()
}

/// The origin of a number; `None` for one that this version does not know.
pub fn policy_origin_from_proto(number: i32) -> Option<PolicyOrigin> {
    Some(match v1::PolicyOrigin::try_from(number).ok()? {
        v1::PolicyOrigin::Job => PolicyOrigin::Job,
        v1::PolicyOrigin::LeftOut => PolicyOrigin::LeftOut,
        v1::PolicyOrigin::Pool => PolicyOrigin::Pool,
        v1::PolicyOrigin::Cluster => PolicyOrigin::Cluster,
        v1::PolicyOrigin::Berth => PolicyOrigin::Berth,
    })
}

pub(super) fn read_origin(
    at: Field<'_>,
    number: i32,
    problems: &mut Problems,
) -> Option<PolicyOrigin> {
    let origin = policy_origin_from_proto(number);
    if origin.is_none() {
        problems.add(at, Cause::UnknownValue(number));
    }
    origin
}
