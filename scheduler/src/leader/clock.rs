//! The cluster's clock while this node leads: it goes on from the last value
//! in the state by the monotonic clock of this machine.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use berth_model::{StateMs, WallMs};

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: StateMs,
    started: Instant,
}

impl Clock {
    /// A clock that continues from `last`.
    pub fn from(last: StateMs) -> Clock {
        Clock { base: last, started: Instant::now() }
    }

    pub fn now(&self) -> StateMs {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        StateMs(self.base.0.saturating_add(elapsed))
    }
}

/// The wall clock, for display and for what people set by the calendar.
pub fn wall() -> WallMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
