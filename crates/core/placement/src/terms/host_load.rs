//! How free a host is.

use super::part_milli;
use crate::host::Host;

/// 0 to 1000, higher is freer: four tenths CPU, four tenths memory, two tenths network. An
/// unmeasured network counts as idle.
pub(super) fn resource_score_milli(host: &Host) -> u32 {
    let load = host.load.unwrap_or_default();
    let (spec, used) = (&host.row.spec, host.used());
    let cpu = used.cpu.max(load.cpu_used.unwrap_or_default());
    let memory = used.memory.max(load.memory_used.unwrap_or_default());
    let cpu = part_milli(cpu.0, spec.cpu.0);
    let memory = part_milli(memory.0, spec.memory.0);
    let network = load.network_used_milli.unwrap_or(0).min(1000);
    (4 * (1000 - cpu) + 4 * (1000 - memory) + 2 * (1000 - network)) / 10
}
