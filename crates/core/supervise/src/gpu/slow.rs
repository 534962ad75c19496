//! GPUs that run slower than they could: nothing is ended for it, but whoever waits for all of
//! several would wait for the slow one.

use berth_model::{DeviceHealth, DurationMs, WallMs};

use super::Slowdown;

/// A GPU that is slow for so long is not only slow for a moment.
const SLOW_AFTER: DurationMs = DurationMs::from_secs(10);
/// And somebody should look at its cooling.
const SLOW_LONG: DurationMs = DurationMs::from_secs(10 * 60);
/// Between two looks that show it slow, unless it is for long.
const GAP_MAX: DurationMs = DurationMs::from_secs(5);
/// It is not slow any more when it was not seen so for this long.
const SLOW_OVER_AFTER: DurationMs = DurationMs::from_secs(60);

/// That it was slow, from first to last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slow {
    pub cause: Slowdown,
    pub since: WallMs,
    pub seen: WallMs,
}

/// What a GPU that has no fault is.
pub(super) fn health(slow: Option<&Slow>) -> (DeviceHealth, String) {
    let lasts = slow.map_or(DurationMs::ZERO, |slow| slow.seen.since(slow.since));
    let Some(slow) = slow.filter(|_| lasts >= SLOW_AFTER) else {
        return (DeviceHealth::Healthy, String::new());
    };
    let cause = match slow.cause {
        Slowdown::Heat => "heat",
        Slowdown::Power => "its power supply",
    };
    let long = if lasts >= SLOW_LONG { ", for ten minutes and longer" } else { "" };
    (DeviceHealth::Suspect, format!("slowed down by {cause}{long}"))
}

/// Takes in what a look shows.
pub(super) fn seen(before: Option<Slow>, now: Option<Slowdown>, at: WallMs) -> Option<Slow> {
    match (now, before) {
        (Some(cause), Some(slow)) => {
            let is_long = slow.seen.since(slow.since) >= SLOW_AFTER;
            // What is slow for a moment now and then is not slow.
            let goes_on = is_long || at.since(slow.seen) <= GAP_MAX;
            let since = if goes_on { slow.since } else { at };
            Some(Slow { cause, since, seen: at })
        }
        (Some(cause), None) => Some(Slow { cause, since: at, seen: at }),
        (None, before) => before.filter(|slow| at.since(slow.seen) < SLOW_OVER_AFTER),
    }
}
