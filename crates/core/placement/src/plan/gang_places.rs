//! A gang that is urgent and has no room is given places on several nodes together, where less
//! urgent work ends for it: the least that all of its members can do with.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use berth_model::{AllocationId, Claim, NodeUse};
use berth_state::reservation::held_of;
use berth_state::{Placement, Reservation};

use super::preempt::{Endable, HuntKey, TRIED_PER_UNIT, shortage};
use super::{Run, Visit};
use crate::devices;
use crate::filters::is_eligible;
use crate::host::Host;
use crate::resources::claim;
use crate::search::FitKey;
use crate::victims::{Candidate, Offer, Price, Set, at_least, cheapest, cheapest_shares};

/// Different numbers of members that are reckoned for one node: all of them where that many GPUs
/// are what a host has, else some from the least to the most.
const OFFERS_MAX: u32 = 16;
/// Nodes that come into question for each number of members, the cheapest of all. For a gang of
/// so many members there are no others that could be cheaper.
const NODES_MAX: usize = 256;
/// So often the bounds of what was chosen are replaced by what it really costs, and chosen anew.
const ROUNDS_MAX: u32 = 32;

/// A node that could take members of the gang.
struct Site<'a> {
    position: usize,
    candidates: Vec<Candidate<'a>>,
    /// Ascending. What they cost is a bound first.
    offers: Vec<Offer>,
    /// Who ends for each of the offers, where that is known.
    known: Vec<Option<Vec<usize>>>,
}

/// What one node takes.
struct Part<'a> {
    position: usize,
    members: u32,
    victims: Vec<AllocationId>,
    /// What those hold.
    theirs: Vec<&'a Claim>,
}

/// Where all members go, and who ends.
struct Plan<'a> {
    price: Price,
    parts: Vec<Part<'a>>,
}

impl<'a> Run<'_, 'a> {
    /// Keeps places for all members of a gang that nothing has room for; false if nobody ends for
    /// it.
    pub(super) fn reserve_gang(&mut self, visit: Visit<'a>) -> bool {
        let fit = FitKey::of(visit.request());
        let key = HuntKey { fit, priority: visit.job.spec.priority, members: visit.task.count };
        if !self.may_hunt(visit, 0, &key) {
            return false;
        }
        let mut later = None;
        let Some(mut sites) = self.sites(visit, &mut later) else { return false };
        let plan = self.cheapest_plan(visit, &mut sites);
        let kept = plan.is_some_and(|plan| self.keep_gang(visit, plan));
        if !kept && !self.meter.exhausted {
            self.give_up_hunt(key, later);
        }
        kept
    }

    /// Looks at every node; `None` if the budget ends before.
    fn sites(
        &mut self,
        visit: Visit<'a>,
        later: &mut Option<berth_model::StateMs>,
    ) -> Option<Vec<Site<'a>>> {
        let (task, suits) = (visit.task, self.suits(visit.task));
        let mut sites = Vec::new();
        for position in 0..self.roster.len() {
            if !self.meter.spend() {
                return None;
            }
            let host = self.roster.host(position);
            if !host.is_open || is_eligible(&host.row, visit.request()).is_err() {
                continue;
            }
            let Endable { candidates, later: until } = self.who_may_end(visit, position);
            *later = later.iter().copied().chain(until).min();
            let free = host.members(task, &suits);
            let most = if candidates.is_empty() {
                free
            } else {
                let mut used = host.used().clone();
                candidates.iter().for_each(|one| used.remove(one.claim));
                let mut emptied = host.clone();
                emptied.lay(used, self.now);
                emptied.members(task, &suits)
            };
            let offer = |members| {
                let missing = shortage(host, task, &suits, (members, task.count));
                let price = match members <= free {
                    true => Some(Price::NOTHING),
                    false => at_least(&candidates, missing),
                };
                price.map(|price| Offer { members, price })
            };
            let offers: Vec<Offer> = sizes(free, most).into_iter().filter_map(offer).collect();
            candidates.iter().for_each(|_| {
                self.meter.spend();
            });
            if !offers.is_empty() {
                let known = vec![None; offers.len()];
                sites.push(Site { position, candidates, offers, known });
            }
        }
        Some(sites)
    }

    /// Chooses by bounds, reckons what that really costs, and chooses again, until what is chosen
    /// costs no more than was thought: then nothing else can be cheaper.
    fn cheapest_plan(&mut self, visit: Visit<'a>, sites: &mut [Site<'a>]) -> Option<Plan<'a>> {
        let count = visit.task.count;
        let mut found = None;
        for _ in 0..ROUNDS_MAX {
            let likely = shortlist(sites, count as usize);
            let offers: Vec<&[Offer]> =
                likely.iter().map(|at| sites[*at].offers.as_slice()).collect();
            let Some(chosen) = cheapest_shares(&offers, count) else { break };
            let shares: Vec<(usize, usize)> =
                chosen.into_iter().map(|(node, offer)| (likely[node], offer)).collect();
            let mut is_settled = true;
            for (at, offer) in &shares {
                let site = &mut sites[*at];
                if site.known[*offer].is_none() {
                    is_settled &= self.reckon(visit, site, *offer);
                }
            }
            found = plan_of(sites, shares, count).or(found);
            if is_settled {
                break;
            }
        }
        found
    }

    /// Finds who ends for an offer; whether it costs what was thought.
    fn reckon(&mut self, visit: Visit<'a>, site: &mut Site<'a>, offer: usize) -> bool {
        let suits = self.suits(visit.task);
        let host = self.roster.host(site.position);
        let mut laid = host.clone();
        let Offer { members, price } = site.offers[offer];
        let now = self.now;
        let fits = |used: &NodeUse| {
            laid.lay(used.clone(), now);
            laid.members(visit.task, &suits) >= members
        };
        let found = cheapest(host.used(), &site.candidates, fits);
        let tried = found.as_ref().map_or(0, |set| set.tried);
        (0..tried / TRIED_PER_UNIT).for_each(|_| {
            self.meter.spend();
        });
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
        let mut instance = 0;
        let mut kept: Vec<(usize, Vec<(AllocationId, Claim)>)> = Vec::new();
        for part in &parts {
            let host = self.roster.host(part.position);
            let mut later = host.clone();
            let mut used = host.used().clone();
            part.theirs.iter().for_each(|claim| used.remove(claim));
            later.lay(used, self.now);
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
        let mut score = Some(super::preempt::price_parts(price, visit.job.spec.policy, self.view));
        score.iter_mut().for_each(|score| score.parts.push(("gang_hosts".to_owned(), hosts)));
        for (part, (position, claims)) in parts.into_iter().zip(kept) {
            let mut theirs = NodeUse::default();
            part.theirs.iter().for_each(|claim| theirs.add(claim));
            let held = held_of(claims.iter().map(|(_, claim)| claim), &theirs);
            self.roster.hand_out(position, &held, self.now);
            self.ended.extend(&part.victims);
            let node = self.roster.host(position).row.id;
            // Named once for all who share it, and the price once for the gang: a plan has to fit
            // an entry of the log.
            let mut victims = Some(part.victims);
            for (allocation, claim) in claims {
                let score = score.take().unwrap_or_default();
                let placement = Placement::new(allocation, node, claim, score);
                let awaits = victims.take().unwrap_or_default();
                self.reservations.push(Reservation { placement, awaits });
            }
        }
        self.gangs.insert((visit.key.job, visit.key.task));
        self.meter.reserved += 1;
        true
    }
}

/// What was chosen, if it is known who ends for all of it.
fn plan_of<'a>(
    sites: &[Site<'a>],
    mut shares: Vec<(usize, usize)>,
    count: u32,
) -> Option<Plan<'a>> {
    let offer_of = |(at, offer): &(usize, usize)| sites[*at].offers.get(*offer);
    // Ranks fill first where most of them are.
    shares.sort_by_key(|share| {
        (Reverse(offer_of(share).map(|offer| offer.members)), sites[share.0].position)
    });
    let mut left = count;
    let mut plan = Plan { price: Price::NOTHING, parts: Vec::with_capacity(shares.len()) };
    for (at, offer) in shares {
        let Site { position, candidates, offers, known } = &sites[at];
        let (ending, offer) = (known.get(offer)?.as_ref()?, offers.get(offer)?);
        let members = offer.members.min(left);
        left -= members;
        plan.price = plan.price.and(offer.price);
        let victims = ending.iter().map(|one| candidates[*one].id).collect();
        let theirs = ending.iter().map(|one| candidates[*one].claim).collect();
        plan.parts.push(Part { position: *position, members, victims, theirs });
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
fn shortlist(sites: &[Site<'_>], count: usize) -> Vec<usize> {
    let sizes: BTreeSet<u32> =
        sites.iter().flat_map(|site| site.offers.iter().map(|offer| offer.members)).collect();
    let mut likely = BTreeSet::new();
    for members in sizes {
        let offers = sites.iter().enumerate().filter_map(|(at, site)| {
            let offer = site.offers.iter().find(|offer| offer.members >= members)?;
            Some((offer.price, at))
        });
        let mut offers: Vec<(Price, usize)> = offers.collect();
        let most = count.min(NODES_MAX);
        if offers.len() > most {
            offers.select_nth_unstable(most - 1);
            offers.truncate(most);
        }
        likely.extend(offers.into_iter().map(|(_, at)| at));
    }
    likely.into_iter().collect()
}
