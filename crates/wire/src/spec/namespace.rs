//! What is set for a namespace.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use berth_model::{Bounds, Guarantee, Limit, LimitRange, NamespaceSpec, Quota, Resource};
use berth_proto::v1;

use crate::problem::{Cause, Field, Problems};

/// The message for what is set for a namespace.
pub fn namespace_spec_to_proto(spec: &NamespaceSpec) -> v1::NamespaceSpec {
    let NamespaceSpec { name, description, quota, range, weight } = spec;
    v1::NamespaceSpec {
        name: name.to_string(),
        description: description.clone(),
        quota: quota_to_proto(quota),
        range: range_to_proto(range),
        weight: (*weight != NamespaceSpec::WEIGHT_DEFAULT).then_some(*weight),
    }
}

/// No limits are an absent message, so that there is one encoding.
fn quota_to_proto(quota: &Quota) -> Option<v1::Quota> {
    let Quota { limit, guaranteed } = quota;
    let mut proto = v1::QuotaLimit {
        submits_per_second: limit.submits_per_second.map(NonZeroU32::get),
        ..v1::QuotaLimit::default()
    };
    for (resource, amount) in &limit.amounts {
        *amount_of(&mut proto, *resource) = Some(*amount);
    }
    let limit = (!limit.is_empty()).then_some(proto);
    let guaranteed = guarantee_to_proto(guaranteed);
    (limit.is_some() || guaranteed.is_some()).then_some(v1::Quota { limit, guaranteed })
}

fn guarantee_to_proto(sure: &Guarantee) -> Option<v1::QuotaGuarantee> {
    let of = |resource: Resource| sure.amounts.get(&resource).copied();
    let [gpu_milli, gpu_memory_bytes, cpu_milli, memory_bytes] = Guarantee::RESOURCES.map(of);
    let proto = v1::QuotaGuarantee { gpu_milli, gpu_memory_bytes, cpu_milli, memory_bytes };
    (!sure.is_empty()).then_some(proto)
}

fn guarantee_from_proto(proto: v1::QuotaGuarantee) -> Guarantee {
    let v1::QuotaGuarantee { gpu_milli, gpu_memory_bytes, cpu_milli, memory_bytes } = proto;
    let given = [gpu_milli, gpu_memory_bytes, cpu_milli, memory_bytes];
    let given = Guarantee::RESOURCES.into_iter().zip(given);
    Guarantee { amounts: given.filter_map(|(one, amount)| Some((one, amount?))).collect() }
}

fn amount_of(proto: &mut v1::QuotaLimit, resource: Resource) -> &mut Option<u64> {
    match resource {
        Resource::Gpus => &mut proto.gpu_milli,
        Resource::GpuMemory => &mut proto.gpu_memory_bytes,
        Resource::Cpu => &mut proto.cpu_milli,
        Resource::Memory => &mut proto.memory_bytes,
        Resource::RunningTasks => &mut proto.running_tasks,
        Resource::QueuedJobs => &mut proto.queued_jobs,
    }
}

fn range_to_proto(range: &LimitRange) -> Option<v1::LimitRange> {
    let of = |resource: Resource| {
        let Bounds { default, min, max } = *range.0.get(&resource)?;
        Some(v1::Bounds { default_amount: default, min, max })
    };
    let [gpus, gpu_memory, cpu, memory] = LimitRange::RESOURCES.map(of);
    (!range.0.is_empty()).then_some(v1::LimitRange { cpu, memory, gpus, gpu_memory })
}

fn range_from_proto(proto: v1::LimitRange) -> LimitRange {
    let v1::LimitRange { cpu, memory, gpus, gpu_memory } = proto;
    let given = LimitRange::RESOURCES.into_iter().zip([gpus, gpu_memory, cpu, memory]);
    let read = |(resource, bounds): (Resource, Option<v1::Bounds>)| {
        let v1::Bounds { default_amount: default, min, max } = bounds?;
        Some((resource, Bounds { default, min, max }))
    };
    LimitRange(given.filter_map(read).collect())
}

/// Reads the form of it, not its sense.
pub(crate) fn read_namespace(
    at: Field<'_>,
    proto: v1::NamespaceSpec,
    problems: &mut Problems,
) -> Option<NamespaceSpec> {
    let name = problems.name(at.named("name"), &proto.name);
    let quota_at = at.named("quota");
    let v1::Quota { limit, guaranteed } = proto.quota.unwrap_or_default();
    let limit = read_limit(quota_at.named("limit"), limit.unwrap_or_default(), problems);
    let guaranteed = guaranteed.map(guarantee_from_proto).unwrap_or_default();
    Some(NamespaceSpec {
        name: name?,
        description: proto.description,
        quota: Quota { limit: limit?, guaranteed },
        range: proto.range.map(range_from_proto).unwrap_or_default(),
        weight: proto.weight.unwrap_or(NamespaceSpec::WEIGHT_DEFAULT),
    })
}

fn read_limit(at: Field<'_>, mut proto: v1::QuotaLimit, problems: &mut Problems) -> Option<Limit> {
    let given = Resource::ALL.into_iter();
    let given = given.filter_map(|one| Some((one, amount_of(&mut proto, one).take()?)));
    let amounts: BTreeMap<Resource, u64> = given.collect();
    let submits_per_second = match proto.submits_per_second.map(NonZeroU32::new) {
        Some(None) => {
            let cause = Cause::OutOfRange { allowed: "at least 1", found: 0 };
            problems.add(at.named("submits_per_second"), cause);
            return None;
        }
        given => given.flatten(),
    };
    Some(Limit { amounts, submits_per_second })
}
