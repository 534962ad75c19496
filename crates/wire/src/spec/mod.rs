//! Job and node specifications and the claims on a node, in both forms.
//!
//! Form is checked here (names, enums, ranges, what must be there), sense by
//! `berth_model::validate`. The public entry points do both and list every
//! problem. What comes out of the log is only converted: a reader of the log
//! must accept whatever a writer of the log could be given, since a node that
//! cannot decode an entry stops.

mod autoscale;
mod claim;
mod digest;
mod job;
mod namespace;
mod node;
mod node_reservation;
mod policy;
mod route;
mod task;

use berth_model::validate::SPEC_BYTES_MAX;
use berth_model::{
    JobSpec, NamespaceSpec, NodeReservation, NodeSpec, Violation, validate, validate_namespace,
    validate_node, validate_node_reservation,
};
use berth_proto::v1;
use prost::Message as _;

pub use autoscale::{scaling_metric_from_proto, scaling_policy_from_proto};
pub use claim::{
    device_claim_from_proto, device_claim_to_proto, port_claim_from_proto, port_claim_to_proto,
};
pub use digest::spec_digest;
pub use job::job_spec_to_proto;
pub use namespace::namespace_spec_to_proto;
pub use node::node_spec_to_proto;
pub use node_reservation::node_reservation_to_proto;
pub use policy::{
    policy_from_proto, policy_origin_from_proto, policy_origin_to_proto, policy_to_proto,
};
pub use route::{routing_policy_from_proto, routing_policy_to_proto};

pub(crate) use autoscale::{scaling_policy_to_proto, targets_to_proto};
pub(crate) use claim::{
    check_device_claim, read_device_claim, read_port_claims, read_seat, seat_to_proto,
};
pub(crate) use job::{constraints_to_proto, read_constraints, read_job};
pub(crate) use namespace::read_namespace;
pub(crate) use node::read_node;
pub(crate) use node_reservation::read_node_reservation;
pub(crate) use task::{gpu_from_proto, gpu_to_proto};

use crate::problem::{Field, Problems};

/// An encoded node specification: what fits a log entry with room to spare.
pub const NODE_SPEC_BYTES_MAX: usize = 48 << 10;

/// Reads a specification that somebody submits.
///
/// # Errors
/// Everything wrong with it: in its form, else in its sense. One that is
/// longer than `SPEC_BYTES_MAX` when encoded is refused for that alone.
pub fn job_spec_from_proto(proto: v1::JobSpec) -> Result<JobSpec, Vec<Violation>> {
    within(proto.encoded_len(), SPEC_BYTES_MAX)?;
    let mut problems = Problems::default();
    let spec = read_job(Field::ROOT, proto, &mut problems);
    let spec = problems.verdict(spec)?;
    sound(validate(&spec)).map(|()| spec)
}

/// Reads what an administrator sets for a namespace.
///
/// # Errors
/// Everything wrong with it, as for a job.
pub fn namespace_spec_from_proto(
    proto: v1::NamespaceSpec,
) -> Result<NamespaceSpec, Vec<Violation>> {
    let mut problems = Problems::default();
    let spec = read_namespace(Field::ROOT, proto, &mut problems);
    let spec = problems.verdict(spec)?;
    sound(validate_namespace(&spec)).map(|()| spec)
}

/// Reads what is set of a reservation of nodes.
///
/// # Errors
/// Everything wrong with it, as for a job.
pub fn node_reservation_from_proto(
    proto: v1::NodeReservationSpec,
) -> Result<NodeReservation, Vec<Violation>> {
    let mut problems = Problems::default();
    let spec = read_node_reservation(Field::ROOT, proto, &mut problems);
    let spec = problems.verdict(spec)?;
    sound(validate_node_reservation(&spec)).map(|()| spec)
}

/// Reads what an agent declares about its host.
///
/// # Errors
/// Everything wrong with it, as for a job.
pub fn node_spec_from_proto(proto: v1::NodeSpec) -> Result<NodeSpec, Vec<Violation>> {
    within(proto.encoded_len(), NODE_SPEC_BYTES_MAX)?;
    let mut problems = Problems::default();
    let spec = read_node(Field::ROOT, proto, &mut problems);
    let spec = problems.verdict(spec)?;
    sound(validate_node(&spec)).map(|()| spec)
}

fn within(found: usize, bytes_max: usize) -> Result<(), Vec<Violation>> {
    if found <= bytes_max {
        return Ok(());
    }
    Err(vec![Violation {
        field: String::new(),
        message: format!(
            "the encoded specification has {found} bytes, at most {bytes_max} are allowed"
        ),
        hint: Some("keep files and long values out of it, and let the command fetch them".into()),
    }])
}

fn sound(violations: Vec<Violation>) -> Result<(), Vec<Violation>> {
    if violations.is_empty() { Ok(()) } else { Err(violations) }
}

#[cfg(test)]
mod tests;
