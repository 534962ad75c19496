//! Room for one request that fits nowhere: the fewest who move, and of those sets the one that
//! leaves the most of the cluster of use.

use berth_model::{Constraints, JobKind, NodeId, StateMs, TaskSpec};

use super::Move;
use super::board::{Board, Settled};
use super::leaving::Leaving;
use super::sets::{Next, Sets};
use crate::filters::{Pass, Request};

/// What a search may cost and come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoomLimits {
    pub moves_max: usize,
    /// Sets and places that are looked at; a search that is cut short takes the best it has found.
    pub tries_max: u64,
    /// What each move has to bring, in thousandths of a GPU: what the request asks for, and how
    /// much less of the rest is expected to be of no use.
    pub worth_milli: i64,
}

/// Moves after which a request fits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Room {
    pub moves: Vec<Move>,
    /// Where it fits then.
    pub node: NodeId,
    /// How much less of the cluster is expected to be of no use once it is there.
    pub gain_milli: i64,
}

/// What comes of a set: less is better. Of equals those that cost less, then the first node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    lost_milli: i64,
    cost: u64,
    position: usize,
    settled: Vec<Settled>,
}

/// One search.
struct Search<'b> {
    board: &'b Board,
    kind: usize,
    tries_left: u64,
    best: Option<Found>,
}

impl Board {
    /// Who would have to move, all of them off one node and each to where there is room for it
    /// already, so that a request fits; `None` if it fits as it is, if no set within the limits
    /// will do, or if the best of the smallest is not worth it.
    ///
    /// Costs O(what has changed × kinds of requests), and then as much as the limits allow.
    pub fn make_room(
        &mut self,
        task: &TaskSpec,
        constraints: &Constraints,
        now: StateMs,
        limits: RoomLimits,
    ) -> Option<Room> {
        let kind = self.kind_of(Request {
            task,
            constraints,
            kind: JobKind::Batch,
            pass: Pass::default(),
        });
        self.catch_up();
        if self.kinds[kind].ranked().next().is_some() {
            return None;
        }
        let mut search = Search { board: self, kind, tries_left: limits.tries_max, best: None };
        let found = (1..=limits.moves_max).find_map(|size| search.of_size(size))?;
        let asked = task
            .gpu
            .as_ref()
            .map_or(0, |gpu| i64::from(gpu.count).saturating_mul(i64::from(gpu.share.0)));
        let moves = self.moves(&found.settled, now);
        let gain_milli = -found.lost_milli;
        let count = i64::try_from(moves.len()).unwrap_or(i64::MAX);
        let is_worth_it =
            asked.saturating_add(gain_milli) >= limits.worth_milli.saturating_mul(count);
        let node = self.roster.host(found.position).row.id;
        is_worth_it.then_some(Room { moves, node, gain_milli })
    }
}

impl Search<'_> {
    /// The best of all sets of this size.
    fn of_size(&mut self, size: usize) -> Option<Found> {
        for position in 0..self.board.roster.len() {
            if self.tries_left == 0 {
                break;
            }
            self.on(position, size);
        }
        self.best.take()
    }

    fn on(&mut self, position: usize, size: usize) {
        let board = self.board;
        let (request, host) = (&board.kinds[self.kind], board.roster.host(position));
        if !request.may_use(host) {
            return;
        }
        let movers = &board.movers[position];
        // The cheapest place of each elsewhere; who has none stays.
        let elsewhere: Vec<Option<i64>> = movers
            .iter()
            .map(|mover| {
                let mut places = board.kinds[mover.kind].ranked();
                places.find(|(_, to)| *to != position).map(|(cost, _)| cost)
            })
            .collect();
        let from: Vec<usize> = (0..movers.len()).filter(|at| elsewhere[*at].is_some()).collect();
        if from.len() < size {
            return;
        }
        let before = board.lost_of(host);
        let best = &mut self.best;
        let mut places_left = self.tries_left;
        let mut found = |set: &[usize], without: &crate::host::Host| {
            let Some((own, _)) = request.cost_where_it_fits(without, &board.reckoned) else {
                return Next::More;
            };
            let back: i64 = set.iter().map(|at| board.given_back(host, &movers[*at])).sum();
            let here = board.lost_of(without) - before + own - back;
            let at_least: i64 = set.iter().filter_map(|at| elsewhere[*at]).sum();
            if best.as_ref().is_some_and(|best| here + at_least > best.lost_milli) {
                return Next::More;
            }
            let mut leaving = Leaving {
                board,
                from: position,
                movers: set.to_vec(),
                avoid: &|_| false,
                tries_left: places_left,
            };
            let settled = leaving.settle();
            places_left = leaving.tries_left;
            if let Some((there, settled)) = settled {
                let cost = set.iter().map(|at| movers[*at].cost).fold(0, u64::saturating_add);
                let one = Found { lost_milli: here + there, cost, position, settled };
                if best.as_ref().is_none_or(|best| one < *best) {
                    *best = Some(one);
                }
            }
            if places_left == 0 { Next::Enough } else { Next::More }
        };
        let mut sets = Sets::new(movers, &from, request, &mut found, self.tries_left);
        sets.of_size(host, size);
        self.tries_left = sets.tries_left.min(places_left);
    }
}
