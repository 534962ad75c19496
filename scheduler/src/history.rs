//! The newest ended allocations, as far as this scheduler saw them end. Soft:
//! the state itself keeps counts, ranges and the details of failures.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use berth_model::{AllocationId, Attempt, EndReport, JobId, Outcome};
use berth_state::{AllocationRow, Event, EventKind};

/// Ended allocations kept, as many as the cluster keeps finished instances.
const ENDED_MAX: usize = 100_000;

/// An allocation after its end.
#[derive(Clone, Debug)]
pub struct EndedAllocation {
    pub row: Arc<AllocationRow>,
    pub outcome: Outcome,
    pub reason: String,
    pub report: Option<EndReport>,
}

/// What became of allocations over some entries, each as it stands after the last of them.
#[derive(Default)]
pub struct Endings {
    ended: BTreeMap<AllocationId, EndedAllocation>,
    back: BTreeSet<AllocationId>,
}

impl Endings {
    /// The events of one entry more.
    pub fn note(&mut self, events: &[Event]) {
        for event in events {
            if let EventKind::AllocationEnded { outcome, reason, row, report } = &event.kind {
                let ended = EndedAllocation {
                    row: row.clone(),
                    outcome: *outcome,
                    reason: reason.clone(),
                    report: report.clone(),
                };
                self.back.remove(&row.id);
                self.ended.insert(row.id, ended);
            } else if let (EventKind::AllocationReturned { .. }, Some(id)) =
                (&event.kind, event.allocation)
            {
                self.ended.remove(&id);
                self.back.insert(id);
            }
        }
    }
}

/// The lock guards short look-ups and pushes only.
pub struct History(Mutex<Ended>);

#[derive(Default)]
struct Ended {
    by_id: BTreeMap<AllocationId, Arc<EndedAllocation>>,
    order: VecDeque<AllocationId>,
}

impl Ended {
    /// They have not ended after all. Costs a pass, however many they are.
    fn take_back(&mut self, back: &BTreeSet<AllocationId>) {
        let known = back.iter().filter(|id| self.by_id.remove(id).is_some()).count();
        if known > 0 {
            self.order.retain(|id| !back.contains(id));
        }
    }
}

impl History {
    pub fn new() -> History {
        History(Mutex::new(Ended::default()))
    }

    /// Those that have ended, told before a state is shown that has them no more: whoever looks
    /// into that finds them here.
    pub fn record(&self, endings: &mut Endings) {
        let mut history = self.lock();
        for (id, ended) in std::mem::take(&mut endings.ended) {
            if history.by_id.insert(id, Arc::new(ended)).is_none() {
                history.order.push_back(id);
            }
            while history.order.len() > ENDED_MAX {
                if let Some(old) = history.order.pop_front() {
                    history.by_id.remove(&old);
                }
            }
        }
    }

    /// Those that have not ended after all, once the state that is shown has them again.
    pub fn take_back(&self, endings: &Endings) {
        if !endings.back.is_empty() {
            self.lock().take_back(&endings.back);
        }
    }

    pub fn get(&self, id: AllocationId) -> Option<Arc<EndedAllocation>> {
        self.lock().by_id.get(&id).cloned()
    }

    /// The newest attempt of an instance that has ended.
    pub fn newest(&self, first: AllocationId) -> Option<Arc<EndedAllocation>> {
        let last = AllocationId { attempt: Attempt(u32::MAX), ..first };
        let history = self.lock();
        history.by_id.range(first..=last).next_back().map(|(_, ended)| ended.clone())
    }

    /// Ended allocations of a job after `after`, in the order of their ids.
    pub fn of_job(
        &self,
        job: JobId,
        after: Option<AllocationId>,
        count_max: usize,
    ) -> Vec<Arc<EndedAllocation>> {
        use std::ops::Bound;
        let first = AllocationId { job, ..AllocationId::default() };
        let from =
            after.filter(|after| *after >= first).map_or(Bound::Included(first), Bound::Excluded);
        let last = AllocationId { job: JobId(job.0.saturating_add(1)), ..AllocationId::default() };
        let history = self.lock();
        history
            .by_id
            .range((from, Bound::Excluded(last)))
            .map(|(_, ended)| ended.clone())
            .take(count_max)
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ended> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
