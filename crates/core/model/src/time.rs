//! Times as values. Core reads no clock: the leader puts both clocks into each
//! log entry.

/// The cluster's own clock in milliseconds: it starts from the last seen value
/// at an election and advances by the leader's monotonic clock. Leases, ageing,
/// backoff, limits and retention use only this one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct StateMs(pub u64);

/// Milliseconds since 1970 in UTC by the leader's wall clock; for display and
/// for what people set by the calendar only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct WallMs(pub u64);

/// A span of time in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct DurationMs(pub u64);

impl StateMs {
    /// This moment plus `span`; the end of time where that would not fit.
    #[must_use]
    pub fn after(self, span: DurationMs) -> StateMs {
        StateMs(self.0.saturating_add(span.0))
    }

    /// How long ago `earlier` was; zero if it is not in the past.
    #[must_use]
    pub fn since(self, earlier: StateMs) -> DurationMs {
        DurationMs(self.0.saturating_sub(earlier.0))
    }
}

impl WallMs {
    /// How long ago `earlier` was; zero if it is not in the past.
    #[must_use]
    pub fn since(self, earlier: WallMs) -> DurationMs {
        DurationMs(self.0.saturating_sub(earlier.0))
    }
}

impl DurationMs {
    pub const ZERO: DurationMs = DurationMs(0);

    #[must_use]
    pub const fn from_secs(seconds: u64) -> DurationMs {
        DurationMs(seconds.saturating_mul(1000))
    }
}
