//! Who on a node may end for something more urgent, and what is missing there.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{
    AllocationId, AllocationState, Amounts, JobId, Name, ShareMilli, StateMs, TaskIndex, TaskSpec,
};
use berth_state::reservation::{may_end, time_left, work_lost};
use berth_state::{AllocationRow, JobRow, NotAVictim, Right};

use super::{Run, Visit};
use crate::host::Host;
use crate::victims::{Candidate, Price, Shortage, can_be_spared};

/// Who on a node may end for a task.
pub(super) struct Endable<'a> {
    pub candidates: Vec<Candidate<'a>>,
    /// When the first of those who have not run for long enough has.
    pub later: Option<StateMs>,
}

/// What it costs that something ends, and of which namespace's guarantee, if any.
pub(super) type Cost<'a> = (Price, Option<(&'a Name, Amounts)>);

/// The same of gangs, or until when they are left alone.
pub(super) type Units<'a> = BTreeMap<(JobId, TaskIndex), Result<Cost<'a>, Option<StateMs>>>;

impl<'a> Run<'_, 'a> {
    /// Shows every node that the task could be on, with who may end there, and says when the first
    /// of those who have not run for long enough has; `None` if the budget ends before.
    pub(super) fn survey(
        &mut self,
        visit: Visit<'a>,
        mut show: impl FnMut(&Self, usize, Vec<Candidate<'a>>),
    ) -> Option<Option<StateMs>> {
        if self.view.has_guarantees() {
            self.rooms.lenders(self.view);
        }
        let mut units = Units::default();
        let mut first = None;
        for position in 0..self.roster.len() {
            if !self.meter.spend() {
                return None;
            }
            let host = self.roster.host(position);
            if !host.takes(visit.request().later()) {
                continue;
            }
            let Endable { candidates, later } = self.who_may_end(visit, position, &mut units);
            first = first.into_iter().chain(later).min();
            self.meter.spend_all(candidates.len() as u64);
            show(self, position, candidates);
        }
        Some(first)
    }

    /// Those on a node, a gang's members there together. `units` are the gangs that were looked
    /// at for the same visit.
    pub(super) fn who_may_end(
        &self,
        visit: Visit<'a>,
        position: usize,
        units: &mut Units<'a>,
    ) -> Endable<'a> {
        let row = &self.roster.host(position).row;
        let kept = row.reservations.iter().filter(|one| !self.makes_way(visit, one));
        let awaited: BTreeSet<&AllocationId> = kept.flat_map(|one| &one.awaits).collect();
        let mut endable = Endable { candidates: Vec::new(), later: None };
        let mut gangs: BTreeMap<(JobId, TaskIndex), Candidate<'a>> = BTreeMap::new();
        for id in row.live.iter().filter(|id| !awaited.contains(id)) {
            let Some(live) = self.view.allocations().get(id) else { continue };
            let task = (id.job, id.task);
            // What ends already ends for itself.
            let of_gang = live.state.stop_intent().is_none() && self.view.is_gang(id.job, id.task);
            let cost = match of_gang {
                true => *units.entry(task).or_insert_with(|| self.price_of_gang(visit, task)),
                false => self.price_alone(visit, live),
            };
            match cost {
                Ok(_) if of_gang && gangs.contains_key(&task) => {
                    gangs.entry(task).and_modify(|known| {
                        known.ids.push(*id);
                        known.claims.push(&live.claim);
                    });
                }
                Ok((price, lent)) => {
                    let one = Candidate { ids: vec![*id], claims: vec![&live.claim], price, lent };
                    match of_gang {
                        true => drop(gangs.insert(task, one)),
                        false => endable.candidates.push(one),
                    }
                }
                Err(until) => endable.later = endable.later.into_iter().chain(until).min(),
            }
        }
        endable.candidates.extend(gangs.into_values());
        endable
    }

    /// What the end of one costs; or until when it is left alone, if it may end at all.
    fn price_alone(
        &self,
        visit: Visit<'a>,
        live: &AllocationRow,
    ) -> Result<Cost<'a>, Option<StateMs>> {
        let owner = self.view.jobs().get(&live.id.job).ok_or(None)?;
        let is_stuck = matches!(live.state, AllocationState::Unkillable(_));
        // Of what is guaranteed one's own is no part: it would be taken back by who ends.
        let is_own = visit.right == Right::Guarantee
            && owner.namespace() == visit.job.namespace()
            && live.state.stop_intent().is_none();
        if is_stuck || is_own || self.ended.contains(&live.id) {
            return Err(None);
        }
        match may_end(visit.asker(), owner, live, self.now) {
            Ok(()) => {
                let lent = self.lent_of(visit, owner, live);
                let lost = match visit.right {
                    Right::Priority | Right::Guarantee => work_lost(live, self.now),
                    Right::Patience => time_left(&owner.spec, live, self.now),
                };
                match can_be_spared(self.rooms.known_lenders(), lent.into_iter()) {
                    true => Ok((Price { lost, victims: 1 }, lent)),
                    false => Err(None),
                }
            }
            Err(NotAVictim::TooYoung { until }) => Err(Some(until)),
            Err(
                NotAVictim::NotPreemptible
                | NotAVictim::Daemon
                | NotAVictim::TooUrgent { .. }
                | NotAVictim::Awaited
                | NotAVictim::Elsewhere
                | NotAVictim::Guaranteed
                | NotAVictim::Endless
                | NotAVictim::TooSoon
                | NotAVictim::Stays(_),
            ) => Err(None),
        }
    }

    /// What counts of it against what its namespace is sure of. What ends anyway does no longer,
    /// and within a namespace that is its own affair.
    fn lent_of(
        &self,
        visit: Visit<'a>,
        owner: &'a JobRow,
        live: &AllocationRow,
    ) -> Option<(&'a Name, Amounts)> {
        let name = owner.namespace();
        let is_other = live.state.stop_intent().is_none()
            && name != visit.job.namespace()
            && visit.right != Right::Patience;
        (is_other && self.rooms.known_lenders().contains_key(name))
            .then(|| (name, live.claim.amounts()))
    }

    /// Of all of a gang, wherever its members are. One that may not end keeps the others.
    fn price_of_gang(
        &self,
        visit: Visit<'a>,
        (job, task): (JobId, TaskIndex),
    ) -> Result<Cost<'a>, Option<StateMs>> {
        let mut live = self.view.allocations_of_task(job, task);
        if visit.right == Right::Patience {
            // They end together.
            return live.next().map_or(Err(None), |live| self.price_alone(visit, live));
        }
        live.map(|live| self.price_alone(visit, live)).try_fold((Price::NOTHING, None), both)
    }

    /// These end, and of a gang all; what ends by itself is not asked to.
    pub(super) fn all_end(&mut self, right: Right, victims: &[AllocationId]) {
        if right == Right::Patience {
            self.ended.extend(victims);
            return;
        }
        let mut all: BTreeSet<AllocationId> = victims.iter().copied().collect();
        let gangs: BTreeSet<(JobId, TaskIndex)> = victims
            .iter()
            .map(|id| (id.job, id.task))
            .filter(|(job, task)| self.view.is_gang(*job, *task))
            .collect();
        for (job, task) in gangs {
            all.extend(self.view.allocations_of_task(job, task).map(|live| live.id));
        }
        for id in all {
            if self.ended.insert(id) {
                self.take_back(id);
            }
        }
    }

    /// Its namespace holds so much less, unless it ends anyway.
    fn take_back(&mut self, id: AllocationId) {
        let live = self.view.allocations().get(&id);
        let goes_on = live.filter(|live| live.state.stop_intent().is_none());
        let owner = self.view.jobs().get(&id.job);
        let Some((live, owner)) = goes_on.zip(owner) else { return };
        if self.view.guarantee(owner.namespace()).is_some()
            && let Some(lender) = self.rooms.lenders(self.view).get_mut(owner.namespace())
        {
            lender.taken = lender.taken.plus(live.claim.amounts());
        }
    }
}

/// Of all of one gang, so far.
fn both<'a, E>(sum: Cost<'a>, next: Result<Cost<'a>, E>) -> Result<Cost<'a>, E> {
    let ((price, lent), (more, also)) = (sum, next?);
    let held = match (lent, also) {
        (Some((name, held)), Some((_, more))) => Some((name, held.plus(more))),
        (lent, also) => lent.or(also),
    };
    Ok((price.and(more), held))
}

/// What so many members of a gang of `world` miss on a node; of what is no gang both are one.
pub(super) fn shortage(
    host: &Host,
    task: &TaskSpec,
    suits: &[bool],
    (members, world): (u32, u32),
) -> Shortage {
    let times = |each: u64| each.saturating_mul(members.into());
    let devices = task.gpu.as_ref().map_or(0, |gpu| {
        let open = host.spots_for_gang(gpu, suits, world);
        if gpu.is_shared() {
            let parts = open.map(|at| u64::from(host.shares_of(&host.spots[at], gpu))).sum();
            let of_one = ShareMilli::WHOLE.0 / gpu.share.0.max(1);
            let of_one = of_one.min(host.row.spec.tasks_per_device_max).max(1);
            times(1).saturating_sub(parts).div_ceil(of_one.into())
        } else {
            times(gpu.count.into()).saturating_sub(open.count() as u64)
        }
    });
    Shortage {
        devices,
        cpu_milli: times(task.cpu.0).saturating_sub(host.cpu_free),
        memory_bytes: times(task.memory.0).saturating_sub(host.memory_free),
    }
}
