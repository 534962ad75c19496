//! What gateways route by.

use std::collections::BTreeMap;

use berth_model::{AllocationState, HealthProbe, JobKind, Name, TaskIndex, TaskSpec};
use berth_proto::v1;
use berth_state::{AllocationRow, ClusterState, JobRow};

/// The port by which a task is reached, where it has several.
const PORT: &str = "http";

/// Every service that can be reached over a port. Costs O(jobs, and the live instances of services).
pub fn routes(state: &ClusterState) -> v1::Routes {
    let mut services: BTreeMap<(Name, Name), v1::ServiceRoute> = BTreeMap::new();
    let jobs = state.jobs().values();
    for job in jobs.filter(|job| job.spec.kind == JobKind::Service && !job.is_ended()) {
        if let Some(route) = route(state, job) {
            services.insert((job.namespace().clone(), job.name().clone()), route);
        }
    }
    v1::Routes { index: state.applied_index(), services: services.into_values().collect() }
}

/// `None` where no task of it has a port.
fn route(state: &ClusterState, job: &JobRow) -> Option<v1::ServiceRoute> {
    let named = |task: &&TaskSpec| task.ports.iter().any(|port| port.as_str() == PORT);
    let mut tasks = (0..).zip(&job.spec.tasks);
    let found = tasks.clone().find(|(_, task)| named(task));
    let (position, task) = found.or_else(|| tasks.find(|(_, task)| !task.ports.is_empty()))?;
    let port = task.ports.iter().find(|port| port.as_str() == PORT).or(task.ports.first())?;
    let replicas = state
        .allocations_of_task(job.id, TaskIndex(position))
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
        model: job.name().to_string(),
        created_at_ms: job.submitted_at.0,
        replicas: replicas.collect(),
        health_path,
    })
}

/// `None` where it has no such port, as one of an earlier version may, or where nobody told how its
/// host is reached.
fn replica(state: &ClusterState, row: &AllocationRow, port: &Name) -> Option<v1::ServiceReplica> {
    let claim = row.claim.ports.iter().find(|claim| claim.name == *port)?;
    let host = state.nodes().get(&row.node)?.spec.host()?;
    // An address of IPv6 has its own colons.
    let address = if host.contains(':') {
        format!("[{host}]:{}", claim.port)
    } else {
        format!("{host}:{}", claim.port)
    };
    Some(v1::ServiceReplica { allocation_id: row.id.to_string(), address })
}
