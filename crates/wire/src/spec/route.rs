//! What a service says of its callers.

use berth_model::{DurationMs, Name, Route, RoutingPolicy};
use berth_proto::v1;

use crate::enumeration;
use crate::problem::{Field, Problems};

/// What a job file that says nothing asks for is an absent message.
pub(super) fn route_to_proto(route: &Route) -> Option<v1::Route> {
    let Route { model, port, balance, timeout, drain, wait, waiting_max, in_flight_max } = route;
    let told = v1::Route {
        model: model.clone(),
        port: port.as_ref().map(Name::to_string),
        balance: routing_policy_to_proto(*balance),
        timeout_ms: timeout.0,
        drain_ms: drain.0,
        wait_ms: (*wait != Route::WAIT_DEFAULT).then_some(wait.0),
        waiting_max: (*waiting_max != Route::WAITING_MAX_DEFAULT).then_some(*waiting_max),
        in_flight_max: *in_flight_max,
    };
    (*route != Route::default()).then_some(told)
}

pub(super) fn read_route(
    at: Field<'_>,
    proto: Option<v1::Route>,
    problems: &mut Problems,
) -> Option<Route> {
    let Some(proto) = proto else { return Some(Route::default()) };
    let port = problems.optional_name(at.named("port"), proto.port.as_deref());
    let balance =
        enumeration::read::<v1::RoutingPolicy, _>(at.named("balance"), proto.balance, problems);
    Some(Route {
        model: proto.model,
        port: port?,
        balance: balance?,
        timeout: DurationMs(proto.timeout_ms),
        drain: DurationMs(proto.drain_ms),
        wait: proto.wait_ms.map_or(Route::WAIT_DEFAULT, DurationMs),
        waiting_max: proto.waiting_max.unwrap_or(Route::WAITING_MAX_DEFAULT),
        in_flight_max: proto.in_flight_max,
    })
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
