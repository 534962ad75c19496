//! Requests under way: an agent answers one on a stream of its own, and what
//! comes there goes straight to whoever asked.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_model::NodeId;

/// Requests under way, by id, each with the node that it went to and the way to whoever asked.
/// The lock guards look-ups only.
pub struct Awaited<T> {
    kind: &'static str,
    waiting: Mutex<Waiting<T>>,
}

struct Waiting<T> {
    last: u64,
    askers: BTreeMap<String, (NodeId, T)>,
}

impl<T> Awaited<T> {
    /// Ids begin with the kind.
    pub fn of(kind: &'static str) -> Awaited<T> {
        Awaited { kind, waiting: Mutex::new(Waiting { last: 0, askers: BTreeMap::new() }) }
    }

    /// Notes a request to a node, and returns its id.
    pub fn open(&self, node: NodeId, asker: T) -> String {
        let mut waiting = self.lock();
        waiting.last += 1;
        let id = format!("{}-{}", self.kind, waiting.last);
        waiting.askers.insert(id.clone(), (node, asker));
        id
    }

    /// Whom a request went to, and the way to whoever asked; nobody else is told it again.
    pub fn take(&self, id: &str) -> Option<(NodeId, T)> {
        self.lock().askers.remove(id)
    }

    /// Whom a request that is still open went to.
    pub fn node(&self, id: &str) -> Option<NodeId> {
        self.lock().askers.get(id).map(|(node, _)| *node)
    }

    pub fn close(&self, id: &str) {
        self.lock().askers.remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Awaited<T> {
    /// Whom a request went to, and the way to whoever asked.
    pub fn get(&self, id: &str) -> Option<(NodeId, T)> {
        self.lock().askers.get(id).cloned()
    }
}
