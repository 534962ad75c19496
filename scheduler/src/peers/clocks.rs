//! Whose wall clock is off. Leases and limits go by another clock; people read this
//! one, and certificates and schedules are held against it. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// A clock further than this from the voters' median is off.
const OFF_MS_MIN: u64 = 5_000;

/// The clocks that are off, by scheduler, with how many milliseconds each is ahead of
/// the median of the voters' clocks. `ahead` says how far each is ahead of one of
/// them, whichever; clocks that are not in it are not known. Of two voters neither is
/// known to be right: each is half of the difference away from the median.
pub fn clocks_off(ahead: &BTreeMap<u64, i64>, voters: &BTreeSet<u64>) -> BTreeMap<u64, i64> {
    let voting = ahead.iter().filter(|(id, _)| voters.contains(id)).map(|(_, ahead)| *ahead);
    let Some(median) = median(voting.collect()) else { return BTreeMap::new() };
    let from_median = ahead.iter().map(|(id, ahead)| (*id, ahead.saturating_sub(median)));
    from_median.filter(|(_, ahead)| ahead.unsigned_abs() > OFF_MS_MIN).collect()
}

fn median(mut values: Vec<i64>) -> Option<i64> {
    values.sort_unstable();
    let upper = *values.get(values.len() / 2)?;
    match values.len() % 2 {
        1 => Some(upper),
        _ => Some(values[values.len() / 2 - 1].midpoint(upper)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_that_is_off_is_the_one_that_most_voters_are_far_from() {
        const HOUR: i64 = 3_600_000;
        type Case = (&'static [(u64, i64)], &'static [u64], &'static [(u64, i64)]);
        let cases: [Case; 8] = [
            (&[(1, 0)], &[1], &[]),
            (&[(1, 0), (2, 40), (3, -4_000)], &[1, 2, 3], &[]),
            // The one that asks may be the wrong one.
            (&[(1, 0), (2, HOUR), (3, HOUR + 3)], &[1, 2, 3], &[(1, -HOUR)]),
            (&[(1, 0), (2, -6_000), (3, 0)], &[1, 2, 3], &[(2, -6_000)]),
            (&[(1, 0), (2, 12_000)], &[1, 2], &[(1, -6_000), (2, 6_000)]),
            (&[(1, 0), (2, 9_000)], &[1, 2], &[]),
            // Who has no vote is held against those that have one.
            (&[(1, 0), (4, HOUR), (5, HOUR)], &[1, 2, 3], &[(4, HOUR), (5, HOUR)]),
            (&[(4, i64::MAX), (1, i64::MIN)], &[1], &[(4, i64::MAX)]),
        ];
        for (ahead, voters, expected) in cases {
            let ahead = ahead.iter().copied().collect();
            let voters = voters.iter().copied().collect();
            let expected = expected.iter().copied().collect();
            assert_eq!(clocks_off(&ahead, &voters), expected, "{ahead:?}");
        }
    }
}
