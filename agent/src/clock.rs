//! The clocks of the host, read in one place.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_model::WallMs;
use berth_supervise::AgentMs;
use rustix::time::{ClockId, clock_gettime};

/// The agent's clock: since boot, time asleep included.
pub fn now() -> AgentMs {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    AgentMs(seconds * 1000 + nanoseconds / 1_000_000)
}

/// The wall clock, for display.
pub fn wall() -> WallMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    WallMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// How long until `at`; zero if it has passed.
pub fn until(at: AgentMs) -> Duration {
    Duration::from_millis(at.0.saturating_sub(now().0))
}
