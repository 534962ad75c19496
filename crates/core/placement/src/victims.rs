//! Who on one node ends for what has no room there: of all sets that make room the one that
//! loses the least work.

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

/// Sets that are tried on one node. A host of eight GPUs with an allocation on each has 256; with
/// four on each this bound cuts the search short, and the best set found until then is taken.
const TRIED_MAX: u32 = 4096;

/// The cheapest set of candidates without which `fits`, as positions in `candidates`, ascending;
/// `None` if there is none for less than `below`. `fits` must go on holding when less is used.
///
/// Costs O(2^candidates) calls of `fits`, at most [`TRIED_MAX`].
pub(crate) fn cheapest(
    used: &NodeUse,
    candidates: &[Candidate<'_>],
    below: Option<Price>,
    fits: impl Fn(&NodeUse) -> bool,
) -> Option<(Price, Vec<usize>)> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    // Who costs most is spared first: the first set that is found loses little already.
    order.sort_by_key(|at| (std::cmp::Reverse(candidates[*at].lost), candidates[*at].id));
    let mut without = used.clone();
    candidates.iter().for_each(|candidate| without.remove(candidate.claim));
    let mut tries = Tries { candidates, order, fits, best: below, chosen: None, tried: 0 };
    if !(tries.fits)(&without) {
        return None;
    }
    tries.descend(0, &mut without, Price { lost: 0, victims: 0 }, &mut Vec::new());
    let mut chosen = tries.chosen?;
    chosen.sort_unstable();
    tries.best.map(|price| (price, chosen))
}

struct Tries<'c, 'a, F> {
    candidates: &'c [Candidate<'a>],
    order: Vec<usize>,
    fits: F,
    best: Option<Price>,
    chosen: Option<Vec<usize>>,
    tried: u32,
}

impl<F: Fn(&NodeUse) -> bool> Tries<'_, '_, F> {
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
