//! What is urgent and has no room anywhere is given a place where less urgent work ends for it:
//! over all nodes the place where the least work is lost. Nothing is ended that would not make
//! enough room.

use std::collections::BTreeSet;

use berth_model::{AllocationId, AllocationState, Claim, NodeUse, PREEMPTION_GAP, StateMs};
use berth_state::reservation::{may_end, may_preempt, work_lost};
use berth_state::{NodeRow, NotAVictim, Placement, Reservation, ScoreParts};

use super::{Run, Visit};
use crate::devices;
use crate::filters::{has_room, is_eligible};
use crate::host::Host;
use crate::resources::claim;
use crate::search::SearchKey;
use crate::terms::Look;
use crate::victims::{Candidate, Price, cheapest};

/// Where, at what price, and who ends.
struct Choice {
    position: usize,
    price: Price,
    victims: Vec<AllocationId>,
}

/// Who on a node may end for a task.
struct Endable<'a> {
    candidates: Vec<Candidate<'a>>,
    /// When the first of those who have not run for long enough has.
    later: Option<StateMs>,
}

impl<'a> Run<'_, 'a> {
    /// Keeps a place for an instance that nothing has room for; false if nobody ends for it.
    pub(super) fn reserve(&mut self, visit: Visit<'a>, key: &SearchKey, instance: u32) -> bool {
        let spec = &visit.job.spec;
        let lowest = self.view.least_urgent();
        let in_reach =
            lowest.is_some_and(|lowest| lowest.saturating_add(PREEMPTION_GAP) <= spec.priority);
        let hopeless = (key.fit.clone(), spec.priority);
        if !in_reach
            || !may_preempt(spec)
            || self.hopeless.contains(&hopeless)
            || !self.meter.may_reserve()
        {
            return false;
        }
        let mut best: Option<Choice> = None;
        let mut later: Option<StateMs> = None;
        for position in 0..self.roster.len() {
            if !self.meter.spend() {
                // Those that were not looked at may be cheaper: the next plan begins with more.
                return false;
            }
            let Some(node) = self.who_may_end(visit, position) else { continue };
            node.candidates.iter().for_each(|_| {
                self.meter.spend();
            });
            let below = best.as_ref().map(|best| best.price);
            best = self.cheapest_on(visit, position, &node.candidates, below).or(best);
            later = later.into_iter().chain(node.later).min();
        }
        let kept = best.is_some_and(|choice| self.keep(visit, key, instance, choice));
        if !kept {
            later.into_iter().for_each(|at| self.wake(at));
            self.hopeless.insert(hopeless);
        }
        kept
    }

    /// `None` where the task cannot run, or nothing new is put.
    fn who_may_end(&self, visit: Visit<'a>, position: usize) -> Option<Endable<'a>> {
        let host = self.roster.host(position);
        if !host.is_open || is_eligible(&host.row, visit.request()).is_err() {
            return None;
        }
        let kept = host.row.reservations.values();
        let awaited: BTreeSet<&AllocationId> = kept.flat_map(|place| &place.awaits).collect();
        let mut endable = Endable { candidates: Vec::new(), later: None };
        for id in &host.row.live {
            let Some(live) = self.view.allocations().get(id) else { continue };
            let Some(owner) = self.view.jobs().get(&id.job) else { continue };
            let is_stuck = matches!(live.state, AllocationState::Unkillable(_));
            if is_stuck || awaited.contains(id) || self.ended.contains(id) {
                continue;
            }
            match may_end(&visit.job.spec, owner, live, self.now) {
                Ok(()) => {
                    let lost = work_lost(live, self.now);
                    endable.candidates.push(Candidate { id: *id, claim: &live.claim, lost });
                }
                Err(NotAVictim::TooYoung { until }) => {
                    endable.later = endable.later.into_iter().chain([until]).min();
                }
                Err(
                    NotAVictim::NotPreemptible
                    | NotAVictim::Daemon
                    | NotAVictim::TooUrgent { .. }
                    | NotAVictim::Awaited
                    | NotAVictim::Elsewhere,
                ) => {}
            }
        }
        Some(endable)
    }

    fn cheapest_on(
        &self,
        visit: Visit<'a>,
        position: usize,
        candidates: &[Candidate<'a>],
        below: Option<Price>,
    ) -> Option<Choice> {
        let host = self.roster.host(position);
        let fits = |used: &NodeUse| has_room(&host.row, used, self.now, visit.task).is_ok();
        let (price, chosen) = cheapest(host.used(), candidates, below, fits)?;
        let victims = chosen.into_iter().map(|at| candidates[at].id).collect();
        Some(Choice { position, price, victims })
    }

    /// Takes the place on the scratch copy; false if no devices can be named.
    fn keep(&mut self, visit: Visit<'a>, key: &SearchKey, instance: u32, choice: Choice) -> bool {
        let allocation = visit.allocation(self.view, instance);
        let mut theirs = NodeUse::default();
        let rows = choice.victims.iter().filter_map(|id| self.view.allocations().get(id));
        rows.clone().for_each(|row| theirs.add(&row.claim));
        let host = self.roster.host(choice.position);
        let mut row = NodeRow::clone(&host.row);
        row.used = host.used().clone();
        rows.for_each(|victim| row.used.remove(&victim.claim));
        let Some(claim) = self.claim_without(visit, key, allocation, row) else { return false };
        let node = self.roster.host(choice.position).row.id;
        let held: Claim = claim.beyond(&theirs);
        self.roster.hand_out(choice.position, &held, self.now);
        self.ended.extend(&choice.victims);
        let Price { lost, victims } = choice.price;
        let parts =
            [("work_lost", i64::try_from(lost).unwrap_or(i64::MAX)), ("victims", victims.into())];
        let score = ScoreParts {
            policy: key.policy.name().to_owned(),
            parts: parts.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            view_index: self.view.applied_index(),
        };
        let placement = Placement {
            job: allocation.job,
            task: allocation.task,
            instance: allocation.instance,
            attempt: allocation.attempt,
            node,
            devices: claim.devices,
            ports: claim.ports,
            score,
        };
        self.meter.reserved += 1;
        self.reservations.push(Reservation { placement, awaits: choice.victims });
        true
    }

    /// What the instance takes of a node as it will be.
    fn claim_without(
        &mut self,
        visit: Visit<'a>,
        key: &SearchKey,
        allocation: AllocationId,
        row: NodeRow,
    ) -> Option<Claim> {
        let suits = visit.task.gpu.as_ref();
        let suits = suits.map_or_else(Vec::new, |gpu| self.roster.kinds.suiting(gpu));
        let mut kinds = self.roster.kinds.clone();
        let host = Host::new(std::sync::Arc::new(row), None, self.now, &mut kinds);
        let inputs = self.reckoned.inputs();
        let look = Look { host: &host, task: visit.task, suits: &suits, inputs, on_node: 0 };
        let chosen = devices::choose(key.policy, look)?;
        claim(&host.row, host.used(), self.now, visit.task, allocation, &chosen)
    }
}
