//! What a service says of its callers.

use berth_model::{DurationMs, Name, Route, RoutingPolicy};
use berth_proto::v1;

use crate::enumeration;
use crate::problem::{Field, Problems};

/// What a job file that says nothing asks for is an absent message.
pub(super) fn route_to_proto(route: &Route) -> Option<v1::Route> {
    let Route { model, port, balance, timeout, drain } = route;
    let told = v1::Route {
        model: model.clone(),
        port: port.as_ref().map(Name::to_string),
        balance: routing_policy_to_proto(*balance),
        timeout_ms: timeout.0,
        drain_ms: drain.0,
    };
    (*route != Route::default()).then_some(told)
}

pub(super) fn read_route(
    at: Field<'_>,
    proto: Option<v1::Route>,
    problems: &mut Problems,
) -> Option<Route> {
    let Some(v1::Route { model, port, balance, timeout_ms, drain_ms }) = proto else {
        return Some(Route::default());
    };
    let port = problems.optional_name(at.named("port"), port.as_deref());
    let balance = enumeration::read::<v1::RoutingPolicy, _>(at.named("balance"), balance, problems);
    let (timeout, drain) = (DurationMs(timeout_ms), DurationMs(drain_ms));
    Some(Route { model, port: port?, balance: balance?, timeout, drain })
}

/// The number of a policy.
pub fn routing_policy_to_proto(policy: RoutingPolicy) -> i32 {
    enumeration::number::<v1::RoutingPolicy, _>(policy)
}

/// The policy of a number; `None` for one that this version does not know.
pub fn routing_policy_from_proto(number: i32) -> Option<RoutingPolicy> {
    let proto = v1::RoutingPolicy::try_from(number).ok()?;
    enumeration::Enumeration::from_proto(proto)
}
