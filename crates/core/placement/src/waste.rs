//! What is expected to be lost of a GPU of which a part is left: filled at random from what
//! is asked for, until nothing fits any more.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The whole of a device, in thousandths.
const WHOLE: usize = 1000;
/// Losses are kept in these parts of a thousandth of a GPU.
pub(crate) const PARTS: u64 = 1 << 16;
/// One in so many times a remnant is left as it is though something would fit: without it
/// everything would look as if it could be filled to the end, which takes patience that the
/// cluster may not have.
const LEFT_AS_IT_IS: u64 = 20;

/// The expected loss, in [`PARTS`] of a thousandth of a GPU, of each remnant from 0 to 1000
/// thousandths; empty while nothing is known, when nothing is lost.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Waste(Arc<[u64]>);

impl Waste {
    /// From how many GPUs each share was asked for of. With q(d) of them for the share d, T
    /// for all, and s = T / 20:
    ///
    /// w(0) = 0, w(r) = (sum over d <= r of q(d) w(r - d) + s r) / (sum over d <= r of q(d) + s)
    pub fn new(shares: &BTreeMap<u32, u64>) -> Waste {
        let total: u128 = shares.values().map(|count| u128::from(*count)).sum();
        if total == 0 {
            return Waste::default();
        }
        let mut waste: Vec<u64> = vec![0; WHOLE + 1];
        for left in 1..=WHOLE {
            let (mut lost, mut weights) = (total * left as u128 * u128::from(PARTS), total);
            for (share, count) in shares {
                let Some(rest) = left.checked_sub(*share as usize) else { break };
                let weight = u128::from(*count) * u128::from(LEFT_AS_IT_IS);
                lost += weight * u128::from(waste[rest]);
                weights += weight;
            }
            waste[left] = u64::try_from(lost / weights).unwrap_or(u64::MAX);
        }
        Waste(waste.into())
    }

    /// Of a remnant of so many thousandths.
    pub fn of(&self, left_milli: u32) -> u64 {
        self.0.get(left_milli as usize).copied().unwrap_or(0)
    }
}

impl fmt::Debug for Waste {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Waste({} of a whole GPU)", self.of(1000) / PARTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waste(shares: &[(u32, u64)]) -> impl Fn(u32) -> u64 {
        let waste = Waste::new(&shares.iter().copied().collect());
        move |left| waste.of(left) / PARTS
    }

    #[test]
    fn what_can_be_completed_is_worth_more_than_what_cannot() {
        let whole_only = waste(&[(1000, 10)]);
        assert_eq!((whole_only(0), whole_only(999)), (0, 999));
        // One time in twenty-one it is left.
        assert_eq!(whole_only(1000), 1000 / 21);
        let halves = waste(&[(500, 10)]);
        assert_eq!(halves(499), 499);
        assert!(halves(500) < 25 && halves(1000) < 75);
        assert!(halves(700) > 200, "two hundred are left over in any case: {}", halves(700));
        let mixed = waste(&[(300, 10), (700, 10)]);
        assert!(mixed(1000) < mixed(900), "300 and 700 fill a whole one");
        assert_eq!(Waste::default().of(1000), 0);
    }
}
