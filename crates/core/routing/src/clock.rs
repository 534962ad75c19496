//! The clock of one gateway: it begins anywhere, never goes back, and is compared with no other.

/// A moment, in microseconds of the gateway's own clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct GatewayUs(pub u64);

/// A span of time in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SpanUs(pub u64);

impl GatewayUs {
    /// This moment plus `span`; the end of time where that would not fit.
    #[must_use]
    pub fn after(self, span: SpanUs) -> GatewayUs {
        GatewayUs(self.0.saturating_add(span.0))
    }

    /// How long ago `earlier` was; zero if it is not in the past.
    #[must_use]
    pub fn since(self, earlier: GatewayUs) -> SpanUs {
        SpanUs(self.0.saturating_sub(earlier.0))
    }
}

impl SpanUs {
    pub const ZERO: SpanUs = SpanUs(0);

    #[must_use]
    pub const fn from_millis(millis: u64) -> SpanUs {
        SpanUs(millis.saturating_mul(1000))
    }

    #[must_use]
    pub const fn from_secs(seconds: u64) -> SpanUs {
        SpanUs(seconds.saturating_mul(1_000_000))
    }
}
