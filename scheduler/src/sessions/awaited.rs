//! Requests under way: an agent answers one on a stream of its own, and what
//! comes there goes straight to whoever asked.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_model::NodeId;

/// Requests under way, by id, each with the node that it went to and the way to whoever asked.
/// The lock guards look-ups only.
pub struct Awaited<T>(Mutex<BTreeMap<String, (NodeId, T)>>);

impl<T> Awaited<T> {
    pub fn new() -> Awaited<T> {
        Awaited(Mutex::default())
    }

    /// Notes a request to a node, and returns its id.
    pub fn open(&self, node: NodeId, asker: T) -> String {
        // Drawn: an agent may dial another scheduler than the one that asked, or the next to run
        // there, and is not to find somebody else's request under its id.
        let half = || getrandom::u64().unwrap_or_default();
        let id = format!("{:016x}{:016x}", half(), half());
        self.lock().insert(id.clone(), (node, asker));
        id
    }

    /// Whom a request went to, and the way to whoever asked; nobody else is told it again.
    pub fn take(&self, id: &str) -> Option<(NodeId, T)> {
        self.lock().remove(id)
    }

    /// Whom a request that is still open went to.
    pub fn node(&self, id: &str) -> Option<NodeId> {
        self.lock().get(id).map(|(node, _)| *node)
    }

    pub fn close(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (NodeId, T)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Awaited<T> {
    /// Whom a request went to, and the way to whoever asked.
    pub fn get(&self, id: &str) -> Option<(NodeId, T)> {
        self.lock().get(id).cloned()
    }
}
