//! Which version of a service a request goes to while two are there. A key that was on the new one
//! stays on it while its part grows.

use crate::chance;

/// Parts are counted in thousandths.
pub const WHOLE_MILLI: u32 = 1_000;
/// Fine enough that a thousandth is a thousandth.
const STEPS: u64 = 1 << 32;

/// Whether the request with this key is among the part that goes to the new version. `split` tells
/// one release from the next: who was first in one is not in all.
pub fn goes_to_new(split: u64, key: u64, part_milli: u32) -> bool {
    let place = chance::mix_both(split, key) % STEPS;
    place * u64::from(WHOLE_MILLI) < u64::from(part_milli.min(WHOLE_MILLI)) * STEPS
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u64 = 100_000;

    fn of(split: u64, part_milli: u32) -> Vec<u64> {
        (0..KEYS).filter(|key| goes_to_new(split, *key, part_milli)).collect()
    }

    #[test]
    fn a_tenth_is_a_tenth_and_nobody_leaves_while_it_grows() {
        let mut before = Vec::new();
        for part in [0, 10, 100, 500, 1_000, 5_000] {
            let now = of(7, part);
            let expected = KEYS * u64::from(part.min(WHOLE_MILLI)) / 1_000;
            // Five standard deviations of a binomial of that size are below 800.
            assert!(expected.abs_diff(now.len() as u64) < 800, "{part}: {}", now.len());
            assert!(before.iter().all(|key| now.contains(key)), "{part}");
            before = now.into_iter().take(500).collect();
        }
        assert_eq!((of(7, 0).len(), of(7, 1_000).len()), (0, 100_000));
    }

    #[test]
    fn the_first_of_one_release_are_not_those_of_the_next() {
        let (first, second) = (of(1, 100), of(2, 100));
        let both = first.iter().filter(|key| second.binary_search(key).is_ok()).count();
        assert!((700..1_300).contains(&both), "{both}");
    }
}
