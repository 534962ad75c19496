//! Who on one node would have to leave it so that a request fits there: all sets of one size.

use super::board::Mover;
use super::destinations::Destinations;
use crate::host::Host;

/// What a search goes on or ends with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    More,
    Enough,
}

/// A search for sets on one node.
pub(super) struct Sets<'s> {
    pub movers: &'s [Mover],
    /// Positions of those that may be chosen, ascending.
    pub from: &'s [usize],
    pub request: &'s Destinations,
    /// Called for each set that will do, with the node as it is without them.
    pub found: &'s mut dyn FnMut(&[usize], &Host) -> Next,
    /// Nodes with one more taken off that may still be looked at.
    pub tries_left: u64,
    chosen: Vec<usize>,
}

impl<'s> Sets<'s> {
    pub fn new(
        movers: &'s [Mover],
        from: &'s [usize],
        request: &'s Destinations,
        found: &'s mut dyn FnMut(&[usize], &Host) -> Next,
        tries_left: u64,
    ) -> Sets<'s> {
        Sets { movers, from, request, found, tries_left, chosen: Vec::new() }
    }

    /// All sets of so many without which the request fits on the node.
    pub fn of_size(&mut self, host: &Host, size: usize) -> Next {
        self.descend(host, 0, size)
    }

    fn descend(&mut self, host: &Host, from: usize, left: usize) -> Next {
        if left == 0 {
            let fits = host.has_room(&self.request.task, &self.request.suits);
            return if fits { (self.found)(&self.chosen, host) } else { Next::More };
        }
        if !self.could_do(host, from, left) {
            return Next::More;
        }
        for at in from..self.from.len() {
            let Some(left_over) = self.tries_left.checked_sub(1) else { return Next::Enough };
            self.tries_left = left_over;
            let mover = self.from[at];
            let mut without = host.clone();
            without.lift(&self.movers[mover].held);
            self.chosen.push(mover);
            let next = self.descend(&without, at + 1, left - 1);
            self.chosen.pop();
            if next == Next::Enough {
                return next;
            }
        }
        Next::More
    }

    /// Whether so many more, from a position on, could be enough: of each resource by itself the
    /// largest are taken together.
    fn could_do(&self, host: &Host, from: usize, left: usize) -> bool {
        let task = &self.request.task;
        let enough = |missing: u64, of: fn(&Mover) -> u64| {
            let mut has: Vec<u64> =
                self.from[from..].iter().map(|at| of(&self.movers[*at])).collect();
            has.sort_unstable_by(|one, other| other.cmp(one));
            missing == 0 || has.iter().take(left).sum::<u64>() >= missing
        };
        let open = |gpu| host.open_spots(gpu, &self.request.suits).count() as u64;
        let gpus =
            task.gpu.as_ref().map_or(0, |gpu| u64::from(gpu.count).saturating_sub(open(gpu)));
        enough(task.cpu.0.saturating_sub(host.cpu_free), |mover| mover.held.cpu_milli)
            && enough(task.memory.0.saturating_sub(host.memory_free), |mover| {
                mover.held.memory_bytes
            })
            && enough(gpus, |mover| mover.held.devices.len() as u64)
    }
}
