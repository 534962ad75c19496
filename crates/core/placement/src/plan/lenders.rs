//! What namespaces can do without where a gang's places are on many nodes: each node by itself
//! takes no more than is lent, and all together might.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{AllocationId, Amounts, InstanceIndex, Name};

use super::gang_places::{Plan, Search};
use super::{Run, Visit};
use crate::victims::{Candidate, Price, can_be_spared};

/// What namespaces are sure of unless others have it back: who ends together, by one of them.
type Units<'a> = BTreeMap<AllocationId, (Price, &'a Name, Amounts)>;

impl<'a> Run<'_, 'a> {
    /// Whether the namespaces of all who would end can do without them.
    pub(super) fn can_all_be_spared(&self, search: &Search<'a>, plan: &Plan<'a>) -> bool {
        let victims = plan.parts.iter().flat_map(|part| &part.victims);
        let ending: BTreeSet<AllocationId> = victims.map(|id| self.unit_of(*id)).collect();
        let units = self.units_of(search);
        let units = units.iter().filter(|(unit, _)| ending.contains(unit));
        can_be_spared(self.rooms.known_lenders(), units.map(|(_, (_, name, held))| (*name, *held)))
    }

    /// Leaves out whose end would be more than its namespace can do without, if all that lose less
    /// end before it.
    pub(super) fn leave_out(&self, visit: Visit<'a>, search: &mut Search<'a>) {
        let units = self.units_of(search);
        let mut order: Vec<(Price, AllocationId)> =
            units.iter().map(|(unit, (price, ..))| (*price, *unit)).collect();
        order.sort_unstable();
        let mut ending: Vec<(&Name, Amounts)> = Vec::new();
        let mut stays = BTreeSet::new();
        for (_, unit) in order {
            let (_, name, held) = units[&unit];
            ending.push((name, held));
            if !can_be_spared(self.rooms.known_lenders(), ending.iter().copied()) {
                ending.pop();
                stays.insert(unit);
            }
        }
        let suits = self.suits(visit.task);
        let is_out =
            |one: &Candidate<'_>| one.ids.iter().any(|id| stays.contains(&self.unit_of(*id)));
        search.wide.retain(|_, parts| !parts.values().any(is_out));
        for (position, site) in &mut search.sites {
            if site.candidates.iter().any(is_out) {
                let mut candidates = std::mem::take(&mut site.candidates);
                candidates.retain(|one| !is_out(one));
                *site = self.site(visit, (*position, &suits), Vec::new(), candidates);
            }
        }
    }

    /// Of a gang all members are one.
    fn unit_of(&self, id: AllocationId) -> AllocationId {
        match self.view.is_gang(id.job, id.task) {
            true => AllocationId::first_of(id.job, id.task, InstanceIndex(0)),
            false => id,
        }
    }

    fn units_of(&self, search: &Search<'a>) -> Units<'a> {
        let on_sites = search.sites.values().flat_map(|site| &site.candidates);
        let all = on_sites.chain(search.wide.values().flat_map(BTreeMap::values));
        let unit = |one: &Candidate<'a>| {
            let (name, held) = one.lent?;
            Some((self.unit_of(*one.ids.first()?), (one.price, name, held)))
        };
        all.filter_map(unit).collect()
    }
}
