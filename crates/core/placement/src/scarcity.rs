//! What it costs to take a device of a kind that others cannot do without: the nearer the idle
//! ones are to being all needed by tasks that accept nothing else, the more.

use std::collections::BTreeMap;

use berth_model::GpuRequest;

use crate::kinds::Kinds;
use crate::mix::Mix;

/// Kinds that are looked at together, the most asked for; others cost nothing. Every set of
/// them is looked at, so each further one doubles the work.
const KINDS_MAX: usize = 10;
/// The idle devices of a kind are counted in this many steps of all, so that a price changes
/// seldom and what was ranked under it stays good.
const STEPS: u64 = 64;
/// From where on a kind costs something, and where it costs as much as the whole device, in
/// thousandths of the idle ones that are spoken for.
const FREE_BELOW_MILLI: u128 = 700;
const FULL_AT_MILLI: u128 = 1000;
/// The price of a device that is spoken for altogether: as much as losing it.
const PRICE_MAX: u128 = 1000;

/// From where on processors are short, and where they are as short as they matter, in
/// thousandths of the idle ones that are spoken for; in between there is one step.
const CPU_FREE_BELOW_MILLI: u128 = 900;
const CPU_STEP_MILLI: u128 = 50;
/// What an idle core costs beside which a task without GPUs is put, at each step, in
/// thousandths of a GPU: far more than anything else that such a task can cost, and little
/// enough not to overflow.
const CPU_PRICES: [u32; 3] = [0, 12, 25];

/// All devices of a kind that may be used, and those that are wholly idle, in thousandths; or
/// all cores.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stock {
    pub capacity_milli: u64,
    pub idle_milli: u64,
}

/// What makes a price: it changes only when this does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Basis {
    /// Idle, by kind, rounded down to a step.
    idle_milli: Vec<u64>,
    /// Idle cores, likewise.
    cpu_idle_milli: u64,
}

/// The price of a whole device of each kind, in thousandths of a GPU that is lost, and of a
/// core that is left idle by a task without GPUs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Prices {
    of_kinds: Vec<u32>,
    of_core: u32,
}

impl Basis {
    pub fn of(stocks: &[Stock], cpu: Stock) -> Basis {
        let rounded = |stock: &Stock| {
            let step = (stock.capacity_milli / STEPS).max(1000);
            stock.idle_milli / step * step
        };
        let idle_milli = stocks.iter().map(rounded).collect();
        Basis { idle_milli, cpu_idle_milli: rounded(&cpu) }
    }
}

impl Basis {
    fn all_idle_milli(&self) -> u128 {
        self.idle_milli.iter().map(|milli| u128::from(*milli)).sum()
    }
}

impl Prices {
    /// With F idle altogether, f(A) of a set A of kinds, and p(A) the part of all demand that
    /// accepts nothing outside A, the pressure on a kind is the largest F p(A) / f(A) of all
    /// sets with it: when what is idle has been handed out in the proportions of the demand so
    /// far, so many of A will have been asked for by those who need them.
    pub fn new(basis: &Basis, mix: &Mix, kinds: &Kinds) -> Prices {
        let mut prices = vec![0; basis.idle_milli.len()];
        let of_core = core_price(basis, mix);
        let demand = demand_by_kinds(mix, kinds);
        let looked_at = most_asked_for(&demand, prices.len());
        let width = looked_at.len();
        if width == 0 || mix.gpu_milli == 0 {
            return Prices { of_kinds: prices, of_core };
        }
        let all_idle = basis.all_idle_milli();
        let mut needed = vec![0_u128; 1 << width];
        for (accepted, milli) in &demand {
            let within = accepted.iter().map(|kind| looked_at.iter().position(|one| one == kind));
            let set = within.map(|at| at.map(|at| 1_usize << at)).sum::<Option<usize>>();
            if let Some(set) = set {
                needed[set] += u128::from(*milli);
            }
        }
        // From what needs exactly a set to what needs nothing outside it.
        for at in 0..width {
            for set in (0..needed.len()).filter(|set| set & (1 << at) != 0) {
                needed[set] += needed[set & !(1 << at)];
            }
        }
        for (set, needed) in needed.iter().enumerate().filter(|(_, needed)| **needed > 0) {
            let members = || (0..width).filter(|at| set & (1 << at) != 0);
            let idle: u128 = members().map(|at| u128::from(basis.idle_milli[looked_at[at]])).sum();
            let pressure = (all_idle * needed * 1000)
                .checked_div(u128::from(mix.gpu_milli) * idle)
                .unwrap_or(u128::MAX);
            let price = price_of(pressure);
            members().for_each(|at| {
                let kind = &mut prices[looked_at[at]];
                *kind = price.max(*kind);
            });
        }
        Prices { of_kinds: prices, of_core }
    }

    /// Of a whole device of a kind.
    pub fn of(&self, kind: usize) -> u32 {
        self.of_kinds.get(kind).copied().unwrap_or(0)
    }

    /// Of a core that stays idle beside a task without GPUs.
    pub fn of_core(&self) -> u32 {
        self.of_core
    }
}

/// Where all processors together will run out before the GPUs do, tasks without GPUs fill up
/// what is left of nodes, so that GPUs elsewhere keep theirs.
fn core_price(basis: &Basis, mix: &Mix) -> u32 {
    let needed = basis.all_idle_milli() * u128::from(mix.cpu_milli) * 1000;
    let there = u128::from(mix.gpu_milli) * u128::from(basis.cpu_idle_milli);
    if mix.gpu_milli == 0 {
        return 0;
    }
    let pressure = needed.checked_div(there).unwrap_or(u128::MAX);
    let step = pressure.saturating_sub(CPU_FREE_BELOW_MILLI) / CPU_STEP_MILLI;
    let step = usize::try_from(step).unwrap_or(usize::MAX).min(CPU_PRICES.len() - 1);
    CPU_PRICES[step]
}

fn price_of(pressure_milli: u128) -> u32 {
    let above = pressure_milli.saturating_sub(FREE_BELOW_MILLI).min(FULL_AT_MILLI);
    let price = above * PRICE_MAX / (FULL_AT_MILLI - FREE_BELOW_MILLI);
    u32::try_from(price.min(PRICE_MAX)).unwrap_or(0)
}

/// What is asked for of certain kinds only, by which those are.
fn demand_by_kinds(mix: &Mix, kinds: &Kinds) -> BTreeMap<Vec<usize>, u64> {
    let mut demand: BTreeMap<Vec<usize>, u64> = BTreeMap::new();
    for (models, milli) in &mix.of_models {
        let gpu = GpuRequest { models: models.clone(), ..GpuRequest::whole(1) };
        let suiting = kinds.suiting(&gpu).into_iter().enumerate();
        let accepted: Vec<usize> = suiting.filter_map(|(kind, is)| is.then_some(kind)).collect();
        // What every kind will do for is no constraint, and what none will do for no demand.
        if !accepted.is_empty() && accepted.len() < kinds.len() {
            let of_kinds = demand.entry(accepted).or_default();
            *of_kinds = of_kinds.saturating_add(*milli);
        }
    }
    demand
}

/// The kinds that constrained tasks ask for most, in the order of their numbers.
fn most_asked_for(demand: &BTreeMap<Vec<usize>, u64>, kinds: usize) -> Vec<usize> {
    let mut asked = vec![0_u64; kinds];
    for (accepted, milli) in demand {
        for kind in accepted {
            if let Some(asked) = asked.get_mut(*kind) {
                *asked = asked.saturating_add(*milli);
            }
        }
    }
    let mut ranked: Vec<usize> = (0..kinds).filter(|kind| asked[*kind] > 0).collect();
    ranked.sort_by_key(|kind| (std::cmp::Reverse(asked[*kind]), *kind));
    ranked.truncate(KINDS_MAX);
    ranked.sort_unstable();
    ranked
}

#[cfg(test)]
mod tests;
