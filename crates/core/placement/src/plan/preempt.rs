//! What is urgent and has no room anywhere is given a place where less urgent work ends for it:
//! over all nodes the place where the least work is lost. Nothing is ended that would not make
//! enough room, and what one end makes room for shares it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use berth_model::{
    AllocationId, AllocationState, Claim, DurationMs, Name, NodeUse, StateMs, outranks,
};
use berth_state::reservation::{held_of, may_end, may_preempt};
use berth_state::{ClusterState, Placement, Reservation, ReservationRow, Right, ScoreParts};

use super::endable::{Units, shortage};
use super::{Run, Visit};
use crate::devices;
use crate::filters::has_room;
use crate::host::Host;
use crate::resources::claim;
use crate::search::{FitKey, SearchKey};
use crate::terms::Look;
use crate::victims::{Price, Set, at_least, cheapest};

/// Nobody ends for an instance that has failed so often in a row: each further attempt might end
/// another.
pub(crate) const FAILURES_MAX: u32 = 2;
/// Where nobody could end, nobody is looked for again before: what runs changes all the time, and
/// a look at everything is not for every change.
const HOPELESS_FOR: DurationMs = DurationMs(1_000);
/// Sets that are tried in the time of one unit of the budget.
pub(super) const TRIED_PER_UNIT: u32 = 2;

/// The search for places of one kind of request at one priority. Within a plan nothing is freed,
/// so that what a node costs only grows, unless more of it is to end, and what was found stays a
/// lower bound.
pub(super) struct Hunt {
    /// What a place on each node costs at least, the cheapest first, and its position.
    bounds: BinaryHeap<Reverse<(Price, usize)>>,
    /// When the first of those who have not run for long enough has.
    later: Option<StateMs>,
}

/// Whom a hunt is for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct HuntKey {
    pub fit: FitKey,
    pub priority: u8,
    /// Of a gang that is placed as one.
    pub members: u32,
    /// Where something is guaranteed, or others end by themselves, whose and by what right: who may
    /// end depends on it.
    pub by: Option<(Name, Right)>,
}

/// Places that are kept together on one node.
pub(super) struct Group<'a> {
    awaits: Vec<AllocationId>,
    /// What those hold.
    theirs: Vec<&'a Claim>,
    members: Vec<Claim>,
    held: NodeUse,
}

/// Where, at what price, and who ends.
struct Choice {
    position: usize,
    price: Price,
    victims: Vec<AllocationId>,
    /// The group of the node that it joins.
    joins: Option<usize>,
}

impl<'a> Run<'_, 'a> {
    /// Keeps a place for an instance that nothing has room for; false if nobody ends for it.
    pub(super) fn reserve(&mut self, visit: Visit<'a>, key: &SearchKey, instance: u32) -> bool {
        visit.by_each_right().any(|visit| self.reserve_by(visit, key, instance))
    }

    pub(super) fn reserve_by(&mut self, visit: Visit<'a>, key: &SearchKey, instance: u32) -> bool {
        let hunt_key = self.hunt_key(visit, key.fit.clone(), 1);
        if !self.may_hunt(visit, instance, &hunt_key) {
            return false;
        }
        let mut hunt = match self.hunts.remove(&hunt_key) {
            Some(hunt) => hunt,
            None => match self.begin_hunt(visit) {
                Some(hunt) => hunt,
                // Those that were not looked at may be cheaper: the next plan has more to spend.
                None => return false,
            },
        };
        let kept = loop {
            let Some(Reverse((bound, position))) = hunt.bounds.pop() else { break false };
            if self.meter.exhausted {
                break false;
            }
            let Some(choice) = self.cheapest_on(visit, position) else { continue };
            if choice.price != bound {
                hunt.bounds.push(Reverse((choice.price, position)));
            } else if self.keep(visit, key, instance, choice) {
                // What ends there may make room for more.
                let others = self.hunts.values_mut().chain([&mut hunt]);
                others.for_each(|hunt| hunt.bounds.push(Reverse((Price::NOTHING, position))));
                break true;
            }
        };
        if !kept && !self.meter.exhausted {
            self.give_up_hunt(hunt_key.clone(), hunt.later);
        }
        self.hunts.insert(hunt_key, hunt);
        kept
    }

    pub(super) fn hunt_key(&self, visit: Visit<'a>, fit: FitKey, members: u32) -> HuntKey {
        let spec = &visit.job.spec;
        let depends = self.view.has_guarantees() || visit.right == Right::Patience;
        let by = depends.then(|| (spec.namespace.clone(), visit.right));
        HuntKey { fit, priority: spec.priority, members, by }
    }

    /// Whether others might end for an instance.
    pub(super) fn may_hunt(&mut self, visit: Visit<'a>, instance: u32, key: &HuntKey) -> bool {
        let lowest = self.view.least_urgent();
        let may_have = match visit.right {
            Right::Priority => lowest.is_some_and(|lowest| outranks(key.priority, lowest)),
            Right::Guarantee => lowest.is_some(),
            Right::Patience => true,
        };
        let asks = visit.right != Right::Patience;
        may_have
            && !self.patience.made_way
            && visit.failures(instance) < FAILURES_MAX
            && (!asks || may_preempt(&visit.job.spec))
            && self.hopeless.get(key).is_none_or(|until| *until <= self.now)
            && (!asks || self.meter.may_reserve())
    }

    /// Nobody has been found, and until `later` nobody will have run for long enough.
    pub(super) fn give_up_hunt(&mut self, key: HuntKey, later: Option<StateMs>) {
        let again = self.now.after(HOPELESS_FOR);
        let later = later.map_or(again, |later| later.min(again));
        self.wake(later);
        self.hopeless.insert(key, later);
    }

    /// Looks at every node; `None` if the budget ends before.
    fn begin_hunt(&mut self, visit: Visit<'a>) -> Option<Hunt> {
        let suits = self.suits(visit.task);
        let mut bounds = BinaryHeap::new();
        let later = self.survey(visit, |run, position, candidates| {
            let host = run.roster.host(position);
            let is_joined = !host.row.reservations.is_empty() || run.groups.contains_key(&position);
            let least = match is_joined {
                true => Some(Price::NOTHING),
                false => at_least(&candidates, shortage(host, visit.task, &suits, (1, 1))),
            };
            bounds.extend(least.map(|least| Reverse((least, position))));
        })?;
        Some(Hunt { bounds, later })
    }

    fn cheapest_on(&mut self, visit: Visit<'a>, position: usize) -> Option<Choice> {
        if let Some(joins) = self.group_with_room(visit, position) {
            let victims = self.groups[&position][joins].awaits.clone();
            let price = Price::NOTHING;
            return Some(Choice { position, price, victims, joins: Some(joins) });
        }
        let candidates = self.who_may_end(visit, position, &mut Units::default()).candidates;
        let host = self.roster.host(position);
        let fits = |used: &NodeUse| has_room(&host.row, used, self.now, visit.task).is_ok();
        let Set { price, chosen, tried } =
            cheapest(host.used(), &candidates, self.rooms.known_lenders(), fits)?;
        let victims = chosen.into_iter().flat_map(|at| candidates[at].ids.clone()).collect();
        self.meter.spend_all(u64::from(tried / TRIED_PER_UNIT));
        Some(Choice { position, price, victims, joins: None })
    }

    /// A group of the node that leaves room when all have ended for whom it waits.
    fn group_with_room(&mut self, visit: Visit<'a>, position: usize) -> Option<usize> {
        let row = self.roster.host(position).row.clone();
        let has_none = row.reservations.is_empty() && !self.groups.contains_key(&position);
        if has_none || visit.right == Right::Patience {
            return None;
        }
        let view = self.view;
        let groups = self.groups.entry(position).or_insert_with(|| {
            // A place of one that moves there is its own.
            let kept = row.reservations.iter();
            let kept = kept.filter(|one| !one.patient && !is_of_gang(one, view) && !one.is_move());
            kept.map(|one| Group::of(one, view)).collect()
        });
        let may_end = |id: &AllocationId| {
            let live = view.allocations().get(id);
            let owner = view.jobs().get(&id.job);
            live.zip(owner).is_some_and(|(live, owner)| {
                !matches!(live.state, AllocationState::Unkillable(_))
                    && may_end(visit.asker(), owner, live, self.now).is_ok()
            })
        };
        let used = self.roster.host(position).used();
        groups.iter().position(|group| {
            let later = group.later(used);
            group.awaits.iter().all(may_end) && has_room(&row, &later, self.now, visit.task).is_ok()
        })
    }

    /// Takes the place on the scratch copy; false if no devices can be named.
    fn keep(&mut self, visit: Visit<'a>, key: &SearchKey, instance: u32, choice: Choice) -> bool {
        let Choice { position, price, victims, joins } = choice;
        let allocation = visit.allocation(self.view, instance);
        let host = self.roster.host(position);
        let new = Group::new(victims.clone(), self.view);
        let group = joins.and_then(|at| self.groups.get(&position)?.get(at));
        let mut later = host.clone();
        later.set_used(group.unwrap_or(&new).later(host.used()), self.now);
        let node = host.row.id;
        let Some(claim) = self.claim_later(visit, key, allocation, &later) else { return false };
        let groups = self.groups.entry(position).or_default();
        let at = joins.unwrap_or(groups.len());
        if joins.is_none() {
            groups.push(new);
        }
        let more = groups[at].take(claim.clone());
        self.roster.hold(position, &more, self.now);
        self.all_end(visit.right, &victims);
        let patient = visit.right == Right::Patience;
        self.meter.reserved += u32::from(!patient);
        let score = price_parts(price, visit, self.view);
        self.count_handed(allocation.job, &claim);
        let placement = Placement::new(allocation, node, claim, score);
        self.reservations.push(Reservation { placement, awaits: victims, patient });
        true
    }

    /// What the instance takes of a node as it will be.
    fn claim_later(
        &self,
        visit: Visit<'a>,
        key: &SearchKey,
        allocation: AllocationId,
        host: &Host,
    ) -> Option<Claim> {
        let suits = self.suits(visit.task);
        let inputs = self.reckoned.inputs();
        let look = Look { host, task: visit.task, suits: &suits, inputs, on_node: 0 };
        let chosen = devices::choose(key.policy, look)?;
        claim(&host.row, host.used(), self.now, visit.task, allocation, &chosen)
    }
}

impl<'a> Visit<'a> {
    /// What is lent to others is taken back before somebody of the same namespace ends, who would
    /// take it back in turn.
    pub(super) fn by_each_right(self) -> impl Iterator<Item = Visit<'a>> {
        let sure = (self.right == Right::Guarantee).then_some(self);
        sure.into_iter().chain([Visit { right: Right::Priority, ..self }])
    }
}

/// What a place that is kept was chosen by.
pub(super) fn price_parts(price: Price, visit: Visit<'_>, view: &ClusterState) -> ScoreParts {
    let (cost, whom) = match visit.right {
        Right::Priority | Right::Guarantee => ("work_lost", "victims"),
        Right::Patience => ("time_left_ms", "awaited"),
    };
    let parts =
        [(cost, i64::try_from(price.lost).unwrap_or(i64::MAX)), (whom, price.victims.into())];
    ScoreParts {
        policy: visit.job.spec.policy.name().to_owned(),
        parts: parts.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        view_index: view.applied_index(),
    }
}

/// A gang's place is nobody else's, whatever is left of it.
fn is_of_gang(row: &ReservationRow, view: &ClusterState) -> bool {
    row.members.keys().any(|id| view.is_gang(id.job, id.task))
}

impl<'a> Group<'a> {
    fn new(awaits: Vec<AllocationId>, view: &'a ClusterState) -> Group<'a> {
        let rows = awaits.iter().filter_map(|id| view.allocations().get(id));
        let theirs = rows.map(|row| &row.claim).collect();
        Group { awaits, theirs, members: Vec::new(), held: NodeUse::default() }
    }

    fn of(row: &ReservationRow, view: &'a ClusterState) -> Group<'a> {
        let members = row.members.values().map(|place| place.claim.clone()).collect();
        let held = row.held.clone();
        Group { members, held, ..Group::new(row.awaits.iter().copied().collect(), view) }
    }

    /// What will be used of the node, of which `used` is used now, when all who are awaited have
    /// ended and the members have their places.
    fn later(&self, used: &NodeUse) -> NodeUse {
        let mut later = used.clone();
        later.remove_held(&self.held);
        self.theirs.iter().for_each(|claim| later.remove(claim));
        self.members.iter().for_each(|claim| later.add(claim));
        later
    }

    /// Takes one more in; what has to be held beside what is.
    fn take(&mut self, claim: Claim) -> NodeUse {
        self.members.push(claim);
        let held = held_of(self.members.iter(), self.theirs.iter().copied());
        let before = std::mem::replace(&mut self.held, held);
        self.held.beyond(&before)
    }
}
