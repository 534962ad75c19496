//! Use over time, weighted by how long ago it was: what a namespace held a half-life ago counts half
//! of what it holds now. Integers alone, so that every replica comes to the same.

use crate::namespace::{Amounts, Resource};
use crate::time::{DurationMs, StateMs};

/// After so long a past use counts half: yesterday's half of today's.
pub const USE_HALF_LIFE: DurationMs = DurationMs::from_secs(24 * 3600);

/// Binary digits behind the point of a factor.
const DIGITS: u32 = 62;
const ONE: u128 = 1 << DIGITS;
/// Binary digits of the part of a half-life.
const PARTS: u32 = 48;
/// Binary digits behind the point of an average: what a change of a millisecond does to it is not
/// lost.
const FINE: u32 = 20;

/// What is averaged: what nodes have.
const AVERAGED: [Resource; 4] =
    [Resource::Gpus, Resource::GpuMemory, Resource::Cpu, Resource::Memory];
/// Bytes are averaged in units of a mebibyte, for which 44 digits are more than any cluster has.
const UNITS: [u64; 4] = [1, 1 << 20, 1, 1 << 20];
/// The most that is averaged of one resource.
const MOST: u64 = (1 << 44) - 1;

/// 2^(-1/2), 2^(-1/4), and so on: each the root of the one before.
const ROOTS: [u128; PARTS as usize] = roots();

const fn roots() -> [u128; PARTS as usize] {
    let mut roots = [0; PARTS as usize];
    let mut last = ONE / 2;
    let mut at = 0;
    while at < roots.len() {
        last = (last << DIGITS).isqrt();
        roots[at] = last;
        at += 1;
    }
    roots
}

/// 2^(-part / whole) with 62 binary digits; 0 where it is less than a digit, as where there is no
/// whole.
pub fn halved(part: u64, whole: u64) -> u64 {
    let Some(times) = part.checked_div(whole).filter(|times| *times < u64::from(DIGITS)) else {
        return 0;
    };
    let left = ((u128::from(part % whole)) << PARTS) / u128::from(whole);
    let mut factor = ONE;
    for (at, root) in ROOTS.iter().enumerate() {
        if left >> (ROOTS.len() - 1 - at) & 1 == 1 {
            factor = (factor * root) >> DIGITS;
        }
    }
    u64::try_from(factor >> times).unwrap_or(u64::MAX)
}

/// How much of each resource was held on average until a moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct AverageUse {
    pub at: StateMs,
    /// With 20 binary digits behind the point, GPUs and cores in thousandths, memory in mebibytes:
    /// GPUs, their memory, cores, memory.
    pub fine: [u64; 4],
}

impl AverageUse {
    /// The average later, where this much was held all the time since.
    #[must_use]
    pub fn after(self, held: Amounts, now: StateMs) -> AverageUse {
        let factor = i128::from(halved(now.since(self.at).0, USE_HALF_LIFE.0));
        let mut fine = self.fine;
        for (at, value) in fine.iter_mut().enumerate() {
            let held = (held.of(AVERAGED[at]) / UNITS[at]).min(MOST) << FINE;
            let (held, before) = (i128::from(held), i128::from((*value).min(MOST << FINE)));
            let later = held + (((before - held) * factor) >> DIGITS);
            *value = u64::try_from(later).unwrap_or(0);
        }
        AverageUse { at: self.at.max(now), fine }
    }

    pub fn amounts(self) -> Amounts {
        let parts = AVERAGED.into_iter().zip(self.fine.into_iter().zip(UNITS));
        parts.fold(Amounts::default(), |sum, (resource, (value, unit))| {
            sum.with(resource, (value >> FINE).saturating_mul(unit))
        })
    }

    pub fn is_zero(self) -> bool {
        self.fine == [0; 4]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gpus(milli: u64) -> Amounts {
        Amounts::default().with(Resource::Gpus, milli).with(Resource::Memory, milli << 20)
    }

    #[test]
    fn a_half_life_halves() {
        let one = 1_u64 << DIGITS;
        let check =
            |part, whole, expected: u64| assert_eq!(halved(part, whole), expected, "{part}");
        check(0, 7, one);
        check(7, 7, one / 2);
        check(21, 7, one / 8);
        check(7 * 62, 7, 0);
        check(u64::MAX, 1, 0);
        check(1, 0, 0);
        let of = |hours: u64| DurationMs::from_secs(hours * 3600).0;
        let held = AverageUse::default().after(gpus(8000), StateMs(of(24)));
        assert_eq!(held.amounts(), gpus(4000));
        let more = held.after(gpus(8000), StateMs(of(48)));
        assert_eq!(more.amounts(), gpus(6000));
        assert_eq!(more.after(gpus(0), StateMs(of(72))).amounts(), gpus(3000));
        // A clock that goes back changes nothing.
        assert_eq!(more.after(gpus(0), StateMs(0)), more);
    }

    proptest! {
        #[test]
        fn it_is_the_power_of_two(part in 0..1_u64 << 40, whole in 1..1_u64 << 36) {
            let expected = (-(part as f64) / whole as f64).exp2();
            let found = halved(part, whole) as f64 / (1_u64 << DIGITS) as f64;
            prop_assert!((found - expected).abs() < 1e-8, "{found}, {expected}");
        }

        /// However often it is asked on the way.
        #[test]
        fn the_way_there_makes_no_difference(
            held in 0..1_000_000_u64,
            before in 0..1_000_000_u64,
            steps in prop::collection::vec(1..100_000_u64, 1..200),
        ) {
            let start = AverageUse { at: StateMs(5), fine: [before << FINE; 4] };
            let mut by_steps = start;
            for step in &steps {
                by_steps = by_steps.after(gpus(held), StateMs(by_steps.at.0 + step));
            }
            let at_once = start.after(gpus(held), by_steps.at);
            let difference = by_steps.fine[0].abs_diff(at_once.fine[0]);
            // Each step is rounded.
            prop_assert!(difference <= 2 * (steps.len() as u64 + 1), "{difference}");
        }

        #[test]
        fn it_lies_between_what_it_was_and_what_is_held(
            fine in prop::array::uniform4(any::<u64>()),
            held in any::<u64>(),
            span in any::<u64>(),
        ) {
            let start = AverageUse { at: StateMs(0), fine };
            let held = gpus(held).with(Resource::Cpu, held).with(Resource::GpuMemory, held);
            let later = start.after(held, StateMs(span));
            for at in 0..4 {
                let held = (held.of(AVERAGED[at]) / UNITS[at]).min(MOST) << FINE;
                let before = fine[at].min(MOST << FINE);
                let (least, most) = (held.min(before), held.max(before));
                prop_assert!((least.saturating_sub(1)..=most).contains(&later.fine[at]));
            }
        }
    }
}
