//! What namespaces held lately, for a fair share over time. It moves where their holdings do, and
//! is the one thing about their use that other rows do not imply.

use berth_model::{Amounts, AverageUse, Name, NamespaceSpec, NodeState, StateMs, USE_HALF_LIFE};

use crate::state::ClusterState;

/// After so many half-lives nothing is left of a use that anybody could notice.
const FORGOTTEN_AFTER: u64 = 20;
/// Namespaces whose use is remembered although they hold nothing; names cost nothing to make up.
pub const IDLE_REMEMBERED_MAX: usize = 10_000;

impl ClusterState {
    /// What a namespace held on average until now, a use a half-life ago counted half.
    pub fn average_use(&self, name: &Name) -> AverageUse {
        let now = self.cluster.state_ms;
        let row = self.averages.get(name).map(|row| **row);
        let row = row.unwrap_or(AverageUse { at: now, ..AverageUse::default() });
        row.after(self.namespace_use(name), now)
    }

    /// What the nodes that are there have. Costs O(nodes).
    pub fn capacity(&self) -> Amounts {
        let ready = self.nodes.values().filter(|row| row.state == NodeState::Ready);
        ready.fold(Amounts::default(), |sum, row| sum.plus(row.spec.amounts()))
    }

    /// The weight of a namespace beside those of others.
    pub fn weight(&self, name: &Name) -> u32 {
        let row = self.namespaces.get(name);
        row.map_or(NamespaceSpec::WEIGHT_DEFAULT, |row| row.spec.weight).max(1)
    }

    /// Whether more than one namespace holds or queues something.
    pub fn has_rivals(&self) -> bool {
        self.index.usage.len() > 1
    }

    /// Takes what a namespace has held until now into its average, before that changes.
    pub(crate) fn fold_use(&mut self, name: &Name) {
        let row = self.average_use(name);
        if let Some(before) = self.averages.insert(name.clone(), row.into()) {
            self.index.idle.remove(&(before.at, name.clone()));
        }
        self.forget_idle(self.cluster.state_ms);
    }

    /// After its holdings have changed: whether its average is all that is known of it.
    pub(crate) fn note_idle(&mut self, name: &Name) {
        let Some(row) = self.averages.get(name) else { return };
        let key = (row.at, name.clone());
        match self.namespace_use(name).holds_nothing() {
            true => self.index.idle.insert(key),
            false => self.index.idle.remove(&key),
        };
    }

    fn forget_idle(&mut self, now: StateMs) {
        let old = USE_HALF_LIFE.0.saturating_mul(FORGOTTEN_AFTER);
        while let Some((at, name)) = self.index.idle.get_min().cloned() {
            let is_old = now.since(at).0 > old;
            if !is_old && self.index.idle.len() <= IDLE_REMEMBERED_MAX {
                return;
            }
            self.averages.remove(&name);
            self.index.idle.remove(&(at, name));
        }
    }

    /// Which of them hold nothing, into an empty index.
    pub(crate) fn rebuild_idle(&mut self) {
        let idle =
            self.averages.iter().filter(|(name, _)| self.namespace_use(name).holds_nothing());
        self.index.idle = idle.map(|(name, row)| (row.at, name.clone())).collect();
    }
}
