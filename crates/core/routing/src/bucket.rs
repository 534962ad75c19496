//! How much of something may be used in a second: requests, or tokens, of which it is known only at
//! the end how many they were, so that what is taken at first is put right then.

use crate::clock::{GatewayUs, SpanUs};

/// Nobody is told to wait longer: a client takes more for "give up".
pub const WAIT_MAX: SpanUs = SpanUs::from_secs(60);

/// Fills with time, up to its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    per_second: u64,
    size: u64,
    /// In millionths, so that a microsecond at one a second is not lost. Below zero is owed.
    level: i128,
    at: GatewayUs,
}

/// What was taken for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "what is used less, or more, is to be put right"]
pub struct Reservation {
    taken: u64,
}

const MILLION: i128 = 1_000_000;

impl Bucket {
    /// A full one.
    pub fn new(per_second: u64, size: u64, now: GatewayUs) -> Bucket {
        Bucket { per_second, size, level: i128::from(size) * MILLION, at: now }
    }

    /// Takes so much; more than the whole of it once it is full, and the rest is owed.
    ///
    /// # Errors
    /// When it will be there, at most [`WAIT_MAX`]; then nothing is taken.
    pub fn take(&mut self, amount: u64, now: GatewayUs) -> Result<Reservation, SpanUs> {
        self.fill(now);
        let missing = i128::from(amount.min(self.size)) * MILLION - self.level;
        if missing > 0 {
            if self.per_second == 0 {
                return Err(WAIT_MAX);
            }
            let micros = missing.unsigned_abs().div_ceil(u128::from(self.per_second));
            return Err(SpanUs(u64::try_from(micros).unwrap_or(u64::MAX)).min(WAIT_MAX));
        }
        self.level -= i128::from(amount) * MILLION;
        Ok(Reservation { taken: amount })
    }

    /// What was taken turns out to have been so much.
    pub fn settle(&mut self, reservation: Reservation, used: u64, now: GatewayUs) {
        self.fill(now);
        let back = i128::from(reservation.taken) - i128::from(used);
        self.level = (self.level + back * MILLION).min(self.full());
    }

    /// Other limits from now on; what is there stays, as far as it fits.
    pub fn set(&mut self, per_second: u64, size: u64, now: GatewayUs) {
        self.fill(now);
        (self.per_second, self.size) = (per_second, size);
        self.level = self.level.min(self.full());
    }

    fn fill(&mut self, now: GatewayUs) {
        let more = i128::from(now.since(self.at).0) * i128::from(self.per_second);
        self.level = (self.level + more).min(self.full());
        self.at = self.at.max(now);
    }

    fn full(&self) -> i128 {
        i128::from(self.size) * MILLION
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Dice;

    fn at(millis: u64) -> GatewayUs {
        GatewayUs(millis * 1000)
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(100, 200, at(0));
        let taken = (0..1_000).take_while(|_| bucket.take(1, at(0)).is_ok()).count();
        assert_eq!(taken, 200);
        let wait = bucket.take(1, at(0)).unwrap_err();
        assert_eq!(wait, SpanUs(10_000), "a hundredth of a second");
        assert!(bucket.take(1, at(10)).is_ok());
        // Of an hour it is as full as it gets.
        let taken = (0..1_000).take_while(|_| bucket.take(1, at(3_600_000)).is_ok()).count();
        assert_eq!(taken, 200);
    }

    #[test]
    fn what_is_told_to_come_back_finds_what_it_wants() {
        let mut dice = Dice::new(1);
        let (mut bucket, mut now) = (Bucket::new(1_000, 5_000, at(0)), 0);
        for _ in 0..1_000 {
            let amount = dice.below(6_000) as u64;
            if let Err(wait) = bucket.take(amount, GatewayUs(now)) {
                assert!(bucket.take(amount, GatewayUs(now + wait.0 - 1)).is_err());
                now += wait.0;
                assert!(bucket.take(amount, GatewayUs(now)).is_ok(), "{amount} at {now}");
            }
        }
    }

    #[test]
    fn what_was_not_used_comes_back_and_what_was_used_beyond_is_owed() {
        let mut bucket = Bucket::new(1_000, 1_000, at(0));
        let taken = bucket.take(1_000, at(0)).unwrap();
        bucket.settle(taken, 100, at(0));
        let taken = bucket.take(900, at(0)).unwrap();
        bucket.settle(taken, 2_900, at(0));
        assert_eq!(bucket.take(1, at(0)), Err(SpanUs(2_001_000)));
        assert!(bucket.take(1, GatewayUs(2_000_999)).is_err(), "a microsecond is missing");
        assert!(bucket.take(1, at(2_001)).is_ok());
        // Over a long time it is the rate, whatever was thought at first.
        let (mut used, mut dice, mut now) = (0, Dice::new(2), 3_000);
        let began = now;
        while now < began + 1_000_000 {
            if let Ok(taken) = bucket.take(dice.below(500) as u64, at(now)) {
                let real = dice.below(500) as u64;
                bucket.settle(taken, real, at(now));
                used += real;
            }
            now += 50;
        }
        assert!(used.abs_diff(1_000_000) <= 10_000, "{used}");
    }

    #[test]
    fn without_a_rate_nothing_comes_and_another_rate_counts_from_now() {
        let mut bucket = Bucket::new(0, 1, at(0));
        assert!(bucket.take(1, at(0)).is_ok());
        assert_eq!(bucket.take(1, at(0)), Err(WAIT_MAX));
        assert_eq!(bucket.take(1, at(3_600_000)), Err(WAIT_MAX));
        bucket.set(10, 5, at(3_600_000));
        assert!(bucket.take(1, at(3_600_000)).is_err());
        assert!(bucket.take(5, at(3_600_500)).is_ok());
    }
}
