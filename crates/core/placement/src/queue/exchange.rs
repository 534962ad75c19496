//! Who makes room for whom. Whoever fits starts; beyond that, those who run give way to those
//! who wait only where all that would start is worth more than all that would stop, by a factor.
//! To take the GPUs in order of worth for each GPU instead would stop a large job for a small one, and
//! leave the rest of its GPUs idle.

use std::cmp::Reverse;

use berth_model::{JobId, StateMs};

/// The jobs for which room is sought in one decision. They come in order of their worth, so that
/// those further down would hardly find any.
const CANDIDATES_MAX: usize = 64;

/// What a job gives, and what it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    pub(super) position: usize,
    pub(super) id: JobId,
    pub(super) submitted: StateMs,
    pub(super) gpus: u64,
    pub(super) worth: u64,
    /// For each GPU; this decides the order.
    pub(super) density: u64,
}

/// The GPUs that are to be given away, and who may get or lose them.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    /// GPUs that nobody has.
    spare: u64,
    /// Those who run and may be stopped, the densest first.
    kept: Vec<Offer>,
    /// Those who wait, the densest first.
    waiting: Vec<Offer>,
    started: Vec<Offer>,
}

impl Pool {
    /// `gpus` are those that `kept` has, and those that nobody has.
    pub(super) fn new(gpus: u64, mut kept: Vec<Offer>, mut waiting: Vec<Offer>) -> Pool {
        for offers in [&mut kept, &mut waiting] {
            offers
                .sort_unstable_by_key(|offer| (Reverse(offer.density), offer.submitted, offer.id));
        }
        let taken: u64 = kept.iter().map(|offer| offer.gpus).sum();
        Pool { spare: gpus.saturating_sub(taken), kept, waiting, started: Vec::new() }
    }

    /// Those who are to run.
    pub(super) fn running(&self) -> impl Iterator<Item = &Offer> {
        self.kept.iter().chain(&self.started)
    }

    /// Starts the one at a position whatever it is worth, if all who may be stopped have
    /// enough; whether it was.
    pub(super) fn start(&mut self, position: usize) -> bool {
        let Some(index) = self.waiting.iter().position(|offer| offer.position == position) else {
            return false;
        };
        let Some(victims) = self.victims(self.waiting[index].gpus, |_| true) else { return false };
        self.stop(&victims);
        let offer = self.waiting.remove(index);
        self.spare -= offer.gpus;
        self.started.push(offer);
        true
    }

    /// Starts whoever fits.
    pub(super) fn fill(&mut self) {
        let (spare, started) = (&mut self.spare, &mut self.started);
        self.waiting.retain(|offer| {
            let fits = offer.gpus <= *spare;
            if fits {
                *spare -= offer.gpus;
                started.push(*offer);
            }
            !fits
        });
    }

    /// Gives the GPUs away by density alone; who runs counts `threshold`-fold.
    pub(super) fn take_in_order(&mut self, threshold: u64) {
        let rank = |offer: &Offer, times: u64| {
            (Reverse(offer.density.saturating_mul(times)), offer.submitted, offer.id)
        };
        let kept = self.kept.drain(..).map(|offer| (rank(&offer, threshold), offer, true));
        let waiting = self.waiting.drain(..).map(|offer| (rank(&offer, 1), offer, false));
        let mut order: Vec<_> = kept.chain(waiting).collect();
        order.sort_unstable_by_key(|(rank, _, _)| *rank);
        let running: u64 =
            order.iter().filter(|(_, _, runs)| *runs).map(|(_, offer, _)| offer.gpus).sum();
        self.spare += running;
        for (_, offer, _) in order {
            if offer.gpus <= self.spare {
                self.spare -= offer.gpus;
                self.started.push(offer);
            }
        }
    }

    /// Lets those who run give way to those who wait where that is worth `threshold` times
    /// what it costs.
    pub(super) fn exchange(&mut self, threshold: u64) {
        let mut tried = 0;
        let mut index = 0;
        while index < self.waiting.len() && tried < CANDIDATES_MAX {
            let Some(least) = self.kept.last() else { break };
            let candidate = self.waiting[index];
            if candidate.density <= least.density.saturating_mul(threshold) {
                break;
            }
            tried += 1;
            if !self.exchange_for(index, threshold) {
                index += 1;
            }
        }
    }

    /// Room for the candidate at `index`, and for whoever fits beside it into what that frees.
    fn exchange_for(&mut self, index: usize, threshold: u64) -> bool {
        let candidate = self.waiting[index];
        let gives_way = |offer: &Offer| offer.density.saturating_mul(threshold) < candidate.density;
        let Some(victims) = self.victims(candidate.gpus, gives_way) else { return false };
        let freed: u64 = victims.iter().map(|victim| self.kept[*victim].gpus).sum();
        let mut left = self.spare + freed - candidate.gpus;
        let mut winners = vec![index];
        let beside = self.waiting.iter().enumerate().skip(index + 1).take(CANDIDATES_MAX);
        for (other, offer) in beside {
            if offer.gpus <= left {
                left -= offer.gpus;
                winners.push(other);
            }
        }
        let gain: u64 = winners.iter().map(|winner| self.waiting[*winner].worth).sum();
        let loss: u64 = victims.iter().map(|victim| self.kept[*victim].worth).sum();
        if gain <= loss.saturating_mul(threshold) {
            return false;
        }
        self.stop(&victims);
        self.spare = left;
        // From the last on, so that the positions before stay what they are.
        for winner in winners.into_iter().rev() {
            self.started.push(self.waiting.remove(winner));
        }
        true
    }

    /// The positions, descending, of those to be stopped so that `gpus` are free: those of the
    /// least density of whom may be stopped, and of them no more than it takes.
    fn victims(&self, gpus: u64, may_stop: impl Fn(&Offer) -> bool) -> Option<Vec<usize>> {
        let mut found = self.spare;
        let mut victims = Vec::new();
        for (index, offer) in self.kept.iter().enumerate().rev() {
            if found >= gpus || !may_stop(offer) {
                break;
            }
            victims.push(index);
            found += offer.gpus;
        }
        if found < gpus {
            return None;
        }
        // The densest first: with those after it there may be enough without it.
        for at in (0..victims.len()).rev() {
            let its_own = self.kept[victims[at]].gpus;
            if found - its_own >= gpus {
                found -= its_own;
                victims.remove(at);
            }
        }
        Some(victims)
    }

    fn stop(&mut self, victims: &[usize]) {
        for victim in victims {
            self.spare += self.kept.remove(*victim).gpus;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(position: usize, gpus: u64, worth: u64) -> Offer {
        let id = JobId(position as u64);
        Offer { position, id, submitted: StateMs(0), gpus, worth, density: worth / gpus }
    }

    fn check(kept: &[(u64, u64)], waiting: &[(u64, u64)], expected: &[usize]) {
        let offers = |list: &[(u64, u64)], first: usize| {
            let offer =
                |(at, (gpus, worth)): (usize, &(u64, u64))| offer(first + at, *gpus, *worth);
            list.iter().enumerate().map(offer).collect::<Vec<_>>()
        };
        let mut pool = Pool::new(8, offers(kept, 0), offers(waiting, kept.len()));
        pool.fill();
        pool.exchange(2);
        let mut running: Vec<usize> = pool.running().map(|offer| offer.position).collect();
        running.sort_unstable();
        assert_eq!(running, expected, "{kept:?} {waiting:?}");
        let taken: u64 = pool.running().map(|offer| offer.gpus).sum();
        assert_eq!(taken + pool.spare, 8);
    }

    #[test]
    fn who_is_worth_it_gets_room_and_no_more_than_it_takes_is_stopped() {
        // Whoever fits starts, the densest first.
        check(&[(4, 40)], &[(4, 4), (4, 8)], &[0, 2]);
        // Twice is not more than twice: nobody stops.
        check(&[(8, 80)], &[(8, 160)], &[0]);
        check(&[(8, 80)], &[(8, 168)], &[1]);
        // One that is small and dense is worth less than the large one whose GPUs it would leave
        // idle; with others beside it they are worth it.
        check(&[(8, 80)], &[(1, 100)], &[0]);
        check(&[(8, 80)], &[(1, 100), (1, 90)], &[1, 2]);
        // The least dense of those who run stop, and only as many as it takes.
        check(&[(4, 40), (2, 10), (2, 8)], &[(2, 100)], &[0, 1, 3]);
        check(&[(1, 3), (4, 4), (3, 90)], &[(4, 100)], &[0, 2, 3]);
        check(&[(1, 1), (4, 8), (3, 90)], &[(4, 100)], &[0, 2, 3]);
    }

    #[test]
    fn a_turn_is_given_whatever_it_is_worth() {
        let kept = vec![offer(0, 6, 60), offer(1, 1, 1), offer(2, 1, 2)];
        let mut pool = Pool::new(8, kept.clone(), vec![offer(3, 2, 0)]);
        assert!(pool.start(3));
        assert_eq!(pool.running().map(|offer| offer.position).collect::<Vec<_>>(), [0, 3]);
        let mut pool = Pool::new(8, kept, vec![offer(3, 9, 0)]);
        assert!(!pool.start(3) && pool.running().count() == 3, "it has no room");
    }
}
