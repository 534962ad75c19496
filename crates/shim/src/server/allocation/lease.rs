//! The lease of exclusive work: ended here even when the agent that should renew it is dead.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Timers stand still while the host sleeps and the lease does not, so it is looked at this often at least.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Milliseconds since boot, time asleep included.
pub(super) fn boot_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1000 + nanoseconds / 1_000_000
}

/// Until when a worker may run; without an end for ever.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    ends_at_boot_ms: Option<u64>,
}

impl Lease {
    pub(super) fn new(ends_at_boot_ms: Option<u64>) -> Self {
        Self { ends_at_boot_ms }
    }

    /// A later end. One that comes late, and says less, changes nothing.
    pub(super) fn renew(&mut self, ends_at_boot_ms: u64) {
        self.ends_at_boot_ms = self.ends_at_boot_ms.max(Some(ends_at_boot_ms));
    }

    pub(super) fn ends_at_boot_ms(self) -> Option<u64> {
        self.ends_at_boot_ms
    }

    pub(super) fn is_over(self, now_boot_ms: u64) -> bool {
        self.ends_at_boot_ms.is_some_and(|end| now_boot_ms >= end)
    }

    /// When to look again.
    pub(super) fn next_look(self, now: Instant, now_boot_ms: u64) -> Option<Instant> {
        let left = self.ends_at_boot_ms?.saturating_sub(now_boot_ms);
        Some(now + Duration::from_millis(left).min(LOOK_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_when_it_says_and_only_grows() {
        let now = Instant::now();
        let mut lease = Lease::new(Some(5_000));
        assert!(!lease.is_over(4_999) && lease.is_over(5_000));
        assert_eq!(lease.next_look(now, 4_900), Some(now + Duration::from_millis(100)));
        assert_eq!(lease.next_look(now, 0), Some(now + LOOK_PAUSE));
        lease.renew(4_000);
        assert_eq!(lease.ends_at_boot_ms(), Some(5_000));
        lease.renew(9_000);
        assert!(!lease.is_over(5_000) && lease.is_over(9_000));
        let endless = Lease::new(None);
        assert!(!endless.is_over(u64::MAX) && endless.next_look(now, 0).is_none());
    }
}
