//! What guarantees mean for something that waits: when what is lent to others comes back to it, or
//! how much more would have to be guaranteed. Found by planning at that time, and with that much.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_model::{
    AllocationId, Amounts, Guarantee, NamespaceSpec, Resource, StateMs, TaskIndex, TaskSpec,
};
use berth_state::reservation::may_end;
use berth_state::{Asker, ClusterState, Command, JobRow, NotAVictim, Right};

use crate::budget::Budget;
use crate::plan::plan_task;
use crate::quota::Rooms;
use crate::soft::SoftView;
use crate::what_if::apply_one;

/// What one try may cost.
const BUDGET: Budget =
    Budget { candidates_examined_max: 1_000_000, placements_max: 1, reservations_max: u32::MAX };

/// What is told of guarantees.
pub(crate) struct Help {
    /// Beside what else would help.
    pub words: String,
    /// When those have ended who will be asked to without anybody's doing.
    pub starts_by: Option<StateMs>,
}

/// What guarantees do for a task that has no room, if anything.
///
/// Costs up to log2(live allocations) + 2 dry runs where something is guaranteed to its namespace,
/// and none elsewhere.
pub(crate) fn help(
    view: &ClusterState,
    soft: &SoftView,
    now: StateMs,
    (row, task): (&JobRow, TaskIndex),
) -> Option<Help> {
    let sure = view.guarantee(row.namespace())?;
    let spec = row.spec.tasks.get(usize::from(task.0))?;
    let asked = (spec, if spec.gang.is_some() { spec.count } else { 1 });
    let own = view.reservations_of(row.id, task).next().map(|(id, _)| id);
    let waits = Waits { view, soft, row, task, own };
    match Rooms::default().right(view, &row.spec, asked, own) {
        Right::Guarantee => {
            let (at, starts_by) = waits.comes_back(now)?;
            let seconds = at.since(now).0.div_ceil(1000);
            let words = format!(
                "; or nothing: namespace `{}` is sure of it, and others to whom it is lent are asked to \
                 end in {seconds} s",
                row.namespace()
            );
            Some(Help { words, starts_by: Some(starts_by) })
        }
        Right::Priority | Right::Patience => {
            let more = waits.more(sure, asked, now)?;
            Some(Help { words: format!("; or {more}"), starts_by: None })
        }
    }
}

struct Waits<'v> {
    view: &'v ClusterState,
    soft: &'v SoftView,
    row: &'v JobRow,
    task: TaskIndex,
    /// For which a place is kept already.
    own: Option<AllocationId>,
}

impl Waits<'_> {
    /// When it would have a place if it were planned at a moment, with the grace of all who end.
    fn starts_by(&self, view: &ClusterState, at: StateMs) -> Option<StateMs> {
        let outcome = plan_task(view, self.soft, at, BUDGET, (self.row.id, self.task));
        let has_place = !outcome.placements.is_empty() || !outcome.reservations.is_empty();
        let grace = |id: &AllocationId| {
            let job = view.jobs().get(&id.job)?;
            Some(job.spec.tasks.get(usize::from(id.task.0))?.stop.grace)
        };
        let ending = outcome.reservations.iter().flat_map(|one| &one.awaits);
        let longest = ending.filter_map(grace).max().unwrap_or_default();
        has_place.then(|| at.after(longest))
    }

    /// The first moment at which enough of those to whom it is lent have run for long enough, and
    /// when they have ended.
    fn comes_back(&self, now: StateMs) -> Option<(StateMs, StateMs)> {
        let mut moments = BTreeSet::from([now]);
        for live in self.view.allocations().values() {
            let Some(owner) = self.view.jobs().get(&live.id.job) else { continue };
            let asker = Asker { job: self.row, right: Right::Guarantee };
            if let Err(NotAVictim::TooYoung { until }) = may_end(asker, owner, live, now) {
                moments.insert(until);
            }
        }
        let moments: Vec<StateMs> = moments.into_iter().collect();
        let first = moments.partition_point(|at| self.starts_by(self.view, *at).is_none());
        let first = *moments.get(first)?;
        Some((first, self.starts_by(self.view, first)?))
    }

    /// What would be guaranteed to its namespace at least if it were sure of this too, if that
    /// would give it a place.
    fn more(
        &self,
        sure: &Guarantee,
        (task, count): (&TaskSpec, u32),
        now: StateMs,
    ) -> Option<String> {
        let name = self.row.namespace();
        let known = self.view.namespace(name)?;
        let asked = Rooms::default().asked(self.view, &known.spec.quota, task).times(count);
        let kept = self.own.map_or_else(Amounts::default, |own| self.view.kept_for(own));
        let used: Amounts = self.view.quota_use(name).minus(kept);
        let mut spec = NamespaceSpec::clone(&known.spec);
        let mut words = Vec::new();
        for (resource, most) in &sure.amounts {
            let (resource, wanted): (Resource, u64) = (*resource, asked.of(*resource));
            let needed = used.of(resource).saturating_add(wanted);
            let limit = known.spec.quota.limit.amounts.get(&resource);
            if wanted == 0 || needed <= *most || limit.is_some_and(|limit| needed > *limit) {
                continue;
            }
            spec.quota.guaranteed.amounts.insert(resource, needed);
            let (label, needed, most) =
                (resource.label(), resource.show(needed), resource.show(*most));
            words.push(format!("{needed} instead of {most} {label}"));
        }
        let mut copy = self.view.clone();
        let apply = Command::ApplyNamespace { spec: Arc::new(spec), if_version: None };
        apply_one(&mut copy, now, apply).ok()?;
        let helps = !words.is_empty() && self.starts_by(&copy, now).is_some();
        helps.then(|| format!("{} guaranteed to namespace `{name}`", words.join(", ")))
    }
}
