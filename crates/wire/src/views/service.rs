//! A service as its callers reach it.

use berth_model::{AllocationState, Autoscale, Reached};
use berth_proto::v1;
use berth_state::{AllocationRow, ClusterState, JobRow};

use super::allocation::allocation;
use super::routes::address;
use crate::spec::{routing_policy_to_proto, scaling_policy_to_proto, targets_to_proto};

/// `None` for what is not reached by anybody: it is no service, has no port, or has ended. Costs
/// O(its live instances). What gateways tell is not in it.
pub fn service(state: &ClusterState, job: &JobRow) -> Option<v1::Service> {
    let Reached { position, task, port } = job.spec.reached().filter(|_| !job.is_ended())?;
    let rows = || state.allocations_of_task(job.id, position);
    let count = |wanted: fn(&AllocationRow) -> bool| {
        u32::try_from(rows().filter(|row| wanted(row)).count()).unwrap_or(u32::MAX)
    };
    let replica = |row: &AllocationRow| v1::ReplicaStatus {
        allocation: Some(allocation(state, row)),
        address: address(state, row, port).unwrap_or_default(),
    };
    Some(v1::Service {
        job_id: job.id.0,
        namespace: job.namespace().to_string(),
        name: job.name().to_string(),
        version: job.version,
        model: job.spec.model().to_owned(),
        port: port.to_string(),
        balance: routing_policy_to_proto(job.spec.route.balance),
        timeout_ms: job.spec.route.timeout.0,
        drain_ms: job.spec.route.drain.0,
        replicas_wanted: task.count,
        replicas_ready: count(|row| row.state == AllocationState::Running { ready: true }),
        replicas_draining: count(|row| row.draining.is_some()),
        replicas: rows().map(|row| replica(row)).collect(),
        uses: Vec::new(),
        gateways: None,
        stale_ms: None,
        scaling: job.spec.autoscale.as_ref().map(|rule| scaling(rule, job)),
    })
}

fn scaling(rule: &Autoscale, job: &JobRow) -> v1::ServiceScaling {
    let targets = rule.targets(job.spec.route.in_flight_max);
    v1::ServiceScaling {
        min: rule.min,
        max: rule.max,
        policy: scaling_policy_to_proto(rule.policy),
        targets: targets_to_proto(&targets),
        because: String::new(),
    }
}
