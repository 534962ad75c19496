//! What was on a node after a restore, and what became of its orphans.

use std::sync::Arc;

use berth_model::{AllocationId, Name, NodeId, NodeSpec, SpecDigest};
use berth_proto::log::v1;
use berth_proto::v1 as public;
use berth_state::{Command, Stock, Unknown};
use bytes::Bytes;

use super::observation::{end_to_proto, read_end};
use crate::frozen::values::{
    allocation_to_proto, allocations_to_proto, claim_to_proto, read_allocation, read_allocations,
    read_claim,
};
use crate::problem::{Field, Problems};
use crate::spec::{node_spec_to_proto, read_node};

pub(super) fn to_proto(
    name: &Name,
    instance_key: [u8; 16],
    spec: &NodeSpec,
    stock: &Stock,
) -> v1::TakeStock {
    let ended = stock.ended.iter().map(|(id, report)| v1::take_stock::Ended {
        allocation: Some(allocation_to_proto(*id)),
        report: Some(end_to_proto(report)),
    });
    v1::TakeStock {
        name: name.to_string(),
        instance_key: Bytes::copy_from_slice(&instance_key),
        spec: Some(node_spec_to_proto(spec)),
        ended: ended.collect(),
        absent: allocations_to_proto(&stock.absent),
        unknown: stock.unknown.iter().map(unknown_to_proto).collect(),
        complete: stock.complete,
    }
}

fn unknown_to_proto(unknown: &Unknown) -> v1::take_stock::Unknown {
    v1::take_stock::Unknown {
        allocation: Some(allocation_to_proto(unknown.allocation)),
        namespace: unknown.namespace.clone(),
        job_name: unknown.job_name.clone(),
        spec_digest: Bytes::copy_from_slice(&unknown.spec_digest.0),
        claim: Some(claim_to_proto(&unknown.claim)),
    }
}

pub(super) fn stop_to_proto(
    node: NodeId,
    orphans: &[AllocationId],
    reason: &str,
) -> v1::StopOrphans {
    let orphans = allocations_to_proto(orphans);
    v1::StopOrphans { node: node.0, orphans, reason: reason.to_owned() }
}

pub(super) fn forget_to_proto(
    node: NodeId,
    session: u64,
    orphans: &[AllocationId],
) -> v1::ForgetOrphans {
    v1::ForgetOrphans { node: node.0, session, orphans: allocations_to_proto(orphans) }
}

pub(super) fn read(
    at: Field<'_>,
    proto: v1::TakeStock,
    problems: &mut Problems,
) -> Option<Command> {
    let spec_at = at.named("spec");
    let spec: public::NodeSpec = problems.present(spec_at, proto.spec)?;
    let mut ended = Vec::with_capacity(proto.ended.len());
    for (position, proto) in proto.ended.into_iter().enumerate() {
        let ended_at = at.named("ended");
        let at = ended_at.item(position);
        let id = read_allocation(at.named("allocation"), proto.allocation, problems)?;
        let report = problems.present(at.named("report"), proto.report)?;
        ended.push((id, read_end(at.named("report"), report, problems)?));
    }
    let mut unknown = Vec::with_capacity(proto.unknown.len());
    for (position, proto) in proto.unknown.into_iter().enumerate() {
        let unknown_at = at.named("unknown");
        unknown.push(read_unknown(unknown_at.item(position), proto, problems)?);
    }
    Some(Command::TakeStock {
        name: problems.name(at.named("name"), &proto.name)?,
        instance_key: problems.bytes(at.named("instance_key"), &proto.instance_key)?,
        spec: Arc::new(read_node(spec_at, spec, problems)?),
        stock: Stock {
            ended,
            absent: read_allocations(at.named("absent"), proto.absent, problems),
            unknown,
            complete: proto.complete,
        },
    })
}

fn read_unknown(
    at: Field<'_>,
    proto: v1::take_stock::Unknown,
    problems: &mut Problems,
) -> Option<Unknown> {
    Some(Unknown {
        allocation: read_allocation(at.named("allocation"), proto.allocation, problems)?,
        namespace: proto.namespace,
        job_name: proto.job_name,
        spec_digest: SpecDigest(problems.bytes(at.named("spec_digest"), &proto.spec_digest)?),
        claim: read_claim(at.named("claim"), proto.claim, problems)?,
    })
}

pub(super) fn read_stop(at: Field<'_>, proto: v1::StopOrphans, problems: &mut Problems) -> Command {
    Command::StopOrphans {
        node: NodeId(proto.node),
        orphans: read_allocations(at.named("orphans"), proto.orphans, problems),
        reason: proto.reason,
    }
}

pub(super) fn read_forget(
    at: Field<'_>,
    proto: v1::ForgetOrphans,
    problems: &mut Problems,
) -> Command {
    Command::ForgetOrphans {
        node: NodeId(proto.node),
        session: proto.session,
        orphans: read_allocations(at.named("orphans"), proto.orphans, problems),
    }
}
