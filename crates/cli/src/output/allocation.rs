//! Allocations.

use std::collections::BTreeSet;

use berth_model::ShareMilli;
use berth_proto::v1::{Allocation, DeviceClaim, GangSeat};
use serde_json::{Map, Value, json};

use super::{Table, rfc3339_or_null};

pub(crate) fn allocation_json(allocation: &Allocation) -> Value {
    let devices: Vec<Value> = allocation
        .devices
        .iter()
        .enumerate()
        .map(|(position, device)| {
            json!({
                "uuid": device.uuid,
                "index": allocation.device_indices.get(position),
                "share_milli": device.share_milli,
                "memory_bytes": device.memory_bytes,
            })
        })
        .collect();
    let ports: Map<String, Value> =
        allocation.ports.iter().map(|port| (port.name.clone(), json!(port.port))).collect();
    json!({
        "id": allocation.id,
        "job_id": allocation.job_id,
        "job_version": allocation.job_version,
        "task": allocation.task,
        "index": allocation.index,
        "attempt": allocation.attempt,
        "node": allocation.node,
        "state": allocation.state,
        "ready": allocation.ready,
        "reason": allocation.reason,
        "devices": devices,
        "isolation": Some(&allocation.isolation).filter(|text| !text.is_empty()),
        "ports": ports,
        "gang": allocation.seat.as_ref().map(seat_json),
        "started_at": rfc3339_or_null(allocation.started_at_ms),
        "finished_at": rfc3339_or_null(allocation.finished_at_ms),
        "exit_code": allocation.exit_code,
        "signal": allocation.signal,
    })
}

/// What is held of each device.
pub(crate) fn claims_json(devices: &[DeviceClaim]) -> Vec<Value> {
    let one = |device: &DeviceClaim| {
        let DeviceClaim { uuid, share_milli, memory_bytes } = device;
        json!({ "uuid": uuid, "share_milli": share_milli, "memory_bytes": memory_bytes })
    };
    devices.iter().map(one).collect()
}

pub(crate) fn allocation_table(allocations: &[Allocation]) -> Table {
    let mut table = Table::new(
        &["ALLOCATION", "TASK", "INDEX", "ATTEMPT", "NODE", "GPUS", "STATE", "EXIT"],
        &["RANK", "PORTS", "ISOLATION", "REASON"],
    );
    for allocation in allocations {
        let shares = allocation.devices.iter().map(|device| ShareMilli(device.share_milli));
        let gpus: Vec<String> = allocation.device_indices.iter().zip(shares).map(gpu).collect();
        let ports: Vec<String> =
            allocation.ports.iter().map(|port| format!("{}={}", port.name, port.port)).collect();
        let exit = allocation.exit_code.map(|code| code.to_string());
        let signal = || allocation.signal.map(|signal| format!("signal {signal}"));
        table.row(vec![
            allocation.id.clone(),
            allocation.task.clone(),
            allocation.index.to_string(),
            allocation.attempt.to_string(),
            allocation.node.clone(),
            gpus.join(","),
            allocation.state.clone(),
            exit.or_else(signal).unwrap_or_default(),
            allocation.seat.as_ref().map(rank).unwrap_or_default(),
            ports.join(","),
            allocation.isolation.clone(),
            allocation.reason.clone(),
        ]);
    }
    table
}

fn seat_json(seat: &GangSeat) -> Value {
    json!({
        "rank": seat.rank,
        "world_size": seat.world_size,
        "node_rank": seat.node_rank,
        "node_count": seat.node_count,
        "local_rank": seat.local_rank,
        "local_world_size": seat.local_world_size,
        "master_address": seat.master_address,
        "master_port": seat.master_port,
    })
}

/// Its place in its gang.
fn rank(seat: &GangSeat) -> String {
    format!("{} of {}", seat.rank, seat.world_size)
}

/// A line for each gang that lives: how large it is, and where its members meet.
pub(crate) fn gang_lines(allocations: &[Allocation]) -> Vec<String> {
    let live = allocations.iter().filter(|allocation| allocation.finished_at_ms.is_none());
    let seats = live.filter_map(|allocation| Some((&allocation.task, allocation.seat.as_ref()?)));
    let lines: BTreeSet<String> = seats
        .map(|(task, seat)| {
            let GangSeat { world_size, node_count, master_address, master_port, .. } = seat;
            let nodes = if *node_count == 1 { "node" } else { "nodes" };
            format!(
                "gang {task}: {world_size} members on {node_count} {nodes}, rank 0 at \
                 {master_address}:{master_port}"
            )
        })
        .collect();
    lines.into_iter().collect()
}

/// What keeps others from the GPUs that these have, each once.
pub(crate) fn isolation_line(allocations: &[Allocation]) -> Option<String> {
    let told = allocations.iter().map(|allocation| allocation.isolation.as_str());
    let told: BTreeSet<&str> = told.filter(|text| !text.is_empty()).collect();
    let told: Vec<&str> = told.into_iter().collect();
    (!told.is_empty()).then(|| format!("isolation of GPUs: {}", told.join("; ")))
}

/// Its position on the node, and how much of it where that is not all.
fn gpu((index, share): (&u32, ShareMilli)) -> String {
    match share.is_part() {
        true => format!("{index} ({share} of it)"),
        false => index.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_others_away_is_said_once() {
        let of = |isolation: &str| Allocation { isolation: isolation.into(), ..Default::default() };
        assert_eq!(isolation_line(&[of("")]), None);
        let line = isolation_line(&[of("whole GPU"), of(""), of("time-sliced"), of("whole GPU")]);
        assert_eq!(line.unwrap(), "isolation of GPUs: time-sliced; whole GPU");
    }

    #[test]
    fn a_gang_that_lives_is_told_once() {
        let member = |rank, world: u32, finished_at_ms| Allocation {
            task: "main".to_owned(),
            seat: Some(GangSeat {
                rank,
                world_size: 2,
                node_count: world,
                master_address: "10.0.0.7".to_owned(),
                master_port: 20_000 + world,
                ..Default::default()
            }),
            finished_at_ms,
            ..Default::default()
        };
        let over = member(0, 2, Some(5));
        assert_eq!(gang_lines(&[over.clone(), Allocation::default()]), [""; 0]);
        let lines = gang_lines(&[over, member(0, 1, None), member(1, 1, None)]);
        assert_eq!(lines, ["gang main: 2 members on 1 node, rank 0 at 10.0.0.7:20001"]);
    }

    #[test]
    fn a_share_is_told_beside_its_gpu() {
        let told = [1000, 500, 125].map(|milli| gpu((&3, ShareMilli(milli))));
        assert_eq!(told, ["3", "3 (0.5 of it)", "3 (0.125 of it)"]);
    }
}
