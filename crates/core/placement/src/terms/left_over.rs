//! What a task leaves of the host resource that it needs most.

use super::{Look, part_milli};

/// What is left, in thousandths of the node, of the host resource of which the task takes
/// the largest part there: its dominant resource (Ghodsi et al., NSDI 2011), here of one node
/// rather than of the cluster.
pub(super) fn left_over_milli(look: Look<'_>) -> u32 {
    let (spec, used, task) = (&look.host.row.spec, look.host.used(), look.task);
    let cpu_part = part_milli(task.cpu.0, spec.cpu.0);
    let memory_part = part_milli(task.memory.0, spec.memory.0);
    let (used, total) = if cpu_part >= memory_part {
        (used.cpu.0.saturating_add(task.cpu.0), spec.cpu.0)
    } else {
        (used.memory.0.saturating_add(task.memory.0), spec.memory.0)
    };
    1000 - part_milli(used, total)
}
