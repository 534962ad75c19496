//! What namespaces are sure of and what is lent to them, and by what right something has others
//! end. What ends already is on its way back, and is taken from nobody twice.

use std::collections::BTreeMap;

use berth_model::{AllocationId, Amounts, Guarantee, InstanceIndex, JobSpec, Lent, Name};

use crate::rows::{AllocationRow, JobRow};
use crate::state::ClusterState;

/// By what right something may have others end for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Right {
    /// By its priority alone.
    Priority,
    /// Also from other namespaces, whatever their priority: with it its own holds no more than
    /// what is guaranteed to it.
    Guarantee,
    /// Others end for it by themselves, whenever that is: it has waited for long.
    Patience,
}

/// For what others would end.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    pub job: &'a JobRow,
    pub right: Right,
}

impl<'a> Asker<'a> {
    pub fn by_priority(job: &'a JobRow) -> Asker<'a> {
        Asker { job, right: Right::Priority }
    }
}

impl ClusterState {
    /// What is guaranteed to a namespace, if anything is.
    pub fn guarantee(&self, name: &Name) -> Option<&Guarantee> {
        let row = self.namespaces.get(name)?;
        Some(&row.spec.quota.guaranteed).filter(|sure| !sure.is_empty())
    }

    /// Namespaces to which something is guaranteed.
    pub fn guaranteed(&self) -> impl Iterator<Item = &Name> {
        self.index.guaranteed.iter()
    }

    /// Whether anything is guaranteed to anybody.
    pub fn has_guarantees(&self) -> bool {
        !self.index.guaranteed.is_empty()
    }

    /// By what right a namespace asks for this. What is kept for `own` already makes way and does
    /// not count. Costs O(reservations) where something is guaranteed to it.
    pub fn right_to(&self, name: &Name, asked: Amounts, own: Option<AllocationId>) -> Right {
        let others = |own| self.quota_use(name).minus(self.kept_for(own));
        let used = || own.map_or_else(|| self.quota_use(name), others);
        match self.guarantee(name) {
            Some(sure) if sure.covers(used(), asked) => Right::Guarantee,
            Some(_) | None => Right::Priority,
        }
    }

    /// What is lent to a namespace, of what does not end already; `None` where nothing is
    /// guaranteed to it: then nothing that it holds is sure.
    pub fn lent_to(&self, name: &Name) -> Option<Lent> {
        let ending = self.index.ending.get(name).copied().unwrap_or_default();
        Some(self.guarantee(name)?.lends(self.namespace_use(name).minus(ending)))
    }

    /// Whether all of these may be taken together from their namespaces. What ends already is
    /// nobody's to give, and within a namespace its guarantee is its own affair.
    ///
    /// # Errors
    /// One of them that its namespace is sure of.
    pub fn check_lent<'r>(
        &self,
        spec: &JobSpec,
        victims: impl Iterator<Item = &'r AllocationRow>,
    ) -> Result<(), AllocationId> {
        let mut units: BTreeMap<&Name, BTreeMap<AllocationId, Amounts>> = BTreeMap::new();
        for row in victims.filter(|row| row.state.stop_intent().is_none()) {
            let Some(name) = self.namespace_of(row.id.job) else { continue };
            if *name != spec.namespace && self.guarantee(name).is_some() {
                let unit = (self.unit_of(row.id), self.held_by_unit(row));
                units.entry(name).or_default().extend([unit]);
            }
        }
        for (name, units) in units {
            let Some(lent) = self.lent_to(name) else { continue };
            let held: Vec<Amounts> = units.values().copied().collect();
            if !lent.gives_all(Amounts::default(), &held) {
                return Err(units.keys().next().copied().unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Who ends with an allocation has the same unit: of a gang all.
    pub fn unit_of(&self, id: AllocationId) -> AllocationId {
        match self.is_gang(id.job, id.task) {
            true => AllocationId::first_of(id.job, id.task, InstanceIndex(0)),
            false => id,
        }
    }

    /// What those hold together, of a gang what does not end already.
    fn held_by_unit(&self, row: &AllocationRow) -> Amounts {
        if !self.is_gang(row.id.job, row.id.task) {
            return row.claim.amounts();
        }
        let live = self.allocations_of_task(row.id.job, row.id.task);
        let goes_on = live.filter(|row| row.state.stop_intent().is_none());
        goes_on.fold(Amounts::default(), |sum, row| sum.plus(row.claim.amounts()))
    }
}
