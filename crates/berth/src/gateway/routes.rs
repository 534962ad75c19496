//! Routes as they are told, and as the gateway goes by them.

use std::time::Duration;

use berth_gateway::{Endpoint, Routes, ServiceRoute};
use berth_model::{Name, Route};
use berth_proto::v1;
use berth_routing::Member;
use berth_wire::spec::routing_policy_from_proto;

/// Where all engines that are known have their metrics.
const METRICS_PATH: &str = "/metrics";

/// Leaves out, with a word in the log, what a newer scheduler tells and this gateway cannot read.
pub fn of(told: v1::Routes) -> Routes {
    let services = told.services.into_iter().filter_map(|route| {
        let name = format!("{}/{}", route.namespace, route.name);
        let read = service(route);
        if read.is_none() {
            tracing::warn!(service = name, "a service's route cannot be read");
        }
        read
    });
    Routes { services: services.collect() }
}

fn service(route: v1::ServiceRoute) -> Option<ServiceRoute> {
    let (told, limit) = (route.replicas.into_iter(), route.in_flight_max);
    let replicas: Option<Vec<Endpoint>> = told.map(|told| replica(told, limit)).collect();
    Some(ServiceRoute {
        namespace: Name::new(&route.namespace).ok()?,
        name: Name::new(&route.name).ok()?,
        model: route.model,
        created_s: route.created_at_ms / 1_000,
        policy: routing_policy_from_proto(route.balance).unwrap_or_default(),
        replicas: replicas?,
        health_path: Some(route.health_path).filter(|path| !path.is_empty()),
        metrics_path: Some(METRICS_PATH.to_owned()),
        silence_max: silence_max(route.timeout_ms),
        wait: Duration::from_millis(route.wait_ms),
        waiting_max: route.waiting_max,
    })
}

/// Routes that were kept before it was told say nothing.
fn silence_max(timeout_ms: u64) -> Duration {
    match timeout_ms {
        0 => Duration::from_millis(Route::TIMEOUT_DEFAULT.0),
        told => Duration::from_millis(told),
    }
}

fn replica(replica: v1::ServiceReplica, limit: Option<u32>) -> Option<Endpoint> {
    let id = replica.allocation_id.parse().ok()?;
    let member = Member { id, weight_milli: 1_000, tier: 0, limit };
    Some(Endpoint { member, address: replica.address })
}
