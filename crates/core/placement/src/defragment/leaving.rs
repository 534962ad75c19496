//! Places for those who leave a node, tried on copies of the nodes that would take them.

use std::collections::BTreeMap;

use super::board::{Board, Held, Mover, Settled};
use crate::host::Host;

/// Places that are tried for one mover when those after it found none beside it, the cheapest
/// first: where so many nodes have room, one of them being taken hardly ever is what fails.
const PLACES_TRIED_MAX: usize = 32;

/// Who leaves, and where nobody goes.
pub(super) struct Leaving<'b> {
    pub board: &'b Board,
    pub from: usize,
    /// Positions among the movers of that node.
    pub movers: Vec<usize>,
    pub avoid: &'b dyn Fn(usize) -> bool,
    /// Places that may still be tried.
    pub tries_left: u64,
}

/// What others have taken of nodes before.
type Taken = BTreeMap<usize, Host>;

impl Leaving<'_> {
    /// Places for all of them, and what those cost others in thousandths of a GPU; `None` if there
    /// are none. Who takes most is served first, and each gets the cheapest place with which those
    /// after it have one as well.
    pub fn settle(&mut self) -> Option<(i64, Vec<Settled>)> {
        let board = self.board;
        let size = |at: &usize| {
            let mover = &board.movers[self.from][*at];
            let gpu: u32 = mover.held.devices.iter().map(|(_, share, _)| share).sum();
            (std::cmp::Reverse((gpu, mover.held.cpu_milli)), mover.id)
        };
        let mut order = self.movers.clone();
        order.sort_by_key(size);
        let mut settled = Vec::with_capacity(order.len());
        let cost = self.place(&order, &Taken::new(), &mut settled)?;
        settled.reverse();
        Some((cost, settled))
    }

    /// Fills `settled` from the last to the first.
    fn place(&mut self, order: &[usize], taken: &Taken, settled: &mut Vec<Settled>) -> Option<i64> {
        let Some((first, rest)) = order.split_first() else { return Some(0) };
        let board = self.board;
        let mover = &board.movers[self.from][*first];
        for (cost, to, devices) in self.places(mover, taken) {
            self.tries_left = self.tries_left.checked_sub(1)?;
            let mut taken = taken.clone();
            let host = taken.entry(to).or_insert_with(|| board.roster.host(to).clone());
            let held = Held::taken_by(host, &board.kinds[mover.kind].task, &devices);
            host.lay(&held);
            if let Some(others) = self.place(rest, &taken, settled) {
                settled.push(Settled { from: self.from, mover: *first, to, devices });
                return Some(cost + others);
            }
        }
        None
    }

    /// The cheapest first.
    fn places(&self, mover: &Mover, taken: &Taken) -> Vec<(i64, usize, Vec<usize>)> {
        let board = self.board;
        let of = &board.kinds[mover.kind];
        let is_out = |position: usize| position == self.from || (self.avoid)(position);
        let others = taken.iter().filter_map(|(position, host)| {
            let (cost, devices) = of.cost_on(host, &board.reckoned)?;
            Some((cost, *position, devices))
        });
        let untouched =
            of.ranked().filter(|(_, position)| !is_out(*position) && !taken.contains_key(position));
        let untouched = untouched.filter_map(|(cost, position)| {
            let host = board.roster.host(position);
            Some((cost, position, of.cost_where_it_fits(host, &board.reckoned)?.1))
        });
        let mut places: Vec<_> = others.chain(untouched.take(PLACES_TRIED_MAX)).collect();
        places.sort();
        places.truncate(PLACES_TRIED_MAX);
        places
    }
}
