//! Who on one node ends for what has no room there: of all sets that make room the one that
//! loses the least work.

mod shares;

pub(crate) use shares::{Offer, cheapest_shares};

use std::cmp::Reverse;
use std::collections::BTreeMap;

use berth_model::{AllocationId, Amounts, Claim, Lent, Name, NodeUse};

/// Who may end, one alone or a gang with all of it.
#[derive(Clone, Debug)]
pub(crate) struct Candidate<'a> {
    /// Those of it that are on the node; never empty.
    pub ids: Vec<AllocationId>,
    /// What those hold.
    pub claims: Vec<&'a Claim>,
    /// What its end costs, wherever it is.
    pub price: Price,
    /// Where something is guaranteed to its namespace, that namespace and what it holds in all.
    pub lent: Option<(&'a Name, Amounts)>,
}

/// What a namespace can do without.
#[derive(Clone, Default, Debug)]
pub(crate) struct Lender {
    pub lent: Lent,
    /// What of it ends for others before.
    pub taken: Amounts,
}

/// Namespaces to which something is guaranteed.
pub(crate) type Lenders = BTreeMap<Name, Lender>;

/// Whether their namespaces can do without all of these. Then so they can without fewer.
pub(crate) fn can_be_spared<'a>(
    lenders: &Lenders,
    units: impl Iterator<Item = (&'a Name, Amounts)>,
) -> bool {
    let mut by_lender: BTreeMap<&Name, Vec<Amounts>> = BTreeMap::new();
    units.for_each(|(name, held)| by_lender.entry(name).or_default().push(held));
    by_lender.into_iter().all(|(name, held)| {
        let lender = lenders.get(name);
        lender.is_none_or(|lender| lender.lent.gives_all(lender.taken, &held))
    })
}

impl<'a> Candidate<'a> {
    pub fn alone(id: AllocationId, claim: &'a Claim, lost: u64) -> Candidate<'a> {
        let price = Price { lost, victims: 1 };
        Candidate { ids: vec![id], claims: vec![claim], price, lent: None }
    }

    pub fn leaves(&self, used: &mut NodeUse) {
        self.claims.iter().for_each(|claim| used.remove(claim));
    }

    fn stays(&self, used: &mut NodeUse) {
        self.claims.iter().for_each(|claim| used.add(claim));
    }

    fn sum(&self, of: Part) -> u64 {
        self.claims.iter().map(|claim| of(claim)).fold(0, u64::saturating_add)
    }
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

/// The cheapest set of candidates without which `fits` and which their lenders can do without;
/// `None` if there is none. `fits` must go on holding when less is used.
///
/// Costs O(2^candidates) calls of `fits`, at most three times [`TRIED_MAX`].
pub(crate) fn cheapest(
    used: &NodeUse,
    candidates: &[Candidate<'_>],
    lenders: &Lenders,
    mut fits: impl FnMut(&NodeUse) -> bool,
) -> Option<Set> {
    let all: Vec<usize> = (0..candidates.len()).collect();
    let found = cheapest_of(used, candidates, &all, lenders, &mut fits);
    let tried = match found {
        Tried::Found(set) => return Some(set),
        Tried::None { tried } if tried < TRIED_MAX => return None,
        Tried::None { tried } => tried,
    };
    // The search was cut short among those that their lenders cannot do without together.
    let mut set: Option<Set> = None;
    for fewer in [within_loans(candidates, lenders), unlent(candidates, lenders)] {
        if let Tried::Found(other) = cheapest_of(used, candidates, &fewer, lenders, &mut fits) {
            let cheaper = set.as_ref().is_none_or(|set| other.price < set.price);
            set = if cheaper { Some(other) } else { set };
        }
    }
    set.map(|set| Set { tried: set.tried.saturating_add(tried), ..set })
}

/// The cheapest candidates of each lender that it can do without together, and all that are no
/// lender's.
fn within_loans(candidates: &[Candidate<'_>], lenders: &Lenders) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|at| (candidates[*at].price, candidates[*at].ids.first().copied()));
    let mut chosen: Vec<usize> = Vec::with_capacity(order.len());
    for at in order {
        chosen.push(at);
        let units = chosen.iter().filter_map(|at| candidates[*at].lent);
        if !can_be_spared(lenders, units) {
            chosen.pop();
        }
    }
    chosen.sort_unstable();
    chosen
}

/// Those whose namespaces can do without all that they have there.
fn unlent(candidates: &[Candidate<'_>], lenders: &Lenders) -> Vec<usize> {
    let of = |name: &Name| {
        let units = candidates.iter().filter_map(|one| one.lent);
        can_be_spared(lenders, units.filter(|(other, _)| *other == name))
    };
    let is_free = |at: &usize| candidates[*at].lent.is_none_or(|(name, _)| of(name));
    (0..candidates.len()).filter(is_free).collect()
}

/// What a search came to.
enum Tried {
    Found(Set),
    None { tried: u32 },
}

/// The same of some of the candidates.
fn cheapest_of(
    used: &NodeUse,
    candidates: &[Candidate<'_>],
    some: &[usize],
    lenders: &Lenders,
    fits: &mut impl FnMut(&NodeUse) -> bool,
) -> Tried {
    let mut order: Vec<usize> = some.to_vec();
    // Who costs most is spared first: the first set that is found loses little already.
    order.sort_by_key(|at| (Reverse(candidates[*at].price), candidates[*at].ids.first().copied()));
    let mut without = used.clone();
    some.iter().for_each(|at| candidates[*at].leaves(&mut without));
    if !fits(&without) {
        return Tried::None { tried: 0 };
    }
    let mut tries = Tries { candidates, lenders, order, fits, best: None, chosen: None, tried: 0 };
    tries.descend(0, &mut without, Price::NOTHING, &mut Vec::new());
    let tried = tries.tried;
    match tries.best.zip(tries.chosen) {
        Some((price, mut chosen)) => {
            chosen.sort_unstable();
            Tried::Found(Set { price, chosen, tried })
        }
        None => Tried::None { tried },
    }
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
        let lost = covered(candidates, missing, of, |price| price.lost)?;
        let victims = covered(candidates, missing, of, |price| price.victims.into())?;
        price.lost = price.lost.max(lost);
        price.victims = price.victims.max(u32::try_from(victims).unwrap_or(u32::MAX));
    }
    Some(price)
}

/// What so much of one thing costs if parts of candidates could be ended, the cheapest first,
/// rounded up: what it costs is whole.
fn covered(
    candidates: &[Candidate<'_>],
    mut missing: u64,
    of: Part,
    cost_of: fn(Price) -> u64,
) -> Option<u64> {
    let mut order: Vec<(u64, u64)> = candidates
        .iter()
        .map(|one| (cost_of(one.price), one.sum(of)))
        .filter(|(_, has)| *has > 0)
        .collect();
    order.sort_by(|one, other| {
        let product = |cost: u64, has: u64| u128::from(cost) * u128::from(has);
        product(one.0, other.1).cmp(&product(other.0, one.1))
    });
    let mut sum: u64 = 0;
    for (cost, has) in order {
        if has >= missing {
            let part = (u128::from(cost) * u128::from(missing)).div_ceil(u128::from(has));
            let part = u64::try_from(part).unwrap_or(u64::MAX);
            return Some(sum.saturating_add(part));
        }
        sum = sum.saturating_add(cost);
        missing -= has;
    }
    None
}

struct Tries<'c, 'a, F> {
    candidates: &'c [Candidate<'a>],
    lenders: &'c Lenders,
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
        candidate.stays(used);
        if (self.fits)(used) {
            self.descend(depth + 1, used, price, ended);
        }
        candidate.leaves(used);
        ended.push(at);
        let units = ended.iter().filter_map(|at| self.candidates[*at].lent);
        if candidate.lent.is_none() || can_be_spared(self.lenders, units) {
            self.descend(depth + 1, used, price.and(candidate.price), ended);
        }
        ended.pop();
    }
}

#[cfg(test)]
mod tests;
