//! How busy a node's GPUs are.

use super::part_milli;
use crate::host::Host;

/// 0 to 1000, lower is idler: six tenths utilisation and four tenths memory. Of what is
/// measured and what is promised the larger counts, because a measurement lags behind the
/// placements of the last seconds. 0 for a node without GPUs.
pub(super) fn gpu_load_milli(host: &Host) -> u32 {
    let count = host.spots.len() as u64;
    if count == 0 {
        return 0;
    }
    let promised_shares: u64 =
        host.spots.iter().map(|spot| 1000 - u64::from(spot.share_free.min(1000))).sum();
    let memory_total: u64 = host.spots.iter().map(|spot| spot.memory_total).sum();
    let memory_free: u64 = host.spots.iter().map(|spot| spot.memory_free).sum();
    let promised_memory = memory_total.saturating_sub(memory_free);
    let load = host.load.unwrap_or_default();
    let measured_util = load.gpu_util_milli.unwrap_or(0).min(1000);
    let measured_memory = load.gpu_memory_used.unwrap_or_default().0;
    let util = part_milli(promised_shares, count.saturating_mul(1000)).max(measured_util);
    let memory = part_milli(promised_memory.max(measured_memory), memory_total);
    (6 * util + 4 * memory) / 10
}
