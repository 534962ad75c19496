//! What gateways route by.

use std::collections::BTreeMap;

use berth_model::{AllocationState, HealthProbe, JobKind, Name, Reached};
use berth_proto::v1;
use berth_state::{AllocationRow, ClusterState, JobRow};

use crate::spec::routing_policy_to_proto;

/// Every service that can be reached over a port. Costs O(jobs, and the live instances of services).
pub fn routes(state: &ClusterState) -> v1::Routes {
    let mut services: BTreeMap<(Name, Name), v1::ServiceRoute> = BTreeMap::new();
    let jobs = state.jobs().values();
    for job in jobs.filter(|job| job.spec.kind == JobKind::Service && !job.is_ended()) {
        if let Some(route) = route(state, job) {
            services.insert((job.namespace().clone(), job.name().clone()), route);
        }
    }
    let (index, services) = (state.applied_index(), services.into_values().collect());
    v1::Routes { index, services, unchanged: false }
}

/// `None` where no task of it has a port.
fn route(state: &ClusterState, job: &JobRow) -> Option<v1::ServiceRoute> {
    let Reached { position, task, port } = job.spec.reached()?;
    let replicas = state
        .allocations_of_task(job.id, position)
        .filter(|row| row.state == AllocationState::Running { ready: true })
        .filter_map(|row| replica(state, row, port));
    let health_path = match task.health.as_ref().map(|health| &health.probe) {
        Some(HealthProbe::Http { path, port: probed }) if probed == port => path.clone(),
        Some(HealthProbe::Http { .. } | HealthProbe::Tcp { .. } | HealthProbe::Command { .. })
        | None => String::new(),
    };
    Some(v1::ServiceRoute {
        namespace: job.namespace().to_string(),
        name: job.name().to_string(),
        model: job.spec.model().to_owned(),
        created_at_ms: job.submitted_at.0,
        replicas: replicas.collect(),
        health_path,
        balance: routing_policy_to_proto(job.spec.route.balance),
        timeout_ms: job.spec.route.timeout.0,
        wait_ms: job.spec.route.wait.0,
        waiting_max: job.spec.route.waiting_max,
        in_flight_max: job.spec.route.in_flight_max,
    })
}

fn replica(state: &ClusterState, row: &AllocationRow, port: &Name) -> Option<v1::ServiceReplica> {
    let address = address(state, row, port)?;
    Some(v1::ServiceReplica { allocation_id: row.id.to_string(), address })
}

/// Where it is reached. `None` where it has no such port, as one of an earlier version may, or where
/// nobody told how its host is reached.
pub(super) fn address(state: &ClusterState, row: &AllocationRow, port: &Name) -> Option<String> {
    let claim = row.claim.ports.iter().find(|claim| claim.name == *port)?;
    let host = state.nodes().get(&row.node)?.spec.host()?;
    // An address of IPv6 has its own colons.
    Some(if host.contains(':') {
        format!("[{host}]:{}", claim.port)
    } else {
        format!("{host}:{}", claim.port)
    })
}
