//! What should be on a node: rows, the digest by which both sides know that
//! they mean the same rows, and the two messages that carry them.

use std::sync::Arc;

use berth_model::{AllocationId, DeviceClaim, GangSeat, JobSpec, PortClaim, SpecDigest, Violation};
use berth_proto::v1;
use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::observation::read_allocation;
use crate::problem::{Cause, Field, Problems};
use crate::spec::{
    check_device_claim, device_claim_to_proto, job_spec_to_proto, port_claim_to_proto,
    read_device_claim, read_job, read_port_claims, read_seat, seat_to_proto,
};

/// What should be true of one allocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DesiredRow {
    pub allocation: AllocationId,
    /// Which specification it runs.
    pub spec: SpecDigest,
    pub devices: Vec<DeviceClaim>,
    pub ports: Vec<PortClaim>,
    /// Of a member of a gang.
    pub seat: Option<GangSeat>,
    /// Set: its worker must end, for this reason.
    pub stop: Option<String>,
}

/// Everything that should be on a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Full {
    pub incarnation: u64,
    pub generation: u64,
    pub rows: Vec<DesiredRow>,
    /// Specifications that the session has not carried before.
    pub specs: Vec<(SpecDigest, Arc<JobSpec>)>,
    /// `desired_digest` of the rows.
    pub digest: [u8; 32],
}

/// What leads from one generation to a later one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delta {
    pub incarnation: u64,
    pub from: u64,
    pub to: u64,
    pub upserts: Vec<DesiredRow>,
    pub removed: Vec<AllocationId>,
    pub specs: Vec<(SpecDigest, Arc<JobSpec>)>,
    /// `desired_digest` of all rows once the change is made.
    pub digest: [u8; 32],
}

/// SHA-256 over the rows by ascending allocation id, each encoded after its
/// length. Scheduler and agent compute it alike over the whole desired set of
/// a node, in whatever order they hold it. O(n log n), O(n) when in order.
///
/// A field that is added to a row later must not enter for agents that do not
/// know it: they would ask for everything again and again.
pub fn desired_digest<'a>(rows: impl IntoIterator<Item = &'a DesiredRow>) -> [u8; 32] {
    let mut rows: Vec<&DesiredRow> = rows.into_iter().collect();
    rows.sort_by_key(|row| row.allocation);
    let mut hasher = Sha256::new();
    for row in rows {
        hasher.update(desired_row_to_proto(row).encode_length_delimited_to_vec());
    }
    hasher.finalize().into()
}

/// The message for a row.
pub fn desired_row_to_proto(row: &DesiredRow) -> v1::DesiredAllocation {
    v1::DesiredAllocation {
        allocation_id: row.allocation.to_string(),
        spec_digest: Bytes::copy_from_slice(&row.spec.0),
        devices: row.devices.iter().map(device_claim_to_proto).collect(),
        ports: row.ports.iter().map(port_claim_to_proto).collect(),
        stop: row.stop.is_some(),
        stop_reason: row.stop.clone().unwrap_or_default(),
        seat: row.seat.as_ref().map(seat_to_proto),
    }
}

/// Reads a row.
///
/// # Errors
/// Everything wrong with it.
pub fn desired_row_from_proto(proto: v1::DesiredAllocation) -> Result<DesiredRow, Vec<Violation>> {
    let mut problems = Problems::default();
    let row = read_row(Field::ROOT, proto, &mut problems);
    problems.verdict(row)
}

fn read_row(
    at: Field<'_>,
    proto: v1::DesiredAllocation,
    problems: &mut Problems,
) -> Option<DesiredRow> {
    let allocation = read_allocation(at.named("allocation_id"), &proto.allocation_id, problems);
    let spec = problems.bytes(at.named("spec_digest"), &proto.spec_digest).map(SpecDigest);
    let devices_at = at.named("devices");
    for (position, claim) in proto.devices.iter().enumerate() {
        check_device_claim(devices_at.item(position), claim, problems);
    }
    let ports = read_port_claims(at.named("ports"), proto.ports, problems);
    let seat = match proto.seat {
        None => Some(None),
        Some(seat) => read_seat(at.named("seat"), seat, problems).map(Some),
    };
    if !proto.stop && !proto.stop_reason.is_empty() {
        problems.add(at.named("stop"), Cause::Contradiction("has a reason to stop and is not to"));
    }
    Some(DesiredRow {
        allocation: allocation?,
        spec: spec?,
        devices: proto.devices.into_iter().map(read_device_claim).collect(),
        ports,
        seat: seat?,
        stop: proto.stop.then_some(proto.stop_reason),
    })
}

/// The message that carries a specification.
pub fn spec_row_to_proto(digest: SpecDigest, spec: &JobSpec) -> v1::SpecRow {
    v1::SpecRow { digest: Bytes::copy_from_slice(&digest.0), spec: Some(job_spec_to_proto(spec)) }
}

/// Reads a specification with the digest it is known by. The digest is not
/// computed again: the scheduler did, perhaps over fields newer than this
/// program.
///
/// # Errors
/// Everything wrong with its form.
pub fn spec_row_from_proto(
    proto: v1::SpecRow,
) -> Result<(SpecDigest, Arc<JobSpec>), Vec<Violation>> {
    let mut problems = Problems::default();
    let row = read_spec(Field::ROOT, proto, &mut problems);
    problems.verdict(row)
}

fn read_spec(
    at: Field<'_>,
    proto: v1::SpecRow,
    problems: &mut Problems,
) -> Option<(SpecDigest, Arc<JobSpec>)> {
    let digest = problems.bytes(at.named("digest"), &proto.digest).map(SpecDigest);
    let at = at.named("spec");
    let spec = problems.present(at, proto.spec).and_then(|spec| read_job(at, spec, problems));
    digest.zip(spec.map(Arc::new))
}

/// The message for everything.
pub fn full_to_proto(full: &Full) -> v1::Full {
    v1::Full {
        incarnation: full.incarnation,
        generation: full.generation,
        rows: full.rows.iter().map(desired_row_to_proto).collect(),
        specs: specs_to_proto(&full.specs),
        digest: Bytes::copy_from_slice(&full.digest),
    }
}

/// Reads everything that should be on a node.
///
/// # Errors
/// Everything wrong with it. Whether the digest is that of the rows is for the
/// receiver to ask, who answers by asking for everything.
pub fn full_from_proto(proto: v1::Full) -> Result<Full, Vec<Violation>> {
    let mut problems = Problems::default();
    let at = Field::ROOT;
    let rows = read_rows(at.named("rows"), proto.rows, &mut problems);
    let specs = read_specs(at.named("specs"), proto.specs, &mut problems);
    let digest = problems.bytes(at.named("digest"), &proto.digest);
    let full = digest.map(|digest| Full {
        incarnation: proto.incarnation,
        generation: proto.generation,
        rows,
        specs,
        digest,
    });
    problems.verdict(full)
}

/// The message for a change.
pub fn delta_to_proto(delta: &Delta) -> v1::Delta {
    v1::Delta {
        incarnation: delta.incarnation,
        from: delta.from,
        to: delta.to,
        upserts: delta.upserts.iter().map(desired_row_to_proto).collect(),
        removed: delta.removed.iter().map(AllocationId::to_string).collect(),
        specs: specs_to_proto(&delta.specs),
        digest: Bytes::copy_from_slice(&delta.digest),
    }
}

/// Reads a change of what should be on a node.
///
/// # Errors
/// Everything wrong with it.
pub fn delta_from_proto(proto: v1::Delta) -> Result<Delta, Vec<Violation>> {
    let mut problems = Problems::default();
    let at = Field::ROOT;
    let upserts = read_rows(at.named("upserts"), proto.upserts, &mut problems);
    let mut removed = Vec::with_capacity(proto.removed.len());
    for (position, id) in proto.removed.iter().enumerate() {
        removed.extend(read_allocation(at.named("removed").item(position), id, &mut problems));
    }
    let specs = read_specs(at.named("specs"), proto.specs, &mut problems);
    let digest = problems.bytes(at.named("digest"), &proto.digest);
    let delta = digest.map(|digest| Delta {
        incarnation: proto.incarnation,
        from: proto.from,
        to: proto.to,
        upserts,
        removed,
        specs,
        digest,
    });
    problems.verdict(delta)
}

fn specs_to_proto(specs: &[(SpecDigest, Arc<JobSpec>)]) -> Vec<v1::SpecRow> {
    specs.iter().map(|(digest, spec)| spec_row_to_proto(*digest, spec)).collect()
}

fn read_rows(
    at: Field<'_>,
    protos: Vec<v1::DesiredAllocation>,
    problems: &mut Problems,
) -> Vec<DesiredRow> {
    let mut rows = Vec::with_capacity(protos.len());
    for (position, proto) in protos.into_iter().enumerate() {
        rows.extend(read_row(at.item(position), proto, problems));
    }
    rows
}

fn read_specs(
    at: Field<'_>,
    protos: Vec<v1::SpecRow>,
    problems: &mut Problems,
) -> Vec<(SpecDigest, Arc<JobSpec>)> {
    let mut specs = Vec::with_capacity(protos.len());
    for (position, proto) in protos.into_iter().enumerate() {
        specs.extend(read_spec(at.item(position), proto, problems));
    }
    specs
}
