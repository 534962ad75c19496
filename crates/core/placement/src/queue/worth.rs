//! What it is worth to let a job run: ends to be expected for the time that it will hold its
//! GPUs.

use super::history::{LEVELS, level_begins};

/// The whole, of which parts are given.
pub(super) const ONE: u64 = 1 << 20;
/// Rates are in ends for each 2^60 ms, so that the least of them is far from 0 and the largest
/// far from 2^64: one end in 150 s, half the first level, is less than 2^43.
pub(super) const SCALE_BITS: u32 = 60;

/// Of each level, the rate of a job that has come to it.
pub(super) type Rates = [u64; LEVELS];

/// The index of Gittins (Gittins, 1979; for jobs of unknown length Sevcik, 1974): of all points
/// at which a job could be given up, the one with the most chance of an end for the time
/// expected to be spent. Served in this order, jobs on one server wait the least in the mean
/// that they can where only the distribution of lengths is known; on many servers and with
/// gangs it is a good guess. `parts[level]` is the part, of [`ONE`], of those that come to a level
/// that end in it, on average in its middle.
pub(super) fn rates(parts: &[u64; LEVELS]) -> Rates {
    let mut rates = [0; LEVELS];
    for (begin, rate) in rates.iter_mut().enumerate() {
        let mut left = ONE;
        let mut spent = 0_u64;
        for (level, part) in parts.iter().enumerate().skip(begin) {
            let part = (*part).min(ONE);
            let span_ms = level_begins(level + 1).0 - level_begins(level).0;
            // At most 2^20 by 2^42 in sum.
            spent += (left * (ONE - part / 2) / ONE) * span_ms;
            left = left * (ONE - part) / ONE;
            let ends = u128::from(ONE - left) << SCALE_BITS;
            let found = u64::try_from(ends / u128::from(spent.max(1))).unwrap_or(u64::MAX);
            *rate = found.max(*rate);
        }
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_best_of_all_spans() {
        // All end in level 2, from 600 to 1,200 s, on average at 900 s.
        let mut parts = [0; LEVELS];
        parts[2] = ONE;
        let rates = rates(&parts);
        let one_in = |milliseconds: u64| {
            u64::try_from((1_u128 << SCALE_BITS) / u128::from(milliseconds)).unwrap()
        };
        assert_eq!(rates[..3], [one_in(900_000), one_in(600_000), one_in(300_000)]);
        assert_eq!(rates[3], 0, "nobody comes further");
    }

    #[test]
    fn who_may_end_at_once_is_not_held_to_the_long_run() {
        // Half end in the first 300 s, the others never.
        let mut parts = [0; LEVELS];
        parts[0] = ONE / 2;
        let rates = rates(&parts);
        assert_eq!(u128::from(rates[0]), (1_u128 << (SCALE_BITS - 1)) / 225_000);
        assert_eq!(rates[1], 0);
    }
}
