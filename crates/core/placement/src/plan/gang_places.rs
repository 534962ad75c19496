//! A gang that is urgent and has no room is given places on several nodes together, where less
//! urgent work ends for it: the least that all of its members can do with.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use berth_model::{AllocationId, Claim, GANG_PLAN_BYTES_MAX, JobId, NodeUse, StateMs, TaskIndex};
use berth_state::reservation::held_of;
use berth_state::{Placement, Reservation, Right};

use super::endable::shortage;
use super::lenders::Cut;
use super::preempt::{TRIED_PER_UNIT, price_parts};
use super::{Run, Visit};
use crate::devices;
use crate::host::Host;
use crate::resources::claim;
use crate::search::FitKey;
use crate::victims::{Candidate, Offer, Price, Set, at_least, cheapest, cheapest_shares};

/// Different numbers of members that are reckoned for one node: all of them where that many GPUs
/// are what a host has, else some from the least to the most.
const OFFERS_MAX: u32 = 16;
/// Steps of the sum over nodes, and sites that are looked through, in the time of one unit of
/// the budget.
const STEPS_PER_UNIT: u64 = 64;
/// What a reservation takes of a log entry beside its placement, and what one takes who ends for
/// it, at the most.
const FRAME_BYTES: u64 = 6;
const VICTIM_BYTES: u64 = 24;
/// So often the bounds of what was chosen are replaced by what it really costs, and chosen anew.
const ROUNDS_MAX: u32 = 32;

/// Gangs that would end on several nodes at once, of which every set is tried; of more than these
/// they are left out one by one, who loses most first.
const WIDE_TRIED_MAX: usize = 5;
/// Those that are looked at at all, who loses least first.
const WIDE_MAX: usize = 64;

/// A node that could take members of the gang.
#[derive(Clone)]
pub(super) struct Site<'a> {
    /// Who ends there anyway.
    freed: Vec<Candidate<'a>>,
    pub(super) candidates: Vec<Candidate<'a>>,
    /// Ascending. What they cost is a bound first.
    offers: Vec<Offer>,
    /// Who ends for each of the offers, where that is known.
    known: Vec<Option<Vec<usize>>>,
}

/// By the position of their nodes.
pub(super) type Sites<'a> = BTreeMap<usize, Site<'a>>;

/// Gangs on several nodes that may end, each with its part of every node. What they cost is not
/// the sum of what they cost on each.
pub(super) type Wide<'a> = BTreeMap<(JobId, TaskIndex), BTreeMap<usize, Candidate<'a>>>;

/// What one node takes.
pub(super) struct Part<'a> {
    position: usize,
    members: u32,
    pub(super) victims: Vec<AllocationId>,
    /// What those hold.
    theirs: Vec<&'a Claim>,
}

/// Where all members go, and who ends.
pub(super) struct Plan<'a> {
    price: Price,
    pub(super) parts: Vec<Part<'a>>,
}

/// The search for one gang.
#[derive(Clone)]
pub(super) struct Search<'a> {
    pub(super) sites: Sites<'a>,
    pub(super) wide: Wide<'a>,
    /// When the first of those who have not run for long enough has.
    later: Option<StateMs>,
}

impl<'a> Run<'_, 'a> {
    /// Keeps places for all members of a gang that nothing has room for; false if nobody ends for
    /// it.
    pub(super) fn reserve_gang(&mut self, visit: Visit<'a>) -> bool {
        visit.by_each_right().any(|visit| self.reserve_gang_by(visit))
    }

    pub(super) fn reserve_gang_by(&mut self, visit: Visit<'a>) -> bool {
        let fit = FitKey::of(visit.request());
        let key = self.hunt_key(visit, fit, visit.task.count);
        if !self.may_hunt(visit, 0, &key) {
            return false;
        }
        let Some(mut search) = self.search_all(visit) else { return false };
        let mut plan = self.best_plan(visit, &mut search);
        if plan.as_ref().is_some_and(|plan| !self.can_all_be_spared(&search, plan)) {
            plan = None;
            for cut in Cut::ALL {
                let mut fewer = search.clone();
                self.leave_out(visit, &mut fewer, cut);
                let other = self.best_plan(visit, &mut fewer);
                plan = plan.into_iter().chain(other).min_by_key(|plan| plan.price);
            }
        }
        let kept = plan.is_some_and(|plan| self.keep_gang(visit, plan));
        if !kept && !self.meter.exhausted {
            self.give_up_hunt(key, search.later);
        }
        kept
    }

    /// Looks at every node; `None` if the budget ends before.
    fn search_all(&mut self, visit: Visit<'a>) -> Option<Search<'a>> {
        let suits = self.suits(visit.task);
        let (mut sites, mut all_wide) = (Sites::new(), Wide::new());
        let later = self.survey(visit, |run, position, candidates| {
            let of_gang = |one: &Candidate<'_>| one.price.victims as usize > one.ids.len();
            let (wide, candidates): (Vec<_>, Vec<_>) = candidates.into_iter().partition(of_gang);
            for one in wide {
                let of = (one.ids[0].job, one.ids[0].task);
                all_wide.entry(of).or_default().insert(position, one);
            }
            sites.insert(position, run.site(visit, (position, &suits), Vec::new(), candidates));
        })?;
        Some(Search { sites, wide: all_wide, later })
    }

    /// What a node offers once some have left it.
    pub(super) fn site(
        &self,
        visit: Visit<'a>,
        (position, suits): (usize, &[bool]),
        freed: Vec<Candidate<'a>>,
        candidates: Vec<Candidate<'a>>,
    ) -> Site<'a> {
        let task = visit.task;
        let mut host = Cow::Borrowed(self.roster.host(position));
        let mut used = host.used().clone();
        if !freed.is_empty() {
            freed.iter().for_each(|one| one.leaves(&mut used));
            host.to_mut().set_used(used.clone(), self.now);
        }
        let free = host.members(task, suits);
        let most = if candidates.is_empty() {
            free
        } else {
            candidates.iter().for_each(|one| one.leaves(&mut used));
            let mut emptied = Host::clone(&host);
            emptied.set_used(used, self.now);
            emptied.members(task, suits)
        };
        let offer = |members| {
            let missing = shortage(&host, task, suits, (members, task.count));
            let price = match members <= free {
                true => Some(Price::NOTHING),
                false => at_least(&candidates, missing),
            };
            price.map(|price| Offer { members, price })
        };
        let offers: Vec<Offer> = sizes(free, most).into_iter().filter_map(offer).collect();
        let known = vec![None; offers.len()];
        Site { freed, candidates, offers, known }
    }

    /// The cheapest plan, with or without the end of gangs that are on several nodes.
    fn best_plan(&mut self, visit: Visit<'a>, search: &mut Search<'a>) -> Option<Plan<'a>> {
        let mut best = self.cheapest_plan(visit, &mut search.sites);
        let price_of = |parts: &BTreeMap<usize, Candidate<'_>>| {
            parts.values().next().map_or(Price::NOTHING, |one| one.price)
        };
        let mut gangs: Vec<(Price, (JobId, TaskIndex))> =
            search.wide.iter().map(|(of, parts)| (price_of(parts), *of)).collect();
        gangs.sort_unstable();
        gangs.truncate(WIDE_MAX);
        if gangs.len() <= WIDE_TRIED_MAX {
            for set in 1..1_usize << gangs.len() {
                let chosen = (0..gangs.len()).filter(|at| set >> at & 1 == 1);
                let chosen: Vec<_> = chosen.map(|at| gangs[at]).collect();
                let plan = self.plan_without(visit, search, &chosen, best.as_ref());
                best = plan.or(best);
            }
            return best;
        }
        let Some(mut found) = self.plan_without(visit, search, &gangs, None) else { return best };
        for at in (0..gangs.len()).rev() {
            let mut fewer = gangs.clone();
            fewer.remove(at);
            if let Some(plan) = self.plan_without(visit, search, &fewer, Some(&found)) {
                found = plan;
                gangs = fewer;
            }
        }
        match best {
            Some(best) if best.price <= found.price => Some(best),
            Some(_) | None => Some(found),
        }
    }

    /// The cheapest plan if these gangs end, if that is cheaper than one that is known.
    fn plan_without(
        &mut self,
        visit: Visit<'a>,
        search: &mut Search<'a>,
        gangs: &[(Price, (JobId, TaskIndex))],
        known: Option<&Plan<'a>>,
    ) -> Option<Plan<'a>> {
        let price = gangs.iter().fold(Price::NOTHING, |sum, (price, _)| sum.and(*price));
        let is_cheaper = |price: Price| known.is_none_or(|known| price < known.price);
        if !is_cheaper(price) || !self.meter.spend() {
            return None;
        }
        let suits = self.suits(visit.task);
        let mut freed: BTreeMap<usize, Vec<Candidate<'a>>> = BTreeMap::new();
        for (position, one) in gangs.iter().flat_map(|(_, of)| &search.wide[of]) {
            freed.entry(*position).or_default().push(one.clone());
        }
        let mut before = Vec::with_capacity(freed.len());
        for (position, freed) in freed {
            let candidates = search.sites[&position].candidates.clone();
            let new = self.site(visit, (position, &suits), freed, candidates);
            before.extend(search.sites.insert(position, new).map(|old| (position, old)));
        }
        let plan = self.cheapest_plan(visit, &mut search.sites);
        search.sites.extend(before);
        let mut plan = plan?;
        plan.price = plan.price.and(price);
        is_cheaper(plan.price).then_some(plan)
    }

    /// Chooses by bounds, reckons what that really costs, and chooses again, until what is chosen
    /// costs no more than was thought: then nothing else can be cheaper.
    fn cheapest_plan(&mut self, visit: Visit<'a>, sites: &mut Sites<'a>) -> Option<Plan<'a>> {
        let count = visit.task.count;
        let mut found = None;
        for _ in 0..ROUNDS_MAX {
            let likely = shortlist(sites, count as usize);
            let offers: Vec<&[Offer]> =
                likely.iter().map(|position| sites[position].offers.as_slice()).collect();
            let offer_count: u64 = offers.iter().map(|offers| offers.len() as u64).sum();
            let steps = offer_count * u64::from(count) + sites.len() as u64;
            if !self.meter.spend_all(steps / STEPS_PER_UNIT) {
                break;
            }
            let Some(chosen) = cheapest_shares(&offers, count) else { break };
            let shares: Vec<(usize, usize)> =
                chosen.into_iter().map(|(node, offer)| (likely[node], offer)).collect();
            let mut is_settled = true;
            for (position, offer) in &shares {
                let Some(site) = sites.get_mut(position) else { continue };
                if site.known[*offer].is_none() {
                    is_settled &= self.reckon(visit, *position, site, *offer);
                }
            }
            found = plan_of(sites, shares.clone(), count).or(found);
            is_settled &= !offer_less(sites, &shares, count);
            if is_settled {
                break;
            }
        }
        found
    }

    /// Finds who ends for an offer; whether it costs what was thought.
    fn reckon(
        &mut self,
        visit: Visit<'a>,
        position: usize,
        site: &mut Site<'a>,
        offer: usize,
    ) -> bool {
        let suits = self.suits(visit.task);
        let mut laid = self.roster.host(position).clone();
        let mut used = laid.used().clone();
        site.freed.iter().for_each(|one| one.leaves(&mut used));
        let Offer { members, price } = site.offers[offer];
        let now = self.now;
        let fits = |used: &NodeUse| {
            laid.set_used(used.clone(), now);
            laid.members(visit.task, &suits) >= members
        };
        let found = cheapest(&used, &site.candidates, self.rooms.known_lenders(), fits);
        let tried = found.as_ref().map_or(0, |set| set.tried);
        self.meter.spend_all(u64::from(tried / TRIED_PER_UNIT));
        let Some(Set { price: real, chosen, .. }) = found else {
            // Nor does it take more.
            site.offers.truncate(offer);
            site.known.truncate(offer);
            return false;
        };
        site.known[offer] = Some(chosen);
        // More of them cost no less.
        site.offers[offer..].iter_mut().for_each(|one| one.price = one.price.max(real));
        real == price
    }

    /// Takes the places on the scratch copy; false if devices or ports cannot be named for all.
    fn keep_gang(&mut self, visit: Visit<'a>, plan: Plan<'a>) -> bool {
        let suits = self.suits(visit.task);
        let Plan { price, parts } = plan;
        let victims: usize = parts.iter().map(|part| part.victims.len()).sum();
        let frames = u64::from(visit.task.count) * FRAME_BYTES + victims as u64 * VICTIM_BYTES;
        // All of it is one command, or nothing of it would be granted.
        if visit.task.plan_bytes() + frames > GANG_PLAN_BYTES_MAX {
            return false;
        }
        let mut instance = 0;
        let mut kept: Vec<(usize, Vec<(AllocationId, Claim)>)> = Vec::new();
        for part in &parts {
            let host = self.roster.host(part.position);
            let mut later = host.clone();
            let mut used = host.used().clone();
            part.theirs.iter().for_each(|claim| used.remove(claim));
            later.set_used(used, self.now);
            let Some(sets) = devices::for_gang(&later, visit.task, &suits, part.members) else {
                return false;
            };
            let mut claims = Vec::with_capacity(sets.len());
            for chosen in sets {
                let allocation = visit.allocation(self.view, instance);
                let asked = visit.task.of_instance(allocation.instance);
                let Host { row, .. } = &later;
                let taken = claim(row, later.used(), self.now, &asked, allocation, &chosen);
                let Some(taken) = taken else { return false };
                later.hand_out(&taken, self.now);
                claims.push((allocation, taken));
                instance += 1;
            }
            kept.push((part.position, claims));
        }
        let hosts = i64::try_from(parts.len()).unwrap_or(i64::MAX);
        let mut score = Some(price_parts(price, visit, self.view));
        score.iter_mut().for_each(|score| score.parts.push(("gang_hosts".to_owned(), hosts)));
        for (part, (position, claims)) in parts.into_iter().zip(kept) {
            let held = held_of(claims.iter().map(|(_, claim)| claim), part.theirs.into_iter());
            self.roster.hold(position, &held, self.now);
            self.all_end(visit.right, &part.victims);
            let node = self.roster.host(position).row.id;
            // Named once for all who share it, and the price once for the gang: a plan has to fit
            // an entry of the log.
            let mut victims = Some(part.victims);
            for (allocation, claim) in claims {
                self.count_handed(allocation.job, &claim);
                let score = score.take().unwrap_or_default();
                let placement = Placement::new(allocation, node, claim, score);
                let awaits = victims.take().unwrap_or_default();
                let patient = visit.right == Right::Patience;
                self.reservations.push(Reservation { placement, awaits, patient });
            }
        }
        self.gangs.insert((visit.key.job, visit.key.task));
        self.meter.reserved += u32::from(visit.right != Right::Patience);
        true
    }
}

/// Where what was chosen takes more members than there are, the node with the least of them offers
/// exactly as many as are left for it; whether one does that did not before.
fn offer_less(sites: &mut Sites<'_>, shares: &[(usize, usize)], count: u32) -> bool {
    let members = |(position, offer): &(usize, usize)| {
        sites[position].offers.get(*offer).map_or(0, |offer| offer.members)
    };
    let sum: u32 = shares.iter().map(members).sum();
    let least = shares.iter().copied().min_by_key(|share| (members(share), share.0));
    let Some((position, at)) = least.filter(|_| sum > count) else { return false };
    let Some(site) = sites.get_mut(&position) else { return false };
    let Some(more) = site.offers.get(at).map(|offer| offer.members) else { return false };
    let members = more.saturating_sub(sum - count);
    if members == 0 || site.offers.iter().any(|offer| offer.members == members) {
        return false;
    }
    let at = site.offers.partition_point(|offer| offer.members < members);
    let below = at.checked_sub(1).and_then(|at| site.offers.get(at));
    // They cost no less than fewer do.
    let price = below.map_or(Price::NOTHING, |offer| offer.price);
    site.offers.insert(at, Offer { members, price });
    site.known.insert(at, None);
    true
}

/// What was chosen, if it is known who ends for all of it.
fn plan_of<'a>(sites: &Sites<'a>, mut shares: Vec<(usize, usize)>, count: u32) -> Option<Plan<'a>> {
    // Ranks fill first where most of them are.
    shares.sort_by_key(|(position, offer)| {
        (Reverse(sites[position].offers.get(*offer).map(|offer| offer.members)), *position)
    });
    let mut left = count;
    let mut plan = Plan { price: Price::NOTHING, parts: Vec::with_capacity(shares.len()) };
    for (position, offer) in shares {
        let Site { freed, candidates, offers, known } = &sites[&position];
        let (chosen, offer) = (known.get(offer)?.as_ref()?, offers.get(offer)?);
        let members = offer.members.min(left);
        left -= members;
        plan.price = plan.price.and(offer.price);
        let ending = || freed.iter().chain(chosen.iter().map(|at| &candidates[*at]));
        let victims = ending().flat_map(|one| one.ids.iter().copied()).collect();
        let theirs = ending().flat_map(|one| one.claims.iter().copied()).collect();
        plan.parts.push(Part { position, members, victims, theirs });
    }
    (left == 0).then_some(plan)
}

/// The numbers of members that are reckoned, ascending: what there is room for, and what there
/// would be.
fn sizes(free: u32, most: u32) -> BTreeSet<u32> {
    let step = most.saturating_sub(free).div_ceil(OFFERS_MAX - 1).max(1);
    let more = (free..most).skip(1).step_by(step as usize);
    more.chain([free, most]).filter(|members| *members > 0).collect()
}

/// Positions of the sites that can be part of the cheapest choice: of each number of members the
/// cheapest, as many as there are members. Where one is left out, one that is no dearer is left
/// over.
fn shortlist(sites: &Sites<'_>, count: usize) -> Vec<usize> {
    let sizes: BTreeSet<u32> =
        sites.values().flat_map(|site| site.offers.iter().map(|offer| offer.members)).collect();
    let mut likely = BTreeSet::new();
    for members in sizes {
        let offers = sites.iter().filter_map(|(position, site)| {
            let offer = site.offers.iter().find(|offer| offer.members >= members)?;
            Some((offer.price, *position))
        });
        let mut offers: Vec<(Price, usize)> = offers.collect();
        if offers.len() > count {
            offers.select_nth_unstable(count - 1);
            offers.truncate(count);
        }
        likely.extend(offers.into_iter().map(|(_, position)| position));
    }
    likely.into_iter().collect()
}
