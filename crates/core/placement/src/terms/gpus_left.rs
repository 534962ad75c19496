//! How many whole GPUs a task leaves idle.

use super::Look;
use crate::host::Host;

/// GPUs that nobody holds once the task is placed, busy kinds aside. A task without GPUs
/// leaves them all idle, which is what keeps it off GPU hosts; a share of one that is in use
/// already takes none.
pub(super) fn gpus_left(look: Look<'_>) -> u32 {
    let free = idle_gpus(look.host);
    let Some(gpu) = &look.task.gpu else { return free };
    let joins_others = gpu.is_shared()
        && look.host.open_spots(gpu, look.suits).any(|at| !look.host.spots[at].is_free());
    if joins_others { free } else { free.saturating_sub(gpu.count) }
}

/// GPUs that nobody holds.
pub(super) fn idle_gpus(host: &Host) -> u32 {
    let idle = host.spots.iter().filter(|spot| spot.is_free()).count();
    u32::try_from(idle).unwrap_or(u32::MAX)
}
