//! How much of a node is promised.

use super::part_milli;
use crate::host::Host;

/// The largest promised part of any of the node's resources, 0 to 1000.
pub(super) fn dominant_use_milli(host: &Host) -> u32 {
    let (spec, used) = (&host.row.spec, host.used());
    let devices = part_milli(used.devices.len() as u64, spec.devices.len() as u64);
    let cpu = part_milli(used.cpu.0, spec.cpu.0);
    let memory = part_milli(used.memory.0, spec.memory.0);
    cpu.max(memory).max(devices)
}
