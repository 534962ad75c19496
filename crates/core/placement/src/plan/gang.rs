//! Gangs: all members of a task are given places, or none. How many each node could take is
//! reckoned first, so that nothing is handed out where not all of it fits.

use berth_model::{AllocationId, Claim};
use berth_state::ScoreParts;

use super::patience::Way;
use super::{Run, Tally, Visit};
use crate::devices;
use crate::domain::{Room, Share, choose};
use crate::policies::score;
use crate::report::Why;
use crate::resources::claim;
use crate::search::FitKey;
use crate::terms::{Look, Term, cost, terms_of};

impl<'a> Run<'_, 'a> {
    /// Gives all members of a gang their places, if all of it waits and fits.
    pub(super) fn place_gang(&mut self, visit: Visit<'a>) -> Tally {
        let waiting = visit.row.pending.len();
        if waiting == 0 {
            return Tally::default();
        }
        let is_kept = visit.has_kept_places(self.view);
        let why = match self.gang_hindrance(visit).or_else(|| self.try_gang(visit)) {
            Some(Why::NoNode) => self.gang_beyond(visit),
            why => why,
        };
        self.plans_again |= why.is_none() && is_kept;
        match why {
            Some(_) => Tally { left: waiting, why, ..Tally::default() },
            None => Tally { placed: visit.task.count, ..Tally::default() },
        }
    }

    /// Gives it places that make way for it, or where others end.
    fn gang_beyond(&mut self, visit: Visit<'a>) -> Option<Why> {
        let before = (self.placements.len(), self.reservations.len());
        let lifted = self.lift(visit, 0, Way::InTime);
        let begins = !lifted.is_empty() && self.try_gang(visit).is_none();
        self.lay(lifted, before);
        if begins {
            return None;
        }
        let lifted = self.lift(visit, 0, Way::Gone);
        let is_kept = visit.has_kept_places(self.view);
        let why = if !lifted.is_empty() && self.try_gang(visit).is_none() {
            None
        } else if self.is_kept_for_good(visit, 0) || self.reserve_gang(visit) || is_kept {
            Some(Why::Reserved)
        } else {
            self.is_without_room(visit, 0);
            Some(Why::NoNode)
        };
        self.lay(lifted, before);
        why
    }

    /// What stands in its way whatever room there is.
    fn gang_hindrance(&mut self, visit: Visit<'a>) -> Option<Why> {
        let count = visit.task.count;
        if visit.row.live > 0 || visit.row.pending.len() < u64::from(count) {
            return Some(Why::GangEnding);
        }
        let later = (0..count).filter_map(|instance| visit.waits_until(instance, self.now)).max();
        if let Some(at) = later {
            self.wake(at);
            return Some(Why::Backoff);
        }
        if self.view.has_orphan_of_task(visit.key.job, visit.key.task) {
            return Some(Why::Orphan);
        }
        if !self.meter.may_place_all(count) {
            return Some(Why::Budget);
        }
        // Last: what has no room may yet have places kept for it, and what is hindered may not.
        let key = FitKey::of(visit.request());
        let is_dead = self.dead_gangs.get(&key).is_some_and(|failed| *failed <= count);
        is_dead.then_some(Why::NoNode)
    }

    fn try_gang(&mut self, visit: Visit<'a>) -> Option<Why> {
        let policy = visit.job.spec.policy;
        self.take_census(visit, policy);
        if terms_of(policy, visit.task).contains(&Term::Cost) {
            self.reckoned.take_stocks(self.roster);
        }
        let Some(shares) = self.gang_shares(visit) else {
            return Some(Why::Budget);
        };
        let placed = self.placements.len();
        let complete = shares.as_ref().is_some_and(|shares| self.hand_out_gang(visit, shares));
        if complete {
            self.gangs.insert((visit.key.job, visit.key.task));
            return None;
        }
        self.hand_back(placed);
        let count = visit.task.count;
        let failed = self.dead_gangs.entry(FitKey::of(visit.request())).or_insert(count);
        *failed = (*failed).min(count);
        Some(Why::NoNode)
    }

    /// Which nodes take how many of its members, if they fit; nothing at all when the budget
    /// has ended before every node was looked at.
    fn gang_shares(&mut self, visit: Visit<'a>) -> Option<Option<Vec<Share>>> {
        let (task, request) = (visit.task, visit.request());
        let gpu = task.gpu.as_ref();
        let suits = self.suits(task);
        let terms = terms_of(visit.job.spec.policy, task);
        let mut rooms = Vec::new();
        let mut port_ends = None;
        for position in 0..self.roster.len() {
            if !self.meter.spend() {
                return None;
            }
            let host = self.roster.host(position);
            if !host.takes(request) {
                continue;
            }
            let members = host.members(task, &suits);
            if members < task.count {
                let blocks = host.row.blocked_ports.values().copied();
                port_ends = blocks.filter(|at| *at > self.now).chain(port_ends).min();
            }
            if members > 0 {
                let by_itself = score(terms, self.look_at(visit, position, &suits));
                let kind = host.spots.first().map(|spot| spot.kind);
                let price = |kind| self.reckoned.prices().of(kind);
                let steps = kind.map_or(0, |kind| cost::price_steps(gpu, price(kind)));
                let with_price = by_itself.0[0].saturating_add(steps);
                let score = by_itself.with(terms, Term::Cost, with_price);
                rooms.push(Room { position, zone: &host.row.spec.zone, members, score });
            }
        }
        let shares = choose(rooms, task.count);
        if shares.is_none() {
            port_ends.into_iter().for_each(|at| self.wake(at));
        }
        Some(shares)
    }

    fn look_at<'l>(&'l self, visit: Visit<'l>, position: usize, suits: &'l [bool]) -> Look<'l> {
        let host = self.roster.host(position);
        let census = self.census.as_ref().filter(|census| census.job == visit.key.job);
        let on_node = census.map_or(0, |census| census.on_node(host.row.id));
        Look { host, task: visit.task, suits, inputs: self.reckoned.inputs(), on_node }
    }

    /// Hands out what the members take, in the order of their ranks. False where something does
    /// not fit after all; the caller hands back.
    fn hand_out_gang(&mut self, visit: Visit<'a>, shares: &[Share]) -> bool {
        let suits = self.suits(visit.task);
        let mut parts = Some(self.gang_parts(visit, shares, &suits));
        let mut instance = 0;
        for (position, members) in shares {
            let host = self.roster.host(*position);
            let Some(sets) = devices::for_gang(host, visit.task, &suits, *members) else {
                return false;
            };
            for chosen in sets {
                let allocation = visit.allocation(self.view, instance);
                let Some(claim) = self.member_claim(visit, *position, allocation, &chosen) else {
                    return false;
                };
                // One says it for all: the plan has to fit an entry of the log.
                let parts = parts.take().unwrap_or_default();
                self.hand_out(visit, allocation, (*position, claim), parts);
                instance += 1;
            }
        }
        instance == visit.task.count
    }

    fn member_claim(
        &self,
        visit: Visit<'a>,
        position: usize,
        allocation: AllocationId,
        chosen: &[usize],
    ) -> Option<Claim> {
        let host = self.roster.host(position);
        let asked = visit.task.of_instance(allocation.instance);
        claim(&host.row, host.used(), self.now, &asked, allocation, chosen)
    }

    /// What its first place was chosen by, after what comes before the policy.
    fn gang_parts(&self, visit: Visit<'a>, shares: &[Share], suits: &[bool]) -> ScoreParts {
        let policy = visit.job.spec.policy;
        let Some((first, _)) = shares.first() else { return ScoreParts::default() };
        let look = self.look_at(visit, *first, suits);
        let by_itself = score(terms_of(policy, visit.task), look);
        let mut parts = by_itself.parts(policy, look, self.view.applied_index());
        let hosts = i64::try_from(shares.len()).unwrap_or(i64::MAX);
        parts.parts.insert(0, ("gang_hosts".to_owned(), hosts));
        parts
    }

    /// Takes back what was handed out after so many placements.
    fn hand_back(&mut self, placed: usize) {
        self.handed.truncate(placed);
        for placement in self.placements.split_off(placed) {
            let Some(position) = self.roster.position_of(placement.node) else { continue };
            let Some(claim) = self.claim_of(&placement) else { continue };
            self.roster.hand_back(position, &claim, self.now);
            self.count_back(placement.job, &claim);
            self.meter.placed -= 1;
        }
        // It has counted what is no more.
        self.census = None;
    }
}
