//! How many submits may be on their way into the log: as many as it takes within the time that a
//! caller can be expected to wait. More than that would make everybody wait for longer and get
//! nothing done sooner.

use std::time::{Duration, Instant};

/// Thirty-two full entries, where nothing else is known.
pub const MOST: usize = 8192;
/// Two full entries: one that is written and one that is gathered meanwhile.
const LEAST: usize = 512;
/// What is on its way is to be answered within this time.
const ANSWERED_WITHIN: Duration = Duration::from_millis(250);
/// What is found is found over so long. Entries come in lumps, so that a shorter time tells less.
const SPAN: Duration = Duration::from_millis(250);

/// Learns the limit from how long those waited who have been answered.
#[derive(Debug)]
pub struct Depth {
    limit: usize,
    /// Answered in a second, when that was last found; none before.
    per_second: usize,
    began: Instant,
    answered: usize,
    /// Of all who were answered, added up.
    waited: Duration,
}

impl Depth {
    pub fn new(now: Instant) -> Depth {
        Depth { limit: MOST, per_second: 0, began: now, answered: 0, waited: Duration::ZERO }
    }

    /// Submits that may be on their way, from 512 to [`MOST`].
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Submits answered in a second, when that was last found.
    pub fn per_second(&self) -> usize {
        self.per_second
    }

    /// So many were answered now, after they had waited for so long.
    pub fn answered(&mut self, count: usize, waited: Duration, now: Instant) {
        self.answered += count;
        let times = u32::try_from(count).unwrap_or(u32::MAX);
        self.waited = self.waited.saturating_add(waited.saturating_mul(times));
        let span = now.saturating_duration_since(self.began);
        if span < SPAN {
            return;
        }
        let span_ms = usize::try_from(span.as_millis()).unwrap_or(usize::MAX);
        self.per_second = self.answered.saturating_mul(1000) / span_ms;
        let each = u32::try_from(self.answered).unwrap_or(u32::MAX).max(1);
        let mean = self.waited / each;
        // While they wait for longer the log is never without work, so that what it answers is
        // what it can.
        self.limit = if mean > ANSWERED_WITHIN {
            self.per_second.saturating_mul(millis(ANSWERED_WITHIN)) / 1000
        } else if mean < ANSWERED_WITHIN / 2 {
            self.limit + self.limit / 4
        } else {
            self.limit
        }
        .clamp(LEAST, MOST);
        (self.began, self.answered, self.waited) = (now, 0, Duration::ZERO);
    }
}

fn millis(time: Duration) -> usize {
    usize::try_from(time.as_millis()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten seconds of a log that answers so many in a second, while callers keep as many on their
    /// way as may be.
    fn flood(depth: &mut Depth, begins: Instant, per_second: usize) -> Instant {
        let each = Duration::from_secs(1) / 100;
        let mut now = begins;
        for _ in 0..1_000 {
            now += each;
            let waits_ms = depth.limit() * 1000 / per_second;
            let waited = Duration::from_millis(u64::try_from(waits_ms).unwrap());
            depth.answered(per_second / 100, waited, now);
        }
        now
    }

    #[test]
    fn as_many_as_are_answered_in_a_quarter_of_a_second() {
        let mut now = Instant::now();
        let mut depth = Depth::new(now);
        assert_eq!((depth.limit(), depth.per_second()), (MOST, 0));
        for (per_second, limit) in [(4_000, 1_000), (20_000, 5_000), (100_000, MOST), (100, LEAST)]
        {
            now = flood(&mut depth, now, per_second);
            let found = depth.limit();
            // Between a half of the time and all of it nothing is changed.
            assert!((limit / 2..=limit.max(LEAST)).contains(&found), "{per_second}/s: {found}");
            assert_eq!(depth.per_second(), per_second);
        }
    }

    #[test]
    fn what_is_seldom_asked_is_no_reason_to_let_less_in() {
        let mut now = Instant::now();
        let mut depth = Depth::new(now);
        for _ in 0..100 {
            now += Duration::from_secs(1);
            depth.answered(1, Duration::from_millis(5), now);
        }
        assert_eq!(depth.limit(), MOST);
        // A disk that stood still once is forgotten as soon as it runs.
        depth.answered(1, Duration::from_secs(30), now + Duration::from_secs(1));
        assert_eq!(depth.limit(), LEAST);
        flood(&mut depth, now + Duration::from_secs(1), 1_000_000);
        assert_eq!(depth.limit(), MOST);
    }
}
