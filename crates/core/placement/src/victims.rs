//! Who on one node ends for what has no room there: of all sets that make room the one that
//! loses the least work.

mod shares;

pub(crate) use shares::{Offer, cheapest_shares};

use berth_model::{AllocationId, Claim, NodeUse};

/// Somebody who may end.
#[derive(Clone, Debug)]
pub(crate) struct Candidate<'a> {
    pub id: AllocationId,
    pub claim: &'a Claim,
    /// What ending it costs; nothing for one that ends anyway.
    pub lost: u64,
}

/// Less is better: the work that is lost, then how many end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Price {
    pub lost: u64,
    pub victims: u32,
}

impl Price {
    pub const NOTHING: Price = Price { lost: 0, victims: 0 };

    /// Of both together.
    pub fn and(self, other: Price) -> Price {
        Price {
            lost: self.lost.saturating_add(other.lost),
            victims: self.victims.saturating_add(other.victims),
        }
    }
}

/// Sets that are tried on one node. A host of eight GPUs with an allocation on each has 256; with
/// four on each this bound cuts the search short, and the best set found until then is taken.
const TRIED_MAX: u32 = 1024;

/// What was found on a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Set {
    pub price: Price,
    /// Positions among the candidates, ascending.
    pub chosen: Vec<usize>,
    /// How many sets were tried.
    pub tried: u32,
}

/// The cheapest set of candidates without which `fits`; `None` if there is none. `fits` must go on
/// holding when less is used.
///
/// Costs O(2^candidates) calls of `fits`, at most [`TRIED_MAX`].
pub(crate) fn cheapest(
    used: &NodeUse,
    candidates: &[Candidate<'_>],
    mut fits: impl FnMut(&NodeUse) -> bool,
) -> Option<Set> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    // Who costs most is spared first: the first set that is found loses little already.
    order.sort_by_key(|at| (std::cmp::Reverse(candidates[*at].lost), candidates[*at].id));
    let mut without = used.clone();
    candidates.iter().for_each(|candidate| without.remove(candidate.claim));
    if !fits(&without) {
        return None;
    }
    let mut tries = Tries { candidates, order, fits, best: None, chosen: None, tried: 0 };
    tries.descend(0, &mut without, Price { lost: 0, victims: 0 }, &mut Vec::new());
    let mut chosen = tries.chosen?;
    chosen.sort_unstable();
    let (price, tried) = (tries.best?, tries.tried);
    Some(Set { price, chosen, tried })
}

/// What is missing on a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shortage {
    pub devices: u64,
    pub cpu_milli: u64,
    pub memory_bytes: u64,
}

/// How much of one thing a claim has.
type Part = fn(&Claim) -> u64;

/// No set of candidates that makes up for the shortage costs less; `None` if none does at all.
/// Costs O(candidates × log candidates).
pub(crate) fn at_least(candidates: &[Candidate<'_>], shortage: Shortage) -> Option<Price> {
    let wants: [(u64, Part); 3] = [
        (shortage.devices, |claim| claim.devices.len() as u64),
        (shortage.cpu_milli, |claim| claim.cpu.0),
        (shortage.memory_bytes, |claim| claim.memory.0),
    ];
    let mut price = Price::NOTHING;
    for (missing, of) in wants.into_iter().filter(|(missing, _)| *missing > 0) {
        price.lost = price.lost.max(covered(candidates, missing, of)?);
        price.victims = price.victims.max(counted(candidates, missing, of));
    }
    Some(price)
}

/// How many have to end at least: the largest first.
fn counted(candidates: &[Candidate<'_>], mut missing: u64, of: Part) -> u32 {
    let mut has: Vec<u64> = candidates.iter().map(|one| of(one.claim)).collect();
    has.sort_unstable();
    let mut count = 0;
    while let Some(largest) = has.pop().filter(|_| missing > 0) {
        missing = missing.saturating_sub(largest);
        count += 1;
    }
    count
}

/// What so much of one thing costs if parts of candidates could be ended, the cheapest first.
fn covered(candidates: &[Candidate<'_>], mut missing: u64, of: Part) -> Option<u64> {
    let mut order: Vec<(u64, u64)> = candidates
        .iter()
        .map(|one| (one.lost, of(one.claim)))
        .filter(|(_, has)| *has > 0)
        .collect();
    order.sort_by(|one, other| {
        let product = |lost: u64, has: u64| u128::from(lost) * u128::from(has);
        product(one.0, other.1).cmp(&product(other.0, one.1))
    });
    let mut cost: u64 = 0;
    for (lost, has) in order {
        if has >= missing {
            let part = u128::from(lost) * u128::from(missing) / u128::from(has);
            let part = u64::try_from(part).unwrap_or(u64::MAX);
            return Some(cost.saturating_add(part));
        }
        cost = cost.saturating_add(lost);
        missing -= has;
    }
    None
}

struct Tries<'c, 'a, F> {
    candidates: &'c [Candidate<'a>],
    order: Vec<usize>,
    fits: F,
    best: Option<Price>,
    chosen: Option<Vec<usize>>,
    tried: u32,
}

impl<F: FnMut(&NodeUse) -> bool> Tries<'_, '_, F> {
    /// Decides about the candidate at `depth` of the order; those after it are taken off `used`.
    fn descend(&mut self, depth: usize, used: &mut NodeUse, price: Price, ended: &mut Vec<usize>) {
        if self.best.is_some_and(|best| price >= best) || self.tried >= TRIED_MAX {
            return;
        }
        let Some(at) = self.order.get(depth).copied() else {
            self.best = Some(price);
            self.chosen = Some(ended.clone());
            return;
        };
        let candidate = &self.candidates[at];
        self.tried += 1;
        used.add(candidate.claim);
        if (self.fits)(used) {
            self.descend(depth + 1, used, price, ended);
        }
        used.remove(candidate.claim);
        let lost = price.lost.saturating_add(candidate.lost);
        ended.push(at);
        self.descend(depth + 1, used, Price { lost, victims: price.victims + 1 }, ended);
        ended.pop();
    }
}

#[cfg(test)]
mod tests;
