//! Which devices and ports of a chosen node a placement takes.

use berth_model::{AllocationId, Claim, DeviceClaim, Name, NodeUse, PortClaim, StateMs, TaskSpec};
use berth_state::NodeRow;

/// Everything that `task` takes of the node, of which the devices are chosen already;
/// `None` if it does not fit.
pub(crate) fn claim(
    row: &NodeRow,
    used: &NodeUse,
    now: StateMs,
    task: &TaskSpec,
    allocation: AllocationId,
    chosen: &[usize],
) -> Option<Claim> {
    let part = |at: &usize| {
        let (device, gpu) = (row.spec.devices.get(*at)?, task.gpu.as_ref()?);
        let memory = gpu.memory_of(device.memory);
        Some(DeviceClaim { uuid: device.uuid.clone(), share: gpu.share, memory })
    };
    let devices = chosen.iter().map(part).collect::<Option<Vec<_>>>()?;
    let ports = pick_ports(row, used, now, &task.ports, allocation)?;
    Some(Claim { cpu: task.cpu, memory: task.memory, devices, ports })
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

    use berth_model::{Attempt, InstanceIndex, JobId, PortRange, TaskIndex};

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
            claim(&row, &used, StateMs(now), &task, id(job, 0), &[])
                .map(|claim| claim.ports.iter().map(|claim| claim.port).collect::<Vec<_>>())
        };
        // Job 1 at attempt 1 begins at offset 4, job 2 two ports later.
        assert_eq!(ports(0, 1), Some(vec![20_004, 20_000]));
        assert_eq!(ports(0, 2), Some(vec![20_001, 20_004]));
        assert_eq!(ports(50, 2), Some(vec![20_001, 20_003]));
        task.ports.extend([name("extra"), name("more")]);
        let too_many = claim(&row, &used, StateMs(0), &task, id(1, 0), &[]);
        assert_eq!(too_many, None);
        assert!(claim(&row, &used, StateMs(50), &task, id(1, 0), &[]).is_some());
    }
}
