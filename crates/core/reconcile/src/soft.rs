//! What the leader knows without the log: when it last heard from each agent.

use std::collections::BTreeMap;

use berth_model::{NodeId, StateMs};

use crate::callers::Gateways;

/// Soft state of one term as leader. Starts empty at each election: a new
/// leader expires nobody that it has not itself found silent for the whole
/// time.
#[derive(Clone, Debug, Default)]
pub struct SoftState {
    heard: BTreeMap<NodeId, Heard>,
    /// When this leader's watch began, or began again after a pause of its own.
    watching_since: StateMs,
    pub gateways: Gateways,
}

/// The last sign of life of an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heard {
    pub at: StateMs,
}

impl SoftState {
    /// A watch that begins at `now`.
    #[must_use]
    pub fn new(now: StateMs) -> SoftState {
        SoftState { watching_since: now, ..SoftState::default() }
    }

    /// An agent has been heard.
    pub fn hear(&mut self, node: NodeId, now: StateMs) {
        self.heard.insert(node, Heard { at: now });
    }

    /// The leader itself was not running for a while: every window begins
    /// again, since silence that nobody listened to proves nothing.
    pub fn restart_windows(&mut self, now: StateMs) {
        self.watching_since = now;
    }

    /// When this leader's watch began, or began again.
    pub(crate) fn watching_since(&self) -> StateMs {
        self.watching_since
    }

    pub fn forget(&mut self, node: NodeId) {
        self.heard.remove(&node);
    }

    /// How long the node has been silent while somebody listened.
    pub fn silent_since(&self, node: NodeId) -> StateMs {
        let heard = self.heard.get(&node).map_or(self.watching_since, |heard| heard.at);
        heard.max(self.watching_since)
    }

    /// When the node was last heard by this leader.
    pub fn last_heard(&self, node: NodeId) -> Option<StateMs> {
        self.heard.get(&node).map(|heard| heard.at)
    }
}
