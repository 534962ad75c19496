//! The terms that policies are composed of: each turns a node, as a plan sees
//! it, into one integer. Fractions are in thousandths; nothing here is a float,
//! so equal inputs give equal scores on every machine.

use berth_model::{NodeSpec, NodeUse, TaskSpec};

use crate::soft::NodeLoad;

/// A node as a plan sees it: declared, promised and, where known, measured.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    pub spec: &'a NodeSpec,
    /// Promised to live allocations and to what this plan has handed out.
    pub used: &'a NodeUse,
    pub load: Option<&'a NodeLoad>,
}

/// How busy the GPUs are, 0 to 1000, lower is idler: six tenths utilisation and
/// four tenths memory. Of what is measured and what is promised the larger
/// counts, because a measurement lags behind the placements of the last
/// seconds. 0 for a node without GPUs.
pub fn gpu_load_milli(node: Standing<'_>) -> u32 {
    let device_count = node.spec.devices.len() as u64;
    let promised_shares: u64 = node.used.devices.values().map(|held| u64::from(held.share.0)).sum();
    let promised_memory: u64 = node.used.devices.values().map(|held| held.memory.0).sum();
    let memory_total: u64 = node.spec.devices.iter().map(|device| device.memory.0).sum();
    let measured_util = node.load.and_then(|load| load.gpu_util_milli).unwrap_or(0).min(1000);
    let measured_memory = node.load.and_then(|load| load.gpu_memory_used).map_or(0, |used| used.0);
    if device_count == 0 {
        return 0;
    }
    let util = part_milli(promised_shares, device_count.saturating_mul(1000)).max(measured_util);
    let memory = part_milli(promised_memory.max(measured_memory), memory_total);
    (6 * util + 4 * memory) / 10
}

/// How free the host is, 0 to 1000, higher is freer: four tenths CPU, four
/// tenths memory, two tenths network. An unmeasured network counts as idle.
pub fn resource_score_milli(node: Standing<'_>) -> u32 {
    let measured_cpu = node.load.and_then(|load| load.cpu_used).map_or(0, |used| used.0);
    let measured_memory = node.load.and_then(|load| load.memory_used).map_or(0, |used| used.0);
    let cpu = part_milli(node.used.cpu.0.max(measured_cpu), node.spec.cpu.0);
    let memory = part_milli(node.used.memory.0.max(measured_memory), node.spec.memory.0);
    let network = node.load.and_then(|load| load.network_used_milli).unwrap_or(0).min(1000);
    (4 * (1000 - cpu) + 4 * (1000 - memory) + 2 * (1000 - network)) / 10
}

/// GPUs that nobody holds once `task` is placed, busy kinds aside. A task
/// without GPUs leaves them all idle, which is what keeps it off GPU hosts.
pub fn gpus_left(node: Standing<'_>, task: &TaskSpec) -> u32 {
    let total = u32::try_from(node.spec.devices.len()).unwrap_or(u32::MAX);
    let held = u32::try_from(node.used.devices.len()).unwrap_or(u32::MAX);
    let asked = task.gpu.as_ref().map_or(0, |gpu| gpu.count);
    total.saturating_sub(held).saturating_sub(asked)
}

/// What is left, in thousandths of the node, of the host resource of which
/// `task` takes the largest part there: its dominant resource (Ghodsi et al.,
/// NSDI 2011), here of one node rather than of the cluster.
pub fn left_over_milli(node: Standing<'_>, task: &TaskSpec) -> u32 {
    let cpu_part = part_milli(task.cpu.0, node.spec.cpu.0);
    let memory_part = part_milli(task.memory.0, node.spec.memory.0);
    let (used, total) = if cpu_part >= memory_part {
        (node.used.cpu.0.saturating_add(task.cpu.0), node.spec.cpu.0)
    } else {
        (node.used.memory.0.saturating_add(task.memory.0), node.spec.memory.0)
    };
    1000 - part_milli(used, total)
}

/// The largest promised part of any of the node's resources, 0 to 1000.
pub fn dominant_use_milli(node: Standing<'_>) -> u32 {
    let devices = part_milli(node.used.devices.len() as u64, node.spec.devices.len() as u64);
    let cpu = part_milli(node.used.cpu.0, node.spec.cpu.0);
    let memory = part_milli(node.used.memory.0, node.spec.memory.0);
    cpu.max(memory).max(devices)
}

/// `part` of `whole` in thousandths, at most 1000; 0 of nothing.
fn part_milli(part: u64, whole: u64) -> u32 {
    if whole == 0 {
        return 0;
    }
    let milli = u128::from(part) * 1000 / u128::from(whole);
    u32::try_from(milli).unwrap_or(1000).min(1000)
}

#[cfg(test)]
mod tests {
    use berth_model::{CpuMilli, JobKind, MemoryBytes, NodeUse, TaskSpec};

    use super::*;
    use crate::fixture::{gpu_node, name};

    fn loaded(load: NodeLoad) -> (u32, u32) {
        let spec = gpu_node(1);
        let used = NodeUse::default();
        let standing = Standing { spec: &spec, used: &used, load: Some(&load) };
        (gpu_load_milli(standing), resource_score_milli(standing))
    }

    #[test]
    fn the_gpu_load_weighs_utilisation_and_memory() {
        let load = NodeLoad {
            gpu_util_milli: Some(500),
            gpu_memory_used: Some(MemoryBytes(20 << 30)),
            ..NodeLoad::default()
        };
        assert_eq!(loaded(load).0, 400);
        assert_eq!(loaded(NodeLoad::default()).0, 0);
    }

    #[test]
    fn the_resource_score_weighs_cpu_memory_and_network() {
        let check = |cpu_milli: u64, memory_milli: u64, expected: u32| {
            let spec = gpu_node(1);
            let load = NodeLoad {
                cpu_used: Some(CpuMilli(spec.cpu.0 * cpu_milli / 1000)),
                memory_used: Some(MemoryBytes(spec.memory.0.div_ceil(1000) * memory_milli)),
                ..NodeLoad::default()
            };
            assert_eq!(loaded(load).1, expected);
        };
        check(600, 700, 480);
        check(300, 400, 720);
        check(0, 0, 1000);
        check(1000, 1000, 200);
    }

    #[test]
    fn a_promise_counts_before_it_can_be_measured() {
        let spec = gpu_node(2);
        let mut used = NodeUse::default();
        let held = used.devices.entry("GPU-0".to_owned()).or_default();
        held.share = berth_model::ShareMilli::WHOLE;
        held.memory = spec.devices[0].memory;
        let idle = NodeLoad { gpu_util_milli: Some(10), ..NodeLoad::default() };
        let standing = Standing { spec: &spec, used: &used, load: Some(&idle) };
        assert_eq!(gpu_load_milli(standing), 500);
        assert_eq!(dominant_use_milli(standing), 500);
    }

    #[test]
    fn what_is_left_is_that_of_the_dominant_resource() {
        let spec = gpu_node(4);
        let used = NodeUse::default();
        let standing = Standing { spec: &spec, used: &used, load: None };
        let task = |cpu, memory| TaskSpec {
            cpu: CpuMilli(cpu),
            memory: MemoryBytes(memory),
            ..TaskSpec::new(name("main"), JobKind::Batch, vec!["true".to_owned()])
        };
        assert_eq!(left_over_milli(standing, &task(spec.cpu.0 / 2, 1)), 500);
        assert_eq!(left_over_milli(standing, &task(1, spec.memory.0 / 4 * 3)), 250);
        assert_eq!(gpus_left(standing, &task(1, 1)), 4);
    }
}
