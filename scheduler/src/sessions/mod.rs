//! The agents that are connected to this scheduler while it leads: who they
//! are, how to wake their sessions, and what is asked of them beside desired state.

pub mod awaited;
pub mod desired;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_model::NodeId;
use berth_proto::v1;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::rpc::exec::AgentEnds;
use awaited::Awaited;

/// A connected agent. Cloned freely; the session's task is the only one that
/// sends desired state.
#[derive(Clone)]
pub struct Session {
    pub node: NodeId,
    /// Something about the node's desired state has changed.
    pub wake: Arc<Notify>,
    /// Orders beside desired state, such as log requests.
    pub orders: mpsc::Sender<v1::SchedulerMessage>,
    /// Cancelled when the session ends, or a newer one of the same agent takes
    /// over.
    pub over: CancellationToken,
}

/// The registry. The lock guards look-ups only.
pub struct Sessions {
    by_node: Mutex<BTreeMap<NodeId, Session>>,
    /// Notified when one comes in.
    came: Notify,
    /// Requests for logs and files.
    pub logs: Awaited<mpsc::Sender<v1::LogPush>>,
    pub execs: Awaited<AgentEnds>,
}

impl Sessions {
    pub fn new() -> Sessions {
        Sessions {
            by_node: Mutex::new(BTreeMap::new()),
            came: Notify::new(),
            logs: Awaited::new(),
            execs: Awaited::new(),
        }
    }

    /// Takes a session in; an older one of the same node ends.
    pub fn add(&self, session: Session) {
        if let Some(old) = self.lock().insert(session.node, session) {
            old.over.cancel();
        }
        self.came.notify_waiters();
    }

    /// Until a session comes in, from the moment of this call.
    pub fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.came.notified()
    }

    /// Takes a session out, unless a newer one has its place.
    pub fn remove(&self, session: &Session) {
        let mut sessions = self.lock();
        let same =
            sessions.get(&session.node).is_some_and(|held| Arc::ptr_eq(&held.wake, &session.wake));
        if same {
            sessions.remove(&session.node);
        }
    }

    pub fn get(&self, node: NodeId) -> Option<Session> {
        self.lock().get(&node).cloned()
    }

    pub fn wake(&self, node: NodeId) {
        if let Some(session) = self.lock().get(&node) {
            session.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Session>> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
