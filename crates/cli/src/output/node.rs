//! Nodes and their GPUs.

use std::collections::BTreeMap;

use berth_model::{CpuMilli, MemoryBytes};
use berth_proto::v1::{
    Device, DeviceHealth, DeviceStatus, DrainWait, GetDeviceReply, MemoryErrors, Node, NodeGuard,
    NodeSpec,
};
use serde_json::{Value, json};

use super::{Answer, Piece, Table, ways};

fn health_name(health: i32) -> &'static str {
    match DeviceHealth::try_from(health) {
        Ok(DeviceHealth::Healthy) => "healthy",
        Ok(DeviceHealth::Suspect) => "suspect",
        Ok(DeviceHealth::Cordoned) => "cordoned",
        Ok(DeviceHealth::Fenced) => "fenced",
        Ok(DeviceHealth::Lost) => "lost",
        // Of a newer scheduler.
        Ok(DeviceHealth::Unspecified) | Err(_) => "unknown",
    }
}

/// The devices of a node with what is known of each now.
fn devices(node: &Node) -> Vec<(Device, DeviceStatus)> {
    let statuses: BTreeMap<&str, &DeviceStatus> =
        node.devices.iter().map(|status| (status.uuid.as_str(), status)).collect();
    let declared = node.spec.iter().flat_map(|spec| &spec.devices);
    declared
        .map(|device| {
            let status = statuses.get(device.uuid.as_str()).copied().cloned();
            (device.clone(), status.unwrap_or_default())
        })
        .collect()
}

/// The devices as they are declared, in the order in which their ways are.
fn declared(node: &Node) -> &[Device] {
    node.spec.as_ref().map_or(&[], |spec| &spec.devices)
}

fn device_json(node: &Node, device: &Device, status: &DeviceStatus) -> Value {
    json!({
        "uuid": device.uuid,
        "index": device.index,
        "model": device.model,
        "memory_total_bytes": device.memory_bytes,
        "memory_used_bytes": status.memory_used_bytes,
        "utilization": status.utilization_percent,
        "temperature_celsius": status.temperature_celsius,
        "health": health_name(device.health),
        "health_reason": device.health_reason,
        "cordoned": status.cordoned,
        "allocated_milli": status.allocated_milli,
        "numa_node": device.numa_node,
        "links": ways::links_json(declared(node), &device.uuid),
        "slice": device.slice.as_ref().map(|slice| {
            json!({ "parent": slice.parent, "profile": slice.profile })
        }),
        "unwatched": status.unwatched,
        "mps": status.mps,
        "memory_errors": status.memory_errors.as_ref().map(errors_json),
    })
}

fn errors_json(errors: &MemoryErrors) -> Value {
    json!({
        "corrected_volatile": errors.corrected_volatile,
        "uncorrected_volatile": errors.uncorrected_volatile,
        "corrected_aggregate": errors.corrected_aggregate,
        "uncorrected_aggregate": errors.uncorrected_aggregate,
        "rows_remapped_corrected": errors.rows_remapped_corrected,
        "rows_remapped_uncorrected": errors.rows_remapped_uncorrected,
        "remap_pending": errors.remap_pending,
        "remap_failed": errors.remap_failed,
    })
}

/// What is said of its memory, of as much as it tells.
fn memory_lines(errors: &MemoryErrors) -> Vec<String> {
    let told = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
    let mut lines = Vec::new();
    let mut two = |what: &str, corrected: Option<u64>, uncorrected: Option<u64>| {
        if corrected.or(uncorrected).is_some() {
            let (corrected, uncorrected) = (told(corrected), told(uncorrected));
            lines.push(format!("{what}: {corrected} corrected, {uncorrected} uncorrected"));
        }
    };
    two("memory errors now", errors.corrected_volatile, errors.uncorrected_volatile);
    two("memory errors in its life", errors.corrected_aggregate, errors.uncorrected_aggregate);
    two("rows exchanged", errors.rows_remapped_corrected, errors.rows_remapped_uncorrected);
    if errors.remap_failed == Some(true) {
        lines.push("no spare rows of memory are left".to_owned());
    } else if errors.remap_pending == Some(true) {
        lines.push("rows of memory are to be exchanged at the next reset".to_owned());
    }
    lines
}

fn node_json(node: &Node) -> Value {
    let spec = node.spec.clone().unwrap_or_default();
    let devices: Vec<Value> =
        devices(node).iter().map(|(device, status)| device_json(node, device, status)).collect();
    let labels: BTreeMap<&String, &String> = spec.labels.iter().collect();
    json!({
        "id": node.id,
        "name": node.name,
        "state": node.state,
        "schedulable": node.schedulable,
        "guards": node.guards.iter().map(guard_json).collect::<Vec<Value>>(),
        "cpu_used_percent": node.cpu_used_percent,
        "memory_used_percent": node.memory_used_percent,
        "pool": spec.pool,
        "zone": spec.zone,
        "labels": labels,
        "address": spec.address,
        "resources": { "cpu_milli": spec.cpu_milli, "memory_bytes": spec.memory_bytes },
        "allocated": {
            "cpu_milli": node.allocated_cpu_milli,
            "memory_bytes": node.allocated_memory_bytes,
        },
        "allocations": node.allocations,
        "devices": devices,
        "agent_version": spec.agent_version,
        "docker_version": Some(&spec.docker_version).filter(|version| !version.is_empty()),
        "last_report_ms": node.last_report_ms,
        "agent_refused": node.agent_refused.as_ref().map(|refused| refused.reason.as_str()),
    })
}

fn guard_json(guard: &NodeGuard) -> Value {
    json!({
        "resource": guard.resource,
        "used_percent": guard.used_percent,
        "opens_below_percent": guard.opens_below_percent,
    })
}

/// As it says itself why nothing new is put on it.
fn guard_line(guard: &NodeGuard) -> String {
    let NodeGuard { resource, used_percent, opens_below_percent } = guard;
    let resource = if resource == "cpu" { "CPU" } else { resource };
    format!(
        "{resource} {used_percent} % in use, pauses new placements until below \
         {opens_below_percent} %"
    )
}

fn nodes_table(nodes: &[Node]) -> Table {
    let mut table = Table::new(
        &["ID", "NAME", "STATE", "POOL", "GPUS", "CPU", "MEMORY", "ALLOCATIONS"],
        &["ZONE", "ADDRESS", "VERSION", "LAST-REPORT", "LABELS"],
    );
    for node in nodes {
        let spec = node.spec.clone().unwrap_or_default();
        let short: Vec<String> =
            node.guards.iter().map(|guard| format!("short of {}", guard.resource)).collect();
        let by_somebody = !node.schedulable && (short.is_empty() || node.cordoned);
        let cordoned = by_somebody.then_some("cordoned");
        let refused = node.agent_refused.is_some().then_some("agent refused");
        let notes: Vec<&str> =
            cordoned.into_iter().chain(short.iter().map(String::as_str)).chain(refused).collect();
        let state = match notes.is_empty() {
            true => node.state.clone(),
            false => format!("{} ({})", node.state, notes.join(", ")),
        };
        table.row(vec![
            node.id.to_string(),
            node.name.clone(),
            state,
            spec.pool.clone(),
            gpus_in_use(node),
            of(CpuMilli(node.allocated_cpu_milli), CpuMilli(spec.cpu_milli)),
            of(size(node.allocated_memory_bytes), size(spec.memory_bytes)),
            node.allocations.to_string(),
            spec.zone.clone(),
            spec.address.clone(),
            spec.agent_version.clone(),
            node.last_report_ms.map(|ms| format!("{ms}ms")).unwrap_or_default(),
            labels(&spec),
        ]);
    }
    table
}

/// Whole decimal units as such, so that a GPU of 80GB is not one of 74.5GiB.
fn size(bytes: u64) -> String {
    const GIGABYTE: u64 = 1_000_000_000;
    let is_decimal = bytes > 0 && bytes.is_multiple_of(GIGABYTE) && !bytes.is_multiple_of(1 << 30);
    if is_decimal { format!("{}GB", bytes / GIGABYTE) } else { MemoryBytes(bytes).to_string() }
}

fn gpus_in_use(node: &Node) -> String {
    let devices = devices(node);
    let used = devices.iter().filter(|(_, status)| status.allocated_milli > 0).count();
    format!("{used}/{}", devices.len())
}

fn of(used: impl std::fmt::Display, all: impl std::fmt::Display) -> String {
    format!("{used}/{all}")
}

fn labels(spec: &NodeSpec) -> String {
    let sorted: BTreeMap<&String, &String> = spec.labels.iter().collect();
    let each: Vec<String> = sorted.iter().map(|(key, value)| format!("{key}={value}")).collect();
    each.join(",")
}

fn gpu_table<'a>(nodes: impl Iterator<Item = &'a Node>) -> Table {
    let mut table = Table::new(
        &["NODE", "GPU", "MODEL", "MEMORY", "ALLOCATED", "USED", "UTIL", "TEMP", "HEALTH"],
        &["UUID", "REASON"],
    );
    for node in nodes {
        for (device, status) in devices(node) {
            table.row(gpu_row(node, &device, &status));
        }
    }
    table
}

fn gpu_row(node: &Node, device: &Device, status: &DeviceStatus) -> Vec<String> {
    let used = status.memory_used_bytes.map(size);
    let load = status.utilization_percent.map(|percent| format!("{percent}%"));
    vec![
        node.name.clone(),
        device.index.to_string(),
        device.model.clone(),
        size(device.memory_bytes),
        allocated(status.allocated_milli),
        used.unwrap_or_default(),
        load.unwrap_or_default(),
        status.temperature_celsius.map(|t| format!("{t}C")).unwrap_or_default(),
        match status.cordoned {
            true => format!("{} (cordoned)", health_name(device.health)),
            false => health_name(device.health).to_owned(),
        },
        device.uuid.clone(),
        device.health_reason.clone(),
    ]
}

/// As much of it as shares were given away, in percent.
fn allocated(milli: u32) -> String {
    match milli % 10 {
        0 => format!("{}%", milli / 10),
        tenths => format!("{}.{tenths}%", milli / 10),
    }
}

/// Why GPUs of a node are not healthy, a line each.
fn reasons(node: &Node) -> Option<Piece> {
    let ill = devices(node).into_iter().filter(|(device, _)| !device.health_reason.is_empty());
    let lines: Vec<String> = ill
        .map(|(device, _)| {
            let health = health_name(device.health);
            format!("GPU {} is {health}: {}", device.index, device.health_reason)
        })
        .collect();
    (!lines.is_empty()).then(|| Piece::Text(format!("\n{}", lines.join("\n"))))
}

/// What those are who begin to share a GPU of a node. Its GPUs have one daemon, and so one answer,
/// but for a moment.
fn mps(node: &Node) -> Option<Piece> {
    let told = node.devices.iter().filter_map(|status| status.mps.as_deref());
    let told: std::collections::BTreeSet<&str> = told.collect();
    let told: Vec<&str> = told.into_iter().collect();
    (!told.is_empty()).then(|| Piece::Text(format!("\nMPS: {}", told.join("; "))))
}

pub(crate) fn nodes_answer(nodes: &[Node]) -> Answer {
    Answer {
        json: nodes.iter().map(node_json).collect(),
        pieces: vec![Piece::Table(nodes_table(nodes))],
        ids: nodes.iter().map(|node| node.id.to_string()).collect(),
    }
}

/// One node with its GPUs, and what is wrong with it.
pub(crate) fn node_answer(node: &Node) -> Answer {
    let mut pieces = vec![Piece::Table(nodes_table(std::slice::from_ref(node)))];
    if let Some(refused) = &node.agent_refused {
        let ago = std::time::Duration::from_millis(refused.ms_ago).as_secs();
        pieces.push(Piece::Text(format!("\nits agent was refused {ago}s ago: {}", refused.reason)));
    }
    if !node.guards.is_empty() {
        let lines: Vec<String> = node.guards.iter().map(guard_line).collect();
        pieces.push(Piece::Text(format!("\n{}", lines.join("\n"))));
    }
    let used = [("CPU", node.cpu_used_percent), ("memory", node.memory_used_percent)];
    let used = used.iter().filter_map(|(what, percent)| Some(format!("{what} {} %", (*percent)?)));
    let used: Vec<String> = used.collect();
    if !used.is_empty() {
        pieces.push(Piece::Text(format!("\nin use on the host: {}", used.join(", "))));
    }
    if !devices(node).is_empty() {
        pieces.push(Piece::Text(String::new()));
        pieces.push(Piece::Table(gpu_table(std::iter::once(node))));
        pieces.extend(reasons(node));
        pieces.extend(mps(node));
        let matrix = ways::matrix(declared(node));
        pieces.extend(matrix.map(|matrix| Piece::Text(format!("\n{matrix}"))));
    }
    if !node.drain_waits.is_empty() {
        pieces.push(Piece::Text("\nstill here:".to_owned()));
    }
    for wait in &node.drain_waits {
        pieces.push(Piece::Text(format!("{}: {}", wait.allocation_id, wait.reason)));
    }
    let mut json = node_json(node);
    let wait =
        |wait: &DrainWait| json!({ "allocation": wait.allocation_id, "reason": wait.reason });
    json["drain_waits"] = node.drain_waits.iter().map(wait).collect();
    Answer { json, pieces, ids: vec![node.id.to_string()] }
}

/// One GPU, in the shape of a node's devices, with its node and what holds it.
pub(crate) fn one_gpu_answer(reply: &GetDeviceReply) -> Answer {
    let mut node = reply.node.clone().unwrap_or_default();
    // Of one that is away only its uuid is known.
    let away =
        || (Device { uuid: reply.uuid.clone(), ..Device::default() }, DeviceStatus::default());
    let found = devices(&node).into_iter().find(|(device, _)| device.uuid == reply.uuid);
    let (device, status) = found.unwrap_or_else(away);
    let mut json = device_json(&node, &device, &status);
    let links = ways::links_line(declared(&node), &reply.uuid);
    if let Some(spec) = &mut node.spec {
        spec.devices.retain(|one| one.uuid == reply.uuid);
    }
    json["node"] = json!(node.name);
    json["allocations"] = json!(reply.allocations);
    let mut pieces = vec![Piece::Table(gpu_table(std::iter::once(&node)))];
    pieces.push(Piece::Text(format!("\nuuid: {}", reply.uuid)));
    pieces.extend(device.numa_node.map(|node| Piece::Text(format!("NUMA node: {node}"))));
    pieces.extend(links.map(Piece::Text));
    let errors = status.memory_errors.unwrap_or_default();
    pieces.extend(memory_lines(&errors).into_iter().map(Piece::Text));
    if let Some(reason) = &status.unwatched {
        pieces.push(Piece::Text(format!("memory of those who share it is not watched: {reason}")));
    }
    pieces.extend(status.mps.as_ref().map(|mps| Piece::Text(format!("MPS: {mps}"))));
    if !device.health_reason.is_empty() {
        let health = health_name(device.health);
        pieces.push(Piece::Text(format!("{health}: {}", device.health_reason)));
    }
    if !reply.allocations.is_empty() {
        pieces.push(Piece::Text(format!("held by: {}", reply.allocations.join(", "))));
    }
    Answer { json, pieces, ids: vec![reply.uuid.clone()] }
}

/// Every GPU of every node, in the shape of a node's devices and with its node.
pub(crate) fn gpu_answer(nodes: &[Node]) -> Answer {
    let mut rows = Vec::new();
    let mut ids = Vec::new();
    for node in nodes {
        for (device, status) in devices(node) {
            let mut row = device_json(node, &device, &status);
            row["node"] = json!(node.name);
            rows.push(row);
            ids.push(device.uuid);
        }
    }
    Answer { json: rows.into(), pieces: vec![Piece::Table(gpu_table(nodes.iter()))], ids }
}

#[cfg(test)]
mod tests {
    use super::{MemoryErrors, allocated, memory_lines, size};

    #[test]
    fn shares_are_shown_in_percent() {
        assert_eq!([1000, 500, 125, 1, 0].map(allocated), ["100%", "50%", "12.5%", "0.1%", "0%"]);
    }

    #[test]
    fn of_memory_only_what_is_told_is_said() {
        assert_eq!(memory_lines(&MemoryErrors::default()), Vec::<String>::new());
        let errors = MemoryErrors {
            corrected_volatile: Some(5),
            uncorrected_aggregate: Some(1),
            remap_pending: Some(true),
            remap_failed: Some(false),
            ..MemoryErrors::default()
        };
        let lines = [
            "memory errors now: 5 corrected, ? uncorrected",
            "memory errors in its life: ? corrected, 1 uncorrected",
            "rows of memory are to be exchanged at the next reset",
        ];
        assert_eq!(memory_lines(&errors), lines);
    }

    #[test]
    fn sizes_keep_the_unit_they_were_made_with() {
        for (bytes, shown) in [
            (80_000_000_000, "80GB"),
            (80 << 30, "80GiB"),
            (0, "0B"),
            (288 << 20, "288MiB"),
            (85_899_345_921, "80.0GiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }
}
