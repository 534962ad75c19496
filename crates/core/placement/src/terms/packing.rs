//! Filling GPUs that are in use before idle ones, and nodes in use before idle ones: the
//! packing policy of MLaaS in the Wild (Weng et al., NSDI 2022), as Weng et al. compare it in
//! "Beware of Fragmentation" (USENIX ATC 2023).

use super::Look;
use crate::devices;

/// The best score there is.
const BEST: u32 = 100;

/// 0 to 100, less is better; 0 for a task without GPUs, which it treats all alike.
pub(super) fn packing(look: Look<'_>) -> u32 {
    let Some(gpu) = &look.task.gpu else { return 0 };
    let spots = &look.host.spots;
    if spots.iter().all(|spot| spot.is_free()) {
        // An idle node: the last choice, large ones and small ones before those between.
        let count = u32::try_from(spots.len()).unwrap_or(u32::MAX);
        return BEST.saturating_sub(33_u32.saturating_sub(count).max(count));
    }
    let Some(chosen) = devices::tightest(look.host, gpu, look.suits) else { return BEST };
    let idle = chosen.iter().filter(|at| spots[**at].is_free()).count();
    if idle > 0 {
        let idle = u32::try_from(idle).unwrap_or(u32::MAX);
        return BEST - 50_u32.saturating_sub(idle).max(33);
    }
    let percent_left: u32 = chosen.iter().map(|at| spots[*at].share_free / 10).sum();
    BEST - BEST.saturating_sub(percent_left / 10).max(50)
}
