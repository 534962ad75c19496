//! How many jobs a second a namespace may submit, where an operator set a limit:
//! asked before anything is looked at or proposed. Each leader counts for itself;
//! what a namespace had used up is forgotten with the term.

use std::num::NonZeroU32;

use berth_model::Name;
use governor::clock::{Clock as _, MonotonicClock};
use governor::state::keyed::HashMapStateStore;
use governor::{InsufficientCapacity, Quota, RateLimiter};

/// A namespace may save up so many, a call of the largest size: one that comes now
/// and then is not cut in pieces.
const BURST_MIN: NonZeroU32 = NonZeroU32::new(1_024).unwrap();
/// Namespaces that are remembered before those that have long been silent are
/// forgotten.
const NAMESPACES_MAX: usize = 10_000;

/// The rates of all namespaces.
pub struct Rates {
    per_second: NonZeroU32,
    /// What a namespace may save up.
    burst: NonZeroU32,
    limiter: RateLimiter<Name, HashMapStateStore<Name>, MonotonicClock>,
}

/// A namespace submits faster than it may.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TooFast {
    pub namespace: Name,
    pub per_second: u32,
    pub retry_after_ms: u64,
}

impl Rates {
    pub fn new(per_second: NonZeroU32) -> Rates {
        let burst = per_second.max(BURST_MIN);
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let clock = MonotonicClock;
        let limiter = RateLimiter::new(quota, HashMapStateStore::default(), clock);
        Rates { per_second, burst, limiter }
    }

    /// Counts so many jobs of a namespace.
    ///
    /// # Errors
    /// It submits too fast; then nothing is counted.
    pub fn take(&self, namespace: &Name, count: usize) -> Result<(), TooFast> {
        if self.limiter.len() > NAMESPACES_MAX {
            self.limiter.retain_recent();
        }
        // A call that is longer than what can be saved up counts as that much.
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let Some(count) = NonZeroU32::new(count) else { return Ok(()) };
        let count = count.min(self.burst);
        match self.limiter.check_key_n(namespace, count) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_yet)) => {
                let wait = not_yet.wait_time_from(MonotonicClock.now());
                let retry_after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
                let (namespace, per_second) = (namespace.clone(), self.per_second.get());
                Err(TooFast { namespace, per_second, retry_after_ms })
            }
            // Not so: the count is within what can be saved up.
            Err(InsufficientCapacity(_)) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_saves_up_and_is_then_told_when_to_come_back() {
        let rates = Rates::new(NonZeroU32::new(10).unwrap());
        let (fast, slow) = (Name::new("fast").unwrap(), Name::new("slow").unwrap());
        rates.take(&fast, 1_000).unwrap();
        rates.take(&fast, 24).unwrap();
        let refused = rates.take(&fast, 100).unwrap_err();
        assert_eq!((&refused.namespace, refused.per_second), (&fast, 10));
        // A hundred are saved up again in ten seconds; some time has passed.
        assert!((9_000..=10_000).contains(&refused.retry_after_ms), "{refused:?}");
        rates.take(&slow, 1).unwrap();
        // However long a call is, it can be let in once.
        rates.take(&slow, 0).unwrap();
        assert!(rates.take(&slow, 1_000_000).is_err());
        rates.take(&Name::new("new").unwrap(), 1_000_000).unwrap();
    }
}
