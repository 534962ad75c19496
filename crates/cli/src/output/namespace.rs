//! Namespaces: what they may use, and what they do use.

use berth_model::{Guarantee, Resource};
use berth_proto::v1::{
    Bounds, LimitRange, Namespace, NamespaceSpec, QuotaGuarantee, QuotaLimit, QuotaUse,
};
use serde_json::{Map, Value, json};

use super::{Answer, Piece, Table, rfc3339_or_null};

fn limit_of(namespace: &Namespace) -> QuotaLimit {
    let quota = namespace.spec.as_ref().and_then(|spec| spec.quota.as_ref());
    quota.and_then(|quota| quota.limit).unwrap_or_default()
}

fn limit(limit: &QuotaLimit, resource: Resource) -> Option<u64> {
    match resource {
        Resource::Gpus => limit.gpu_milli,
        Resource::GpuMemory => limit.gpu_memory_bytes,
        Resource::Cpu => limit.cpu_milli,
        Resource::Memory => limit.memory_bytes,
        Resource::RunningTasks => limit.running_tasks,
        Resource::QueuedJobs => limit.queued_jobs,
    }
}

fn guarantee_of(namespace: &Namespace) -> QuotaGuarantee {
    let quota = namespace.spec.as_ref().and_then(|spec| spec.quota.as_ref());
    quota.and_then(|quota| quota.guaranteed).unwrap_or_default()
}

fn guaranteed(sure: &QuotaGuarantee, resource: Resource) -> Option<u64> {
    match resource {
        Resource::Gpus => sure.gpu_milli,
        Resource::GpuMemory => sure.gpu_memory_bytes,
        Resource::Cpu => sure.cpu_milli,
        Resource::Memory => sure.memory_bytes,
        Resource::RunningTasks | Resource::QueuedJobs => None,
    }
}

fn used(used: &QuotaUse, resource: Resource) -> u64 {
    match resource {
        Resource::Gpus => used.gpu_milli,
        Resource::GpuMemory => used.gpu_memory_bytes,
        Resource::Cpu => used.cpu_milli,
        Resource::Memory => used.memory_bytes,
        Resource::RunningTasks => used.running_tasks,
        Resource::QueuedJobs => used.queued_jobs,
    }
}

/// The key of a resource in JSON, with its unit.
fn key(resource: Resource) -> &'static str {
    match resource {
        Resource::Gpus => "gpu_milli",
        Resource::GpuMemory => "gpu_memory_bytes",
        Resource::Cpu => "cpu_milli",
        Resource::Memory => "memory_bytes",
        Resource::RunningTasks => "running_tasks",
        Resource::QueuedJobs => "queued_jobs",
    }
}

fn amounts(of: impl Fn(Resource) -> Value) -> Map<String, Value> {
    Resource::ALL.into_iter().map(|resource| (key(resource).to_owned(), of(resource))).collect()
}

/// Every key is there; what has no limit is null.
fn namespace_json(namespace: &Namespace) -> Value {
    let NamespaceSpec { name, description, .. } = namespace.spec.clone().unwrap_or_default();
    let limits = limit_of(namespace);
    let uses = namespace.used.unwrap_or_default();
    let mut limit = amounts(|resource| json!(limit(&limits, resource)));
    limit.insert("submits_per_second".to_owned(), json!(limits.submits_per_second));
    let sure = guarantee_of(namespace);
    let of_nodes = |of: &dyn Fn(Resource) -> Option<u64>| -> Map<String, Value> {
        let resources = Guarantee::RESOURCES.into_iter();
        resources.map(|resource| (key(resource).to_owned(), json!(of(resource)))).collect()
    };
    let lent = |resource| lent(&sure, &uses, resource);
    json!({
        "name": name,
        "description": description,
        "version": namespace.version,
        "changed_at": rfc3339_or_null(namespace.changed_at_ms),
        "quota": {
            "limit": limit,
            "guaranteed": of_nodes(&|resource| guaranteed(&sure, resource)),
        },
        "range": range_json(namespace),
        "used": amounts(|resource| json!(used(&uses, resource))),
        "lent": of_nodes(&lent),
        "weight": weight(namespace),
        "share_now_milli": namespace.share_now_milli,
        "share_lately_milli": namespace.share_lately_milli,
    })
}

fn weight(namespace: &Namespace) -> u32 {
    let weight = namespace.spec.as_ref().and_then(|spec| spec.weight);
    weight.unwrap_or(berth_model::NamespaceSpec::WEIGHT_DEFAULT)
}

/// What of the cluster it has, by which its place in the queue goes.
fn share_text(namespace: &Namespace) -> String {
    let percent = |milli: u32| format!("{}.{} %", milli / 10, milli % 10);
    format!(
        "share of the cluster: {} now, {} lately; weight {}\n",
        percent(namespace.share_now_milli),
        percent(namespace.share_lately_milli),
        weight(namespace)
    )
}

/// What is used beyond what is guaranteed, where something is.
fn lent(sure: &QuotaGuarantee, uses: &QuotaUse, resource: Resource) -> Option<u64> {
    Some(used(uses, resource).saturating_sub(guaranteed(sure, resource)?))
}

fn bounds_of(namespace: &Namespace) -> Vec<(Resource, Bounds)> {
    let range = namespace.spec.as_ref().and_then(|spec| spec.range).unwrap_or_default();
    let LimitRange { cpu, memory, gpus, gpu_memory } = range;
    let all = [
        (Resource::Gpus, gpus),
        (Resource::GpuMemory, gpu_memory),
        (Resource::Cpu, cpu),
        (Resource::Memory, memory),
    ];
    all.into_iter().filter_map(|(resource, bounds)| Some((resource, bounds?))).collect()
}

/// Of what has bounds or a default.
fn range_json(namespace: &Namespace) -> Map<String, Value> {
    let bounds = bounds_of(namespace).into_iter();
    let shown = bounds.map(|(resource, Bounds { default_amount: default, min, max })| {
        (key(resource).to_owned(), json!({ "default": default, "min": min, "max": max }))
    });
    shown.collect()
}

/// None where there are no bounds.
fn range_table(namespace: &Namespace) -> Option<Table> {
    let bounds = bounds_of(namespace);
    let mut table = Table::new(&["TASK", "DEFAULT", "MIN", "MAX"], &[]);
    for (resource, Bounds { default_amount: default, min, max }) in &bounds {
        let shown = |amount: &Option<u64>| {
            amount.map_or_else(|| "-".to_owned(), |amount| resource.show(amount))
        };
        table.row(vec![resource.name().to_owned(), shown(default), shown(min), shown(max)]);
    }
    (!bounds.is_empty()).then_some(table)
}

fn quota_table(namespace: &Namespace) -> Table {
    let mut table = Table::new(&["RESOURCE", "USED", "GUARANTEED", "LENT", "LIMIT"], &[]);
    let (limits, sure) = (limit_of(namespace), guarantee_of(namespace));
    let uses = namespace.used.unwrap_or_default();
    for resource in Resource::ALL {
        let or_dash = |amount: Option<u64>| {
            amount.map_or_else(|| "-".to_owned(), |amount| resource.show(amount))
        };
        table.row(vec![
            resource.name().to_owned(),
            resource.show(used(&uses, resource)),
            or_dash(guaranteed(&sure, resource)),
            or_dash(lent(&sure, &uses, resource)),
            or_dash(limit(&limits, resource)),
        ]);
    }
    let rate = limits.submits_per_second.map_or_else(|| "-".to_owned(), |rate| rate.to_string());
    let none = || "-".to_owned();
    table.row(vec!["submits_per_second".to_owned(), none(), none(), none(), rate]);
    table
}

/// What a namespace may use, and what it uses.
pub(crate) fn quota_answer(namespace: &Namespace) -> Answer {
    Answer {
        json: namespace_json(namespace),
        pieces: vec![Piece::Table(quota_table(namespace)), Piece::Text(share_text(namespace))],
        ids: Resource::ALL.map(|resource| resource.name().to_owned()).to_vec(),
    }
}

pub(crate) fn namespace_answer(namespace: &Namespace) -> Answer {
    let NamespaceSpec { name, description, .. } = namespace.spec.clone().unwrap_or_default();
    let mut facts = match namespace.version {
        0 => format!("namespace {name}, nothing is set\n"),
        version => format!("namespace {name}, version {version}\n"),
    };
    if !description.is_empty() {
        facts.push_str(&format!("{description}\n"));
    }
    let mut pieces = vec![
        Piece::Text(facts),
        Piece::Table(quota_table(namespace)),
        Piece::Text(share_text(namespace)),
    ];
    pieces.extend(range_table(namespace).map(Piece::Table));
    Answer { json: namespace_json(namespace), pieces, ids: vec![name] }
}

pub(crate) fn namespaces_answer(namespaces: &[Namespace]) -> Answer {
    let columns = ["NAME", "VERSION", "GPUS", "CPU", "MEMORY", "RUNNING", "QUEUED"];
    let mut table = Table::new(&columns, &["GPU-MEMORY", "DESCRIPTION"]);
    let name =
        |one: &Namespace| one.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
    for one in namespaces {
        let (limits, uses) = (limit_of(one), one.used.unwrap_or_default());
        let share = |resource: Resource| {
            let shown = resource.show(used(&uses, resource));
            match limit(&limits, resource) {
                Some(most) => format!("{shown}/{}", resource.show(most)),
                None => shown,
            }
        };
        let description = one.spec.as_ref().map(|spec| spec.description.clone());
        table.row(vec![
            name(one),
            if one.version == 0 { "-".to_owned() } else { one.version.to_string() },
            share(Resource::Gpus),
            share(Resource::Cpu),
            share(Resource::Memory),
            share(Resource::RunningTasks),
            share(Resource::QueuedJobs),
            share(Resource::GpuMemory),
            description.unwrap_or_default(),
        ]);
    }
    Answer {
        json: namespaces.iter().map(namespace_json).collect(),
        pieces: vec![Piece::Table(table)],
        ids: namespaces.iter().map(name).collect(),
    }
}
