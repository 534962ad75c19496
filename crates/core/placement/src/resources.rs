//! Which devices and ports of a chosen node a placement takes.

use berth_model::fits::open_devices;
use berth_model::{
    AllocationId, Claim, Device, DeviceClaim, GpuRequest, Name, NodeCapacity, NodeUse, PortClaim,
    StateMs, TaskSpec,
};
use berth_state::NodeRow;

/// Everything that `task` takes of the node; `None` if it does not fit.
pub(crate) fn claim(
    row: &NodeRow,
    used: &NodeUse,
    now: StateMs,
    task: &TaskSpec,
    allocation: AllocationId,
) -> Option<Claim> {
    let node = row.capacity(used);
    let devices = match &task.gpu {
        Some(gpu) => pick_devices(node, gpu)?,
        None => Vec::new(),
    };
    let ports = pick_ports(row, used, now, &task.ports, allocation)?;
    Some(Claim { cpu: task.cpu, memory: task.memory, devices, ports })
}

/// Of whole devices the lowest run of neighbouring free ones, because neighbours usually
/// share a switch or a link; failing that the lowest. Of those that have room for a share the
/// one with the least of it left, so that whole ones stay whole. Suspects come last.
fn pick_devices(node: NodeCapacity<'_>, gpu: &GpuRequest) -> Option<Vec<DeviceClaim>> {
    let count = usize::try_from(gpu.count).ok()?;
    let mut free: Vec<&Device> = open_devices(node, gpu).collect();
    let held = |device: &Device| node.used.devices.get(&device.uuid).map_or(0, |held| held.share.0);
    free.sort_by_key(|device| {
        (device.health, std::cmp::Reverse(held(device)), device.index, &device.uuid)
    });
    let run = free.windows(count.max(1)).find(|window| {
        window.windows(2).all(|pair| pair[0].index.checked_add(1) == Some(pair[1].index))
    });
    let chosen = run.or_else(|| free.get(..count))?;
    let part = |device: &&Device| DeviceClaim {
        uuid: device.uuid.clone(),
        share: gpu.share,
        memory: gpu.memory_of(device.memory),
    };
    Some(chosen.iter().map(part).collect())
}

/// Free ports from a start that moves on with each job, instance and attempt:
/// a client that still knows the last holder of a port then meets a closed
/// port rather than a stranger, and a socket in `TIME_WAIT` is no obstacle.
fn pick_ports(
    row: &NodeRow,
    used: &NodeUse,
    now: StateMs,
    names: &[Name],
    allocation: AllocationId,
) -> Option<Vec<PortClaim>> {
    let range = row.spec.ports;
    let length = u64::from(range.last.checked_sub(range.first)?) + 1;
    let turn = allocation
        .job
        .0
        .wrapping_add(u64::from(allocation.task.0))
        .wrapping_add(u64::from(allocation.instance.0))
        .wrapping_add(u64::from(allocation.attempt.0));
    let start = turn.wrapping_mul(names.len() as u64) % length;
    let is_free = |port: &u16| {
        let blocked = row.blocked_ports.get(port).is_some_and(|until| *until > now);
        !blocked && !used.ports.contains(port)
    };
    let mut free = (start..length)
        .chain(0..start)
        .filter_map(|offset| u16::try_from(offset).ok()?.checked_add(range.first))
        .filter(is_free);
    names
        .iter()
        .map(|name| free.next().map(|port| PortClaim { name: name.clone(), port }))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use berth_model::{Attempt, DeviceHealth, InstanceIndex, JobId, PortRange, TaskIndex};

    use super::*;
    use crate::fixture::{gpu_node, gpu_task, name, node_row};

    fn id(job: u64, instance: u32) -> AllocationId {
        AllocationId {
            job: JobId(job),
            task: TaskIndex(0),
            instance: InstanceIndex(instance),
            attempt: Attempt::FIRST,
        }
    }

    #[test]
    fn neighbours_are_taken_before_the_lowest() {
        let check = |busy: &[u32], lost: &[u32], count: u32, expected: Option<&[&str]>| {
            let mut spec = gpu_node(8);
            for index in lost {
                spec.devices[*index as usize].health = DeviceHealth::Lost;
            }
            let row = node_row(1, spec);
            let mut used = NodeUse::default();
            for index in busy {
                used.devices.insert(format!("GPU-{index}"), Default::default());
            }
            let claim = claim(&row, &used, StateMs(0), &gpu_task(count), id(1, 0));
            let found: Option<Vec<String>> =
                claim.map(|claim| claim.devices.into_iter().map(|device| device.uuid).collect());
            let expected =
                expected.map(|list| list.iter().map(|uuid| (*uuid).to_owned()).collect());
            assert_eq!(found, expected, "busy {busy:?}, lost {lost:?}, {count} asked for");
        };
        check(&[], &[], 2, Some(&["GPU-0", "GPU-1"]));
        check(&[1], &[], 2, Some(&["GPU-2", "GPU-3"]));
        check(&[1, 3, 5, 7], &[], 2, Some(&["GPU-0", "GPU-2"]));
        check(&[0], &[1], 1, Some(&["GPU-2"]));
        check(&[0], &[1], 7, None);
        check(
            &[],
            &[],
            8,
            Some(&["GPU-0", "GPU-1", "GPU-2", "GPU-3", "GPU-4", "GPU-5", "GPU-6", "GPU-7"]),
        );
    }

    #[test]
    fn ports_rotate_and_avoid_what_is_taken_or_blocked() {
        let mut spec = gpu_node(0);
        spec.ports = PortRange { first: 20_000, last: 20_004 };
        let mut row = node_row(1, spec);
        row.blocked_ports.insert(20_003, StateMs(50));
        let used = NodeUse { ports: BTreeSet::from([20_002]), ..NodeUse::default() };
        let mut task = gpu_task(1);
        task.gpu = None;
        task.ports = vec![name("http"), name("admin")];
        let ports = |now, job| {
            claim(&row, &used, StateMs(now), &task, id(job, 0))
                .map(|claim| claim.ports.iter().map(|claim| claim.port).collect::<Vec<_>>())
        };
        // Job 1 at attempt 1 begins at offset 4, job 2 two ports later.
        assert_eq!(ports(0, 1), Some(vec![20_004, 20_000]));
        assert_eq!(ports(0, 2), Some(vec![20_001, 20_004]));
        assert_eq!(ports(50, 2), Some(vec![20_001, 20_003]));
        task.ports.extend([name("extra"), name("more")]);
        let too_many = claim(&row, &used, StateMs(0), &task, id(1, 0));
        assert_eq!(too_many, None);
        assert!(claim(&row, &used, StateMs(50), &task, id(1, 0)).is_some());
    }
}
