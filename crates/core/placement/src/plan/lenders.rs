//! What namespaces can do without where a gang's places are on many nodes: each node by itself
//! takes no more than is lent, and all together might.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{AllocationId, Amounts, Name};

use super::gang_places::{Plan, Search};
use super::{Run, Visit};
use crate::victims::{Candidate, Price, can_be_spared};

/// What namespaces are sure of unless others have it back: who ends together, by one of them.
type Units<'a> = BTreeMap<AllocationId, (Price, &'a Name, Amounts)>;

/// How a loan is divided that is not enough for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cut {
    /// Who loses least ends.
    Cheapest,
    /// All who end on a node, of the nodes that lose least: it may be needed whole.
    WholeNodes,
}

impl Cut {
    pub const ALL: [Cut; 2] = [Cut::Cheapest, Cut::WholeNodes];
}

impl<'a> Run<'_, 'a> {
    /// Whether the namespaces of all who would end can do without them.
    pub(super) fn can_all_be_spared(&self, search: &Search<'a>, plan: &Plan<'a>) -> bool {
        let victims = plan.parts.iter().flat_map(|part| &part.victims);
        let ending: BTreeSet<AllocationId> = victims.map(|id| self.view.unit_of(*id)).collect();
        let units = self.units_of(search);
        let units = units.iter().filter(|(unit, _)| ending.contains(unit));
        can_be_spared(self.rooms.known_lenders(), units.map(|(_, (_, name, held))| (*name, *held)))
    }

    /// Leaves out whose end would be more than its namespace can do without, if all that come
    /// before it end.
    pub(super) fn leave_out(&self, visit: Visit<'a>, search: &mut Search<'a>, cut: Cut) {
        let units = self.units_of(search);
        let mut groups: Vec<(Price, Vec<AllocationId>)> = match cut {
            Cut::Cheapest => units.iter().map(|(id, (price, ..))| (*price, vec![*id])).collect(),
            Cut::WholeNodes => self.units_by_node(search, &units),
        };
        groups.sort_unstable();
        let mut ending: BTreeSet<AllocationId> = BTreeSet::new();
        for (_, group) in groups {
            let mut more = ending.clone();
            more.extend(group);
            let held = more.iter().map(|id| (units[id].1, units[id].2));
            if can_be_spared(self.rooms.known_lenders(), held) {
                ending = more;
            }
        }
        let stays: BTreeSet<AllocationId> =
            units.keys().filter(|id| !ending.contains(id)).copied().collect();
        let suits = self.suits(visit.task);
        let is_out =
            |one: &Candidate<'_>| one.ids.iter().any(|id| stays.contains(&self.view.unit_of(*id)));
        search.wide.retain(|_, parts| !parts.values().any(is_out));
        for (position, site) in &mut search.sites {
            if site.candidates.iter().any(is_out) {
                let mut candidates = std::mem::take(&mut site.candidates);
                candidates.retain(|one| !is_out(one));
                *site = self.site(visit, (*position, &suits), Vec::new(), candidates);
            }
        }
    }

    /// Those of each node together, with what all of them lose.
    fn units_by_node(
        &self,
        search: &Search<'a>,
        units: &Units<'a>,
    ) -> Vec<(Price, Vec<AllocationId>)> {
        let of_sites = search
            .sites
            .iter()
            .flat_map(|(position, site)| site.candidates.iter().map(|one| (*position, one)));
        let parts = search.wide.values().flatten().map(|(position, one)| (*position, one));
        let mut nodes: BTreeMap<usize, BTreeSet<AllocationId>> = BTreeMap::new();
        for (position, one) in of_sites.chain(parts).filter(|(_, one)| one.lent.is_some()) {
            let unit = one.ids.first().map(|id| self.view.unit_of(*id));
            nodes.entry(position).or_default().extend(unit);
        }
        let all = |ids: BTreeSet<AllocationId>| {
            let price = ids.iter().fold(Price::NOTHING, |sum, id| sum.and(units[id].0));
            (price, ids.into_iter().collect())
        };
        nodes.into_values().map(all).collect()
    }

    fn units_of(&self, search: &Search<'a>) -> Units<'a> {
        let on_sites = search.sites.values().flat_map(|site| &site.candidates);
        let all = on_sites.chain(search.wide.values().flat_map(BTreeMap::values));
        let unit = |one: &Candidate<'a>| {
            let (name, held) = one.lent?;
            Some((self.view.unit_of(*one.ids.first()?), (one.price, name, held)))
        };
        all.filter_map(unit).collect()
    }
}
