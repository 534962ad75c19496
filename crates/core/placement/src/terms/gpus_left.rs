//! How many whole GPUs a task leaves idle.

use super::Look;

/// GPUs that nobody holds once the task is placed, busy kinds aside. A task without GPUs
/// leaves them all idle, which is what keeps it off GPU hosts; a share of one that is in use
/// already takes none.
pub(super) fn gpus_left(look: Look<'_>) -> u32 {
    let free = look.host.spots.iter().filter(|spot| spot.is_free()).count();
    let free = u32::try_from(free).unwrap_or(u32::MAX);
    let Some(gpu) = &look.task.gpu else { return free };
    let joins_others = gpu.is_shared()
        && look.host.open_spots(gpu, look.suits).any(|at| !look.host.spots[at].is_free());
    if joins_others { free } else { free.saturating_sub(gpu.count) }
}
