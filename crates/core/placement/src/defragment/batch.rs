//! Moves by which less of a cluster is of no use, while nothing waits: one step after another the
//! best for its moves, until none is worth them.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{AllocationId, JobId, StateMs};
use berth_state::ClusterState;

use super::Move;
use super::board::{Board, Settled};
use super::leaving::Leaving;
use crate::host::Host;

/// How many may leave a GPU together in one step: it is rare that so many small ones have places
/// elsewhere, and each is an interruption.
const STEP_MOVES_MAX: usize = 4;
/// Places that are tried for one step.
const STEP_TRIES_MAX: u64 = 256;

/// How much may be moved at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchLimits {
    pub moves_max: u32,
    /// Of a job's live instances, in thousandths, but at least one.
    pub of_job_milli: u32,
    /// What each move has to bring, in thousandths of a GPU.
    pub worth_milli: i64,
}

/// Moves that are made together, and what is expected to be lost before and after them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    pub moves: Vec<Move>,
    /// Of all GPUs, in thousandths of one.
    pub lost_before_milli: i64,
    pub lost_after_milli: i64,
}

/// What has been decided of a batch.
struct Draft {
    /// Nodes that somebody leaves, as they are then. Nobody goes there: until then it is taken.
    left: BTreeMap<usize, Host>,
    /// Nodes that somebody goes to. Nobody leaves them, so that no place is given up twice.
    entered: BTreeSet<usize>,
    gone: BTreeSet<AllocationId>,
    of_job: BTreeMap<JobId, u32>,
}

/// What some who would leave a node together bring, or may bring at the most.
#[derive(Clone, Copy)]
struct Gain {
    milli: i64,
    cost: u64,
    moves: usize,
}

/// Some who would leave a node together.
struct Step {
    gain: Gain,
    settled: Vec<Settled>,
}

impl Gain {
    /// Whether it is more for each move, or as much for less; of equals the first is taken.
    fn beats(self, other: Gain) -> bool {
        let each = |one: Gain, of: Gain| {
            i128::from(one.milli) * i128::try_from(of.moves).unwrap_or(i128::MAX)
        };
        let (mine, theirs) = (each(self, other), each(other, self));
        mine > theirs || (mine == theirs && self.cost < other.cost)
    }

    fn is_worth(self, each_milli: i64) -> bool {
        let moves = i64::try_from(self.moves).unwrap_or(i64::MAX);
        self.milli >= each_milli.max(1).saturating_mul(moves)
    }
}

impl Board {
    /// The best moves, as far as the limits go. The view is the one that was observed last.
    ///
    /// Costs O(nodes + live allocations) for each step beside what has changed.
    pub fn batch(&mut self, view: &ClusterState, now: StateMs, limits: BatchLimits) -> Batch {
        let lost_before_milli = self.lost_with(&BTreeMap::new());
        let mut draft = Draft {
            left: BTreeMap::new(),
            entered: BTreeSet::new(),
            gone: BTreeSet::new(),
            of_job: BTreeMap::new(),
        };
        let moves_max = usize::try_from(limits.moves_max).unwrap_or(usize::MAX);
        let mut moves = Vec::new();
        while moves.len() < moves_max {
            self.catch_up();
            let most = (moves_max - moves.len()).min(STEP_MOVES_MAX);
            let may_go = |id: AllocationId| {
                let live = view.jobs().get(&id.job).map_or(0, |job| job.live);
                let allowed = u64::from(live) * u64::from(limits.of_job_milli) / 1000;
                let gone = draft.of_job.get(&id.job).copied().unwrap_or(0);
                u64::from(gone) < allowed.max(1) && !draft.gone.contains(&id)
            };
            let Some(step) = self.best_step(&draft, limits.worth_milli, most, &may_go) else {
                break;
            };
            let made = self.moves(&step.settled, now);
            self.take(&mut draft, &step, &made, now);
            moves.extend(made);
        }
        let lost_after_milli = self.lost_with(&draft.left);
        Batch { moves, lost_before_milli, lost_after_milli }
    }

    fn lost_with(&self, left: &BTreeMap<usize, Host>) -> i64 {
        let host = |at: usize| left.get(&at).unwrap_or_else(|| self.roster.host(at));
        (0..self.roster.len()).map(|at| self.lost_of(host(at))).sum()
    }

    fn best_step(
        &self,
        draft: &Draft,
        worth_milli: i64,
        most: usize,
        may_go: &dyn Fn(AllocationId) -> bool,
    ) -> Option<Step> {
        let mut best: Option<Step> = None;
        for position in (0..self.roster.len()).filter(|at| !draft.entered.contains(at)) {
            let host = draft.left.get(&position).unwrap_or_else(|| self.roster.host(position));
            let before = self.lost_of(host);
            for set in self.sets_on(position, most, may_go) {
                let at_most = self.at_most(position, (host, before), &set);
                let is_better = |gain: Gain| {
                    gain.is_worth(worth_milli)
                        && best.as_ref().is_none_or(|best| gain.beats(best.gain))
                };
                // Few are looked at closely: a look at each would take a hundred times as long.
                let Some(at_most) = at_most.filter(|gain| is_better(*gain)) else { continue };
                let step = self.step(draft, position, at_most, &set);
                if let Some(step) = step.filter(|step| is_better(step.gain)) {
                    best = Some(step);
                }
            }
        }
        best
    }

    /// Everybody alone, and all together who share a device.
    fn sets_on(
        &self,
        position: usize,
        most: usize,
        may_go: &dyn Fn(AllocationId) -> bool,
    ) -> Vec<Vec<usize>> {
        let movers = &self.movers[position];
        let who: Vec<usize> = (0..movers.len()).filter(|at| may_go(movers[*at].id)).collect();
        let mut sets: Vec<Vec<usize>> = who.iter().map(|at| vec![*at]).collect();
        for device in 0..self.roster.host(position).spots.len() {
            let holds =
                |at: &&usize| movers[**at].held.devices.iter().any(|(one, ..)| *one == device);
            let holders: Vec<usize> = who.iter().filter(holds).copied().collect();
            if (2..=most).contains(&holders.len()) {
                sets.push(holders);
            }
        }
        sets
    }

    /// What it brings if each gets the cheapest place that there is; `None` if one has none. What
    /// scarce devices cost whoever takes them counts, and nothing for giving them up: a batch is to
    /// leave less of no use, not to trade places.
    fn at_most(
        &self,
        position: usize,
        (host, before): (&Host, i64),
        set: &[usize],
    ) -> Option<Gain> {
        let movers = &self.movers[position];
        let mut without = host.clone();
        let (mut there, mut cost) = (0, 0_u64);
        for at in set {
            let mover = &movers[*at];
            there += self.kinds[mover.kind].ranked().next()?.0;
            cost = cost.saturating_add(mover.cost);
            without.lift(&mover.held);
        }
        Some(Gain { milli: before - self.lost_of(&without) - there, cost, moves: set.len() })
    }

    /// The same with the places that they do get.
    fn step(&self, draft: &Draft, position: usize, at_most: Gain, set: &[usize]) -> Option<Step> {
        let cheapest = |at: &usize| self.kinds[self.movers[position][*at].kind].ranked().next();
        let assumed: i64 = set.iter().filter_map(cheapest).map(|(cost, _)| cost).sum();
        let mut leaving = Leaving {
            board: self,
            from: position,
            movers: set.to_vec(),
            avoid: &|at| draft.left.contains_key(&at),
            tries_left: STEP_TRIES_MAX,
        };
        let (there, settled) = leaving.settle()?;
        let milli = at_most.milli.saturating_add(assumed).saturating_sub(there);
        Some(Step { gain: Gain { milli, ..at_most }, settled })
    }

    fn take(&mut self, draft: &mut Draft, step: &Step, made: &[Move], now: StateMs) {
        for (settled, made) in step.settled.iter().zip(made) {
            let Board { roster, movers, .. } = &mut *self;
            roster.hand_out(settled.to, &made.claim, now);
            let host =
                draft.left.entry(settled.from).or_insert_with(|| roster.host(settled.from).clone());
            host.lift(&movers[settled.from][settled.mover].held);
            draft.entered.insert(settled.to);
            draft.gone.insert(made.allocation);
            *draft.of_job.entry(made.allocation.job).or_default() += 1;
        }
    }
}
