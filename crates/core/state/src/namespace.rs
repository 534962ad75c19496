//! Namespaces: what is set for each, and how much of the cluster each holds. Use is never
//! stored, since allocations and jobs imply it; it moves where they come and go, and nowhere
//! else, so that it cannot differ from what nodes have given out.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_model::{
    AllocationId, Amounts, Borrowing, JobId, JobSpec, JobState, Name, NamespaceSpec, NodeId,
    OverQuota, Resource, Used, WallMs,
};
use imbl::OrdMap;

use crate::reservation::ReservationRow;
use crate::rows::{AllocationRow, JobRow};
use crate::state::ClusterState;

/// What is set for a namespace. One without a row has no limits.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NamespaceRow {
    pub spec: NamespaceSpec,
    /// Counts the changes, from 1.
    pub version: u32,
    pub changed_at: WallMs,
}

/// Rows of namespaces, which persons make one by one.
pub const NAMESPACE_ROWS_MAX: usize = 10_000;

impl ClusterState {
    /// What is set for a namespace, if anything is.
    pub fn namespace(&self, name: &Name) -> Option<&Arc<NamespaceRow>> {
        self.namespaces.get(name)
    }

    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<NamespaceRow>> {
        self.namespaces.values()
    }

    /// Namespaces that hold or queue something, with what that is.
    pub fn namespaces_in_use(&self) -> impl Iterator<Item = (&Name, Amounts)> {
        self.index.usage.iter().map(|(name, amounts)| (name, *amounts))
    }

    /// What its allocations hold, from planned until their end is seen or they are given up,
    /// and how many of its jobs are queued.
    pub fn namespace_use(&self, name: &Name) -> Amounts {
        self.index.usage.get(name).copied().unwrap_or_default()
    }

    /// What counts against its quota: with the places that are kept for it. Costs
    /// O(reservations).
    pub fn quota_use(&self, name: &Name) -> Amounts {
        self.held(name, Whose::All, None)
    }

    /// Whether its quota has room for `asked`. The place that is kept for `starting` is not
    /// counted: what starts there has it already.
    ///
    /// # Errors
    /// What is short.
    pub(crate) fn check_quota(
        &self,
        spec: &JobSpec,
        asked: Amounts,
        starting: Option<AllocationId>,
    ) -> Result<(), OverQuota> {
        let name = &spec.namespace;
        let Some(row) = self.namespaces.get(name) else { return Ok(()) };
        let used = self.used(name, spec.borrowing(), starting);
        let checked = row.spec.quota.check(used, asked, spec.borrowing());
        checked.map_err(|shortage| shortage.of(name))
    }

    /// Whether one more job may be queued.
    pub(crate) fn check_queue(&self, name: &Name) -> Result<(), OverQuota> {
        let Some(row) = self.namespaces.get(name) else { return Ok(()) };
        let one = Amounts::default().with(Resource::QueuedJobs, 1);
        let checked = row.spec.quota.limit.check(self.namespace_use(name), one);
        checked.map_err(|shortage| shortage.of(name))
    }

    /// Whether its quota has room for more places that are kept until others have ended, in rows
    /// of their own, or joining one that is kept `before`. Who ends may be of the same namespace,
    /// and counts no longer then; nor does what is kept for `own` already, which makes way.
    pub(crate) fn check_kept_quota(
        &self,
        (spec, own): (&JobSpec, AllocationId),
        before: Option<&ReservationRow>,
        added: &[ReservationRow],
    ) -> Result<(), OverQuota> {
        let name = &spec.namespace;
        let Some(row) = self.namespaces.get(name) else { return Ok(()) };
        let claims = added.iter().flat_map(|one| one.members.values());
        let asked = claims.fold(Amounts::default(), |sum, place| sum.plus(place.claim.amounts()));
        // With what would be held in all; not less, so that nobody ends for what could not
        // start in the end.
        let later = |whose: Whose| {
            let kept = |one: &ReservationRow| self.kept_by(one, (name, whose), None);
            let held = self.held(name, whose, Some(own));
            let others = held.minus(before.map_or(Amounts::default(), kept));
            let after = added.iter().fold(Amounts::default(), |sum, one| {
                let mut one = one.clone();
                let known = before.into_iter().flat_map(|before| before.members.clone());
                one.members.extend(known);
                sum.plus(kept(&one))
            });
            others.plus(after).minus(asked)
        };
        let used = used_of(spec.borrowing(), later);
        let checked = row.spec.quota.check(used, asked, spec.borrowing());
        checked.map_err(|shortage| shortage.of(name))
    }

    /// What counts for something that borrows or does not, without the place that is kept for what
    /// starts. Only what may not borrow is held to what others like it have.
    pub fn used(&self, name: &Name, borrowing: Borrowing, starting: Option<AllocationId>) -> Used {
        used_of(borrowing, |whose| self.held(name, whose, starting))
    }

    /// What is kept for an attempt, or for all of its gang, beside what those of its namespace hold
    /// who end for it.
    pub fn kept_for(&self, id: AllocationId) -> Amounts {
        let Some(job) = self.jobs.get(&id.job) else { return Amounts::default() };
        let of = (job.namespace(), Whose::All);
        self.kept_use(of, None).minus(self.kept_use(of, Some(id)))
    }

    /// What is held, and kept but for what starts.
    fn held(&self, name: &Name, whose: Whose, starting: Option<AllocationId>) -> Amounts {
        let sums = match whose {
            Whose::All => &self.index.usage,
            Whose::Barred => &self.index.barred,
        };
        let live = sums.get(name).copied().unwrap_or_default();
        live.plus(self.kept_use((name, whose), starting))
    }

    fn kept_use(&self, of: (&Name, Whose), but: Option<AllocationId>) -> Amounts {
        let nodes: BTreeSet<NodeId> = self.index.reserved.values().copied().collect();
        let rows = nodes.iter().filter_map(|id| self.nodes.get(id));
        let kept = rows.flat_map(|row| &row.reservations);
        kept.fold(Amounts::default(), |sum, one| sum.plus(self.kept_by(one, of, but)))
    }

    /// What a kept place holds of a namespace's quota beside what those of the namespace hold
    /// who end for it.
    fn kept_by(
        &self,
        one: &ReservationRow,
        (name, whose): (&Name, Whose),
        but: Option<AllocationId>,
    ) -> Amounts {
        let is_of = |id: &AllocationId| {
            let job = self.jobs.get(&id.job).filter(|job| job.namespace() == name);
            job.is_some_and(|job| whose == Whose::All || is_barred(job))
        };
        // All of a gang starts with the first of it.
        let starts = |id: &AllocationId| {
            let same_task = but.is_some_and(|but| (but.job, but.task) == (id.job, id.task));
            but == Some(*id) || (same_task && self.is_gang(id.job, id.task))
        };
        let members = one.members.iter().filter(|(id, _)| is_of(id) && !starts(id));
        let members = members.map(|(_, place)| place.claim.amounts());
        let awaited = one.awaits.iter().filter(|id| is_of(id));
        let awaited = awaited.filter_map(|id| self.allocations.get(id));
        let awaited = awaited.map(|row| row.claim.amounts());
        members
            .fold(Amounts::default(), Amounts::plus)
            .minus(awaited.fold(Amounts::default(), Amounts::plus))
    }

    pub(crate) fn namespace_of(&self, job: JobId) -> Option<&Name> {
        self.jobs.get(&job).map(|row| row.namespace())
    }

    /// Jobs of a namespace that have not ended. Costs a pass over all jobs, for what an
    /// administrator does now and then.
    pub(crate) fn unfinished_jobs(&self, name: &Name) -> usize {
        self.jobs.values().filter(|row| row.namespace() == name && !row.is_ended()).count()
    }

    /// Puts a live attempt in; what it holds is its namespace's use.
    pub(crate) fn insert_allocation(&mut self, row: AllocationRow) {
        let name = self.namespace_of(row.id.job).cloned();
        name.iter().for_each(|name| self.fold_use(name));
        self.count_allocation(&row, Amounts::plus);
        self.allocations.insert(row.id, Arc::new(row));
        name.iter().for_each(|name| self.note_idle(name));
    }

    /// Changes a live attempt, which goes on holding what it holds.
    pub(crate) fn edit_allocation(
        &mut self,
        id: AllocationId,
        change: impl FnOnce(&mut AllocationRow),
    ) {
        let Some(before) = self.allocations.get(&id).cloned() else { return };
        self.allocations.edit(&id, change);
        let Some(after) = self.allocations.get(&id).cloned() else { return };
        let Some(name) = self.namespace_of(id.job).cloned() else { return };
        change_sum(&mut self.index.ending, &name, |sum| {
            sum.minus(ending(&before)).plus(ending(&after))
        });
    }

    /// Takes an attempt that is no longer live out.
    pub(crate) fn remove_allocation(&mut self, id: AllocationId) -> Option<Arc<AllocationRow>> {
        let row = self.allocations.remove(&id)?;
        let name = self.namespace_of(id.job).cloned();
        name.iter().for_each(|name| self.fold_use(name));
        self.count_allocation(&row, Amounts::minus);
        name.iter().for_each(|name| self.note_idle(name));
        Some(row)
    }

    /// Moves every sum that an attempt is part of.
    fn count_allocation(&mut self, row: &AllocationRow, change: fn(Amounts, Amounts) -> Amounts) {
        let Some(job) = self.jobs.get(&row.id.job) else { return };
        let (name, is_barred) = (job.namespace().clone(), is_barred(job));
        let held = row.claim.amounts();
        change_sum(&mut self.index.usage, &name, |sum| change(sum, held));
        change_sum(&mut self.index.ending, &name, |sum| change(sum, ending(row)));
        if is_barred {
            change_sum(&mut self.index.barred, &name, |sum| change(sum, held));
        }
    }

    /// A job has another version, which may be ended for others or not, as the one before was.
    pub(crate) fn count_barred(&mut self, before: &JobRow, after: &JobRow) {
        let (was, is) = (is_barred(before), is_barred(after));
        if was == is {
            return;
        }
        let live = self.allocations_of(after.id);
        let held = live.fold(Amounts::default(), |sum, row| sum.plus(row.claim.amounts()));
        change_sum(&mut self.index.barred, after.namespace(), |sum| match is {
            true => sum.plus(held),
            false => sum.minus(held),
        });
    }

    /// A job came, went, or became another.
    pub(crate) fn count_queued(&mut self, before: Option<&JobRow>, after: Option<&JobRow>) {
        let one = Amounts::default().with(Resource::QueuedJobs, 1);
        let (was, is) = (before.filter(|row| is_queued(row)), after.filter(|row| is_queued(row)));
        match (was, is) {
            (Some(was), None) => {
                change_sum(&mut self.index.usage, was.namespace(), |used| used.minus(one));
            }
            (None, Some(is)) => {
                change_sum(&mut self.index.usage, is.namespace(), |used| used.plus(one));
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    /// Sets what is set for a namespace; that something is guaranteed follows.
    pub(crate) fn put_namespace(&mut self, row: Arc<NamespaceRow>) {
        let name = row.spec.name.clone();
        match row.spec.quota.guaranteed.is_empty() {
            true => self.index.guaranteed.remove(&name),
            false => self.index.guaranteed.insert(name.clone()),
        };
        self.namespaces.insert(name, row);
    }

    pub(crate) fn remove_namespace(&mut self, name: &Name) {
        self.index.guaranteed.remove(name);
        self.namespaces.remove(name);
    }

    /// Counts everything anew, into an empty index.
    pub(crate) fn rebuild_usage(&mut self) {
        let jobs: Vec<_> = self.jobs.values().cloned().collect();
        jobs.iter().for_each(|row| self.count_queued(None, Some(row)));
        let rows: Vec<_> = self.allocations.values().cloned().collect();
        rows.iter().for_each(|row| self.count_allocation(row, Amounts::plus));
        let rows = self.namespaces.values();
        let sure = rows.filter(|row| !row.spec.quota.guaranteed.is_empty());
        self.index.guaranteed = sure.map(|row| row.spec.name.clone()).collect();
        self.rebuild_idle();
    }
}

/// Whose holdings are summed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    All,
    Barred,
}

/// What of each sum something is held to.
fn used_of(borrowing: Borrowing, sum: impl Fn(Whose) -> Amounts) -> Used {
    let barred = match borrowing {
        Borrowing::Allowed => Amounts::default(),
        Borrowing::Barred => sum(Whose::Barred),
    };
    Used { all: sum(Whose::All), barred }
}

fn is_barred(job: &JobRow) -> bool {
    job.spec.borrowing() == Borrowing::Barred
}

/// What an allocation holds that ends already.
fn ending(row: &AllocationRow) -> Amounts {
    row.state.stop_intent().map_or(Amounts::default(), |_| row.claim.amounts())
}

fn change_sum(
    sums: &mut OrdMap<Name, Amounts>,
    name: &Name,
    change: impl FnOnce(Amounts) -> Amounts,
) {
    let before = sums.get(name).copied().unwrap_or_default();
    let after = change(before);
    // What holds nothing is not remembered: names cost nothing to make up.
    if after.is_zero() {
        sums.remove(name);
    } else if after != before {
        sums.insert(name.clone(), after);
    }
}

fn is_queued(row: &JobRow) -> bool {
    row.state() == JobState::Queued
}
