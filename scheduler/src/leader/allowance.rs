//! How many jobs a second one namespace may submit, where its quota says so. A call that is longer
//! than a second's worth is let in when all of that is saved up, and what it took beyond is owed.

use std::num::NonZeroU32;
use std::time::Instant;

/// What a namespace has saved up, or owes.
#[derive(Debug)]
pub struct Allowance {
    per_second: NonZeroU32,
    /// Thousandths of a job; at most a second's worth.
    saved_milli: i64,
    at: Instant,
}

impl Allowance {
    /// A second's worth is saved up.
    pub fn new(per_second: NonZeroU32, now: Instant) -> Allowance {
        Allowance { per_second, saved_milli: second_milli(per_second), at: now }
    }

    pub fn per_second(&self) -> NonZeroU32 {
        self.per_second
    }

    /// Whether so many jobs may come now; nothing is taken.
    ///
    /// # Errors
    /// In how many milliseconds they may.
    pub fn check(&mut self, count: usize, now: Instant) -> Result<(), u64> {
        self.save(now);
        let needed = jobs_milli(count).min(second_milli(self.per_second));
        let missing = needed.saturating_sub(self.saved_milli);
        if missing <= 0 {
            return Ok(());
        }
        // It saves `per_second` thousandths of a job in a millisecond.
        Err(u64::try_from(missing).unwrap_or(u64::MAX).div_ceil(u64::from(self.per_second.get())))
    }

    pub fn take(&mut self, count: usize) {
        self.saved_milli = self.saved_milli.saturating_sub(jobs_milli(count));
    }

    fn save(&mut self, now: Instant) {
        let passed_ms = now.saturating_duration_since(self.at).as_millis();
        let passed_ms = i64::try_from(passed_ms).unwrap_or(i64::MAX);
        if passed_ms == 0 {
            return;
        }
        self.at = now;
        let more = passed_ms.saturating_mul(i64::from(self.per_second.get()));
        self.saved_milli = self.saved_milli.saturating_add(more).min(second_milli(self.per_second));
    }
}

fn jobs_milli(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(1000)
}

fn second_milli(per_second: NonZeroU32) -> i64 {
    i64::from(per_second.get()) * 1000
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_is_saved_up_and_what_is_beyond_is_owed() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut allowance = Allowance::new(NonZeroU32::new(10).unwrap(), start);
        let mut come = |count, ms| -> Result<(), u64> {
            allowance.check(count, at(ms))?;
            allowance.take(count);
            Ok(())
        };
        assert_eq!(come(6, 0), Ok(()));
        assert_eq!(come(6, 0), Err(200));
        assert_eq!(come(6, 199), Err(1));
        assert_eq!(come(6, 200), Ok(()));
        // However long it was silent, no more than a second's worth is there.
        assert_eq!(come(10, 100_000), Ok(()));
        assert_eq!(come(1, 100_000), Err(100));
        // A long call is let in once, and paid for afterwards.
        assert_eq!(come(100, 101_000), Ok(()));
        assert_eq!(come(1, 102_000), Err(8_100));
        assert_eq!(come(1, 110_100), Ok(()));
    }
}
