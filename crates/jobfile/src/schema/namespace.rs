//! What is set for a namespace: the other kind of file.

use std::num::NonZeroU32;

use berth_model::{
    Bounds, Guarantee, Limit, LimitRange, Name, NamespaceSpec, Quota, Resource, validate_namespace,
};

use super::keys;
use super::task::read_cpu;
use super::walk::{Field, Walk};
use crate::problem::{Complaint, Complaints};
use crate::text::{Span, shown};
use crate::tree::{Table, Value};

/// GPUs of a quota: far more than any cluster has.
const GPUS_MAX: u32 = 1_000_000;

/// Reads the tree of a file.
pub(crate) fn read_namespace(
    tree: &Table,
    whole: Span,
    complaints: &mut Complaints,
) -> Option<NamespaceSpec> {
    let mut walk = Walk::new(complaints);
    walk.refuse_unknown(tree, "", &keys::NAMESPACE);
    if tree.get("name").is_none() {
        let hint = "say which namespace, as in name = \"research\"";
        walk.complaints.add_with_hint(whole, "name", "`name` is missing", hint);
    }
    let name = walk.field(tree, "", "name").and_then(|field| walk.name(&field));
    let description = walk.field(tree, "", "description");
    let description = description.and_then(|field| walk.text(&field).map(str::to_owned));
    let quota = walk.field(tree, "", "quota").map(|field| read_quota(&mut walk, &field));
    let range = walk.field(tree, "", "range").map(|field| read_range(&mut walk, &field));
    let weight = walk.field(tree, "", "weight");
    let weight = weight.and_then(|field| walk.integer(&field, 1, NamespaceSpec::WEIGHT_MAX));
    let spec = NamespaceSpec {
        name: name.unwrap_or_else(placeholder),
        description: description.unwrap_or_default(),
        quota: quota.unwrap_or_default(),
        range: range.unwrap_or_default(),
        weight: weight.unwrap_or(NamespaceSpec::WEIGHT_DEFAULT),
    };
    check_sense(&mut walk, &spec, whole);
    walk.complaints.is_empty().then_some(spec)
}

fn placeholder() -> Name {
    Name::new("unnamed").expect("letters make a name")
}

/// What the server would refuse, in its words, with places of the file.
fn check_sense(walk: &mut Walk<'_>, spec: &NamespaceSpec, whole: Span) {
    for violation in validate_namespace(spec) {
        if walk.complaints.covers(&violation.field) {
            continue;
        }
        let span = walk.place_of(&violation.field).unwrap_or(whole);
        let (path, message, hint) = (violation.field, violation.message, violation.hint);
        walk.complaints.push(Complaint { span, path, message, hint });
    }
}

fn read_quota(walk: &mut Walk<'_>, field: &Field<'_>) -> Quota {
    let Some(table) = walk.table(field, &keys::QUOTA) else { return Quota::default() };
    let limit = walk.field(table, &field.path, "limit");
    let limit = limit.map(|limit| read_limit(walk, &limit)).unwrap_or_default();
    let guaranteed = walk.field(table, &field.path, "guaranteed");
    let guaranteed = guaranteed.map(|sure| read_guarantee(walk, &sure)).unwrap_or_default();
    Quota { limit, guaranteed }
}

fn read_guarantee(walk: &mut Walk<'_>, field: &Field<'_>) -> Guarantee {
    let mut sure = Guarantee::default();
    let Some(table) = walk.table(field, &keys::QUOTA_GUARANTEED) else { return sure };
    for resource in Guarantee::RESOURCES {
        let Some(amount) = walk.field(table, &field.path, resource.name()) else { continue };
        sure.amounts.extend(read_amount(walk, &amount, resource).map(|most| (resource, most)));
    }
    sure
}

fn read_limit(walk: &mut Walk<'_>, field: &Field<'_>) -> Limit {
    let Some(table) = walk.table(field, &keys::QUOTA_LIMIT) else { return Limit::default() };
    let mut limit = Limit::default();
    for resource in Resource::ALL {
        let Some(amount) = walk.field(table, &field.path, resource.name()) else { continue };
        limit.amounts.extend(read_amount(walk, &amount, resource).map(|most| (resource, most)));
    }
    if let Some(rate) = walk.field(table, &field.path, "submits_per_second") {
        limit.submits_per_second = walk.integer(&rate, 1, u32::MAX).and_then(NonZeroU32::new);
    }
    limit
}

fn read_range(walk: &mut Walk<'_>, field: &Field<'_>) -> LimitRange {
    let mut range = LimitRange::default();
    let Some(table) = walk.table(field, &keys::RANGE) else { return range };
    for resource in LimitRange::RESOURCES {
        let Some(field) = walk.field(table, &field.path, resource.name()) else { continue };
        let Some(table) = walk.table(&field, &keys::BOUNDS) else { continue };
        let mut amount = |key: &str| {
            let field = walk.field(table, &field.path, key)?;
            read_amount(walk, &field, resource)
        };
        let (default, min, max) = (amount("default"), amount("min"), amount("max"));
        range.0.insert(resource, Bounds { default, min, max });
    }
    range
}

/// An amount of what a quota counts.
fn read_amount(walk: &mut Walk<'_>, field: &Field<'_>, resource: Resource) -> Option<u64> {
    match resource {
        Resource::Gpus => read_gpus(walk, field),
        Resource::GpuMemory | Resource::Memory => walk.size(field).map(|size| size.0),
        Resource::Cpu => read_cpu(walk, field).map(|cpu| cpu.0),
        Resource::RunningTasks | Resource::QueuedJobs => {
            walk.integer(field, 0, u32::MAX).map(u64::from)
        }
    }
}

/// In thousandths.
fn read_gpus(walk: &mut Walk<'_>, field: &Field<'_>) -> Option<u64> {
    let Value::Float(text) = &field.node.value else {
        return walk.integer(field, 0, GPUS_MAX).map(|count| u64::from(count) * 1000);
    };
    let milli = thousandths(text).filter(|milli| *milli <= u64::from(GPUS_MAX) * 1000);
    if milli.is_none() {
        let seen = shown(text);
        let message =
            format!("expected GPUs from 0 to {GPUS_MAX}, of at most three decimals, found {seen}");
        walk.complain(field, message);
    }
    milli
}

fn thousandths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.')?;
    let part = part.trim_end_matches('0');
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 3 {
        return None;
    }
    let milli: u64 = format!("{part:0<3}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(milli)
}
