//! Who on a node may end for something more urgent, and what is missing there.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{AllocationId, AllocationState, JobId, ShareMilli, StateMs, TaskIndex, TaskSpec};
use berth_state::reservation::{may_end, work_lost};
use berth_state::{AllocationRow, NotAVictim};

use super::{Run, Visit};
use crate::filters::is_eligible;
use crate::host::Host;
use crate::victims::{Candidate, Price, Shortage};

/// Who on a node may end for a task.
pub(super) struct Endable<'a> {
    pub candidates: Vec<Candidate<'a>>,
    /// When the first of those who have not run for long enough has.
    pub later: Option<StateMs>,
}

/// What it costs that a gang ends, or until when it is left alone.
pub(super) type Units = BTreeMap<(JobId, TaskIndex), Result<Price, Option<StateMs>>>;

impl<'a> Run<'_, 'a> {
    /// Shows every node that the task could be on, with who may end there, and says when the first
    /// of those who have not run for long enough has; `None` if the budget ends before.
    pub(super) fn survey(
        &mut self,
        visit: Visit<'a>,
        mut show: impl FnMut(&Self, usize, Vec<Candidate<'a>>),
    ) -> Option<Option<StateMs>> {
        let mut units = Units::default();
        let mut first = None;
        for position in 0..self.roster.len() {
            if !self.meter.spend() {
                return None;
            }
            let host = self.roster.host(position);
            if !host.is_open || is_eligible(&host.row, visit.request()).is_err() {
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
        units: &mut Units,
    ) -> Endable<'a> {
        let row = &self.roster.host(position).row;
        let kept = row.reservations.iter();
        let awaited: BTreeSet<&AllocationId> = kept.flat_map(|one| &one.awaits).collect();
        let mut endable = Endable { candidates: Vec::new(), later: None };
        let mut gangs: BTreeMap<(JobId, TaskIndex), Candidate<'a>> = BTreeMap::new();
        for id in row.live.iter().filter(|id| !awaited.contains(id)) {
            let Some(live) = self.view.allocations().get(id) else { continue };
            let task = (id.job, id.task);
            // What ends already ends for itself.
            let of_gang = live.state.stop_intent().is_none() && self.view.is_gang(id.job, id.task);
            let price = match of_gang {
                true => *units.entry(task).or_insert_with(|| self.price_of_gang(visit, task)),
                false => self.price_alone(visit, live),
            };
            match price {
                Ok(_) if of_gang && gangs.contains_key(&task) => {
                    gangs.entry(task).and_modify(|known| {
                        known.ids.push(*id);
                        known.claims.push(&live.claim);
                    });
                }
                Ok(price) => {
                    let one = Candidate { ids: vec![*id], claims: vec![&live.claim], price };
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
    ) -> Result<Price, Option<StateMs>> {
        let owner = self.view.jobs().get(&live.id.job).ok_or(None)?;
        let is_stuck = matches!(live.state, AllocationState::Unkillable(_));
        if is_stuck || self.ended.contains(&live.id) {
            return Err(None);
        }
        match may_end(&visit.job.spec, owner, live, self.now) {
            Ok(()) => Ok(Price { lost: work_lost(live, self.now), victims: 1 }),
            Err(NotAVictim::TooYoung { until }) => Err(Some(until)),
            Err(
                NotAVictim::NotPreemptible
                | NotAVictim::Daemon
                | NotAVictim::TooUrgent { .. }
                | NotAVictim::Awaited
                | NotAVictim::Elsewhere
                | NotAVictim::Stays(_),
            ) => Err(None),
        }
    }

    /// Of all of a gang, wherever its members are. One that may not end keeps the others.
    fn price_of_gang(
        &self,
        visit: Visit<'a>,
        (job, task): (JobId, TaskIndex),
    ) -> Result<Price, Option<StateMs>> {
        let live = self.view.allocations_of_task(job, task);
        live.map(|live| self.price_alone(visit, live))
            .try_fold(Price::NOTHING, |sum, price| Ok(sum.and(price?)))
    }

    /// These end, and of a gang all.
    pub(super) fn all_end(&mut self, victims: &[AllocationId]) {
        self.ended.extend(victims);
        let gangs: BTreeSet<(JobId, TaskIndex)> = victims
            .iter()
            .map(|id| (id.job, id.task))
            .filter(|(job, task)| self.view.is_gang(*job, *task))
            .collect();
        for (job, task) in gangs {
            self.ended.extend(self.view.allocations_of_task(job, task).map(|live| live.id));
        }
    }
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
