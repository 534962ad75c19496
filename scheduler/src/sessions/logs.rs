//! Log requests under way: an agent answers one on a stream of its own, and
//! its chunks go straight to whoever asked.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_model::NodeId;
use berth_proto::v1;
use tokio::sync::mpsc;

/// Chunks between an agent's stream and a reader's: a slow reader holds up its
/// own stream and nothing else.
const CHUNKS_MAX: usize = 16;

/// Requests under way, by id. The lock guards look-ups only.
pub struct LogRequests(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    last: u64,
    readers: BTreeMap<String, (NodeId, mpsc::Sender<v1::LogPush>)>,
}

impl LogRequests {
    pub fn new() -> LogRequests {
        LogRequests(Mutex::new(Waiting::default()))
    }

    /// Opens a request to a node: its id, and where its chunks will come out.
    pub fn open(&self, node: NodeId) -> (String, mpsc::Receiver<v1::LogPush>) {
        let (chunks, reader) = mpsc::channel(CHUNKS_MAX);
        let mut waiting = self.lock();
        waiting.last += 1;
        let id = format!("log-{}", waiting.last);
        waiting.readers.insert(id.clone(), (node, chunks));
        (id, reader)
    }

    /// Whom a request went to, and where its chunks go, while somebody reads it.
    pub fn reader(&self, id: &str) -> Option<(NodeId, mpsc::Sender<v1::LogPush>)> {
        self.lock().readers.get(id).filter(|(_, reader)| !reader.is_closed()).cloned()
    }

    pub fn close(&self, id: &str) {
        self.lock().readers.remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
