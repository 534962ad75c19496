//! What of the cluster a namespace is sure of, and what of its holdings is lent to it: planning
//! and apply share the questions.

use std::collections::BTreeMap;

use crate::limit_range::LimitRange;
use crate::namespace::{Amounts, QuotaPart, Resource, Shortage};
use crate::time::DurationMs;

/// What is lent is left alone for no longer than this, however long its job asks to be: whoever
/// has a guarantee is not to wait for what others have set.
pub const LENT_MIN_RUN_MAX: DurationMs = DurationMs::from_secs(600);

/// What the jobs of a namespace get whenever they ask for it, if need be from others who hold more
/// than theirs. Of what is not named nothing is sure.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Guarantee {
    /// Only of [`Guarantee::RESOURCES`].
    pub amounts: BTreeMap<Resource, u64>,
}

impl Guarantee {
    /// What may be guaranteed: what nodes have.
    pub const RESOURCES: [Resource; 4] = LimitRange::RESOURCES;

    pub fn is_empty(&self) -> bool {
        self.amounts.is_empty()
    }

    pub fn in_all(&self) -> Amounts {
        self.amounts.iter().fold(Amounts::default(), |sum, (one, sure)| sum.with(*one, *sure))
    }

    /// Whether something is guaranteed of what is held or asked for, of GPUs before all else.
    pub fn concerns(&self, amounts: Amounts) -> bool {
        judged_by(&self.amounts, amounts).next().is_some()
    }

    /// Whether `asked` is sure beside `used`: something of it is guaranteed, and all that is lies
    /// within.
    pub fn covers(&self, used: Amounts, asked: Amounts) -> bool {
        self.concerns(asked) && self.check(used, asked).is_ok()
    }

    /// Whether `asked` lies within, beside `used`: what asks for GPUs by those and their memory
    /// alone, everything else by cores and memory. Of what nothing is guaranteed nothing is asked.
    ///
    /// # Errors
    /// The first resource that goes beyond.
    pub fn check(&self, used: Amounts, asked: Amounts) -> Result<(), Shortage> {
        let judged = judged_by(&self.amounts, asked);
        Shortage::of_any(judged, QuotaPart::Guarantee, used, asked)
    }

    /// What of `used` is lent.
    pub fn lends(&self, used: Amounts) -> Lent {
        let beyond = |(resource, sure): (&Resource, &u64)| {
            (*resource, used.of(*resource).saturating_sub(*sure))
        };
        Lent { beyond: self.amounts.iter().map(beyond).collect() }
    }
}

/// How much a namespace holds beyond its guarantee, of each resource of which something is
/// guaranteed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lent {
    beyond: BTreeMap<Resource, u64>,
}

impl Lent {
    /// Whether what holds this may be taken after so much else was: its namespace is still beyond
    /// its guarantee then in something that it holds, or it holds nothing that is guaranteed.
    pub fn gives(&self, taken: Amounts, held: Amounts) -> bool {
        let mut concerned = judged_by(&self.beyond, held).peekable();
        concerned.peek().is_none() || concerned.any(|(one, beyond)| *beyond > taken.of(*one))
    }

    /// Whether all of these may be taken together, beside what was taken before: each of them
    /// could be the last. Then so may fewer of them.
    pub fn gives_all(&self, taken: Amounts, units: &[Amounts]) -> bool {
        let all = units.iter().fold(taken, |sum, unit| sum.plus(*unit));
        units.iter().all(|unit| self.gives(all.minus(*unit), *unit))
    }
}

/// By which of these amounts something is judged: GPUs are what guarantees are for, and whoever
/// holds some needs cores beside them, so that neither stands for the other.
fn judged_by(
    amounts: &BTreeMap<Resource, u64>,
    what: Amounts,
) -> impl Iterator<Item = (&Resource, &u64)> {
    let of_gpus = [Resource::Gpus, Resource::GpuMemory];
    let has_gpus = of_gpus.iter().any(|one| what.of(*one) > 0);
    amounts.iter().filter(move |(one, _)| what.of(**one) > 0 && of_gpus.contains(one) == has_gpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(milli: u64) -> Amounts {
        Amounts::default().with(Resource::Gpus, milli)
    }

    fn guarantee(amounts: &[(Resource, u64)]) -> Guarantee {
        Guarantee { amounts: amounts.iter().copied().collect() }
    }

    #[test]
    fn what_is_sure_is_what_lies_within_all_that_is_guaranteed() {
        use Resource as R;
        let sure = guarantee(&[(R::Gpus, 8000), (R::Cpu, 4000)]);
        let asked = gpus(2000).with(R::Cpu, 1000);
        assert!(sure.covers(gpus(6000), asked));
        assert!(!sure.covers(gpus(6001), asked));
        // What asks for GPUs is judged by those, and sure only if some are guaranteed.
        assert!(sure.covers(gpus(0).with(R::Cpu, 3001), asked));
        assert!(!guarantee(&[(R::Cpu, 4000)]).covers(gpus(0), asked));
        let cores = Amounts::default().with(R::Cpu, 1000);
        assert!(sure.covers(gpus(9000).with(R::Cpu, 3000), cores));
        assert!(!sure.covers(gpus(0).with(R::Cpu, 3001), cores));
        // Of what it does not ask for more may be held.
        assert!(sure.covers(gpus(9000), Amounts::default().with(R::Cpu, 1)));
        // Nothing of it is guaranteed, so nothing of it is sure; nor does it go beyond.
        let other = Amounts::default().with(R::Memory, 1);
        assert!(!sure.covers(gpus(0), other));
        assert_eq!(sure.check(gpus(9000), other), Ok(()));
        assert!(!guarantee(&[]).covers(gpus(0), asked));
    }

    #[test]
    fn each_that_is_taken_takes_from_what_is_lent() {
        let lent = guarantee(&[(Resource::Gpus, 8000)]).lends(gpus(10_000));
        let check = |taken, units: &[u64], expected| {
            let units: Vec<Amounts> = units.iter().copied().map(gpus).collect();
            assert_eq!(lent.gives_all(gpus(taken), &units), expected, "{taken} {units:?}");
        };
        check(0, &[], true);
        check(0, &[1000, 1000], true);
        check(0, &[1000, 1000, 1000], false);
        // What is lent need not be whole instances: the last may be larger than what is left of it.
        check(0, &[8000], true);
        check(0, &[1000, 8000], false);
        check(0, &[2000, 2000], false);
        check(1000, &[1000], true);
        check(2000, &[1000], false);
        // What holds nothing of it is not counted.
        check(2000, &[0], true);
    }

    #[test]
    fn gpus_are_not_given_for_cores_nor_kept_by_them() {
        use Resource as R;
        let sure = guarantee(&[(R::Gpus, 8000), (R::Cpu, 4000)]);
        let nothing = Amounts::default();
        let lent = sure.lends(gpus(8000).with(R::Cpu, 5000));
        assert!(!lent.gives(nothing, gpus(1000).with(R::Cpu, 1000)));
        assert!(lent.gives(nothing, nothing.with(R::Cpu, 1000)));
        assert!(lent.gives(nothing, nothing.with(R::Memory, 1)));
        let cores = guarantee(&[(R::Cpu, 4000)]).lends(gpus(8000).with(R::Cpu, 1000));
        assert!(cores.gives(nothing, gpus(1000).with(R::Cpu, 1000)), "no GPU is guaranteed to it");
        // Of GPUs and their memory one is enough.
        let both = guarantee(&[(R::Gpus, 8000), (R::GpuMemory, 10)]);
        let lent = both.lends(gpus(8000).with(R::GpuMemory, 11));
        assert!(lent.gives(nothing, gpus(1000).with(R::GpuMemory, 1)));
    }
}
