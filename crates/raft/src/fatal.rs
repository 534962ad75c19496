//! The one place where "this node cannot go on" is noted. The first reason
//! stays; nothing here ends the process, its owner does.

use std::sync::{Arc, Mutex, PoisonError};

use futures::channel::oneshot;

#[derive(Default)]
struct Inner {
    reason: Option<FatalReason>,
    waiting: Vec<oneshot::Sender<FatalReason>>,
}

/// Why a node stopped; the process should exit non-zero.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FatalReason {
    /// The log or a snapshot could not be written or read.
    #[error("storage failed: {0}")]
    Storage(String),
    /// A flush did not return in time.
    #[error("a flush has taken {0} ms; the disk hangs")]
    FlushHangs(u64),
    /// Free space fell below the hard limit.
    #[error("disk is full: {free_bytes} bytes free, hard limit {limit_bytes}")]
    DiskFull { free_bytes: u64, limit_bytes: u64 },
    /// A committed entry cannot be decoded by this build.
    #[error("entry {index}: {error}")]
    Entry { index: u64, error: crate::app::EntryError },
    /// The consensus core ended by itself.
    #[error("consensus core stopped: {0}")]
    Core(String),
    /// `shutdown` was called.
    #[error("the node was shut down")]
    Shutdown,
}

/// Shared by everything that can fail for good.
#[derive(Clone, Default)]
pub struct FatalCell(Arc<Mutex<Inner>>);

impl FatalCell {
    /// Notes a reason; a later one is dropped.
    pub fn set(&self, reason: FatalReason) {
        let waiting = {
            let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if inner.reason.is_some() {
                return;
            }
            if reason != FatalReason::Shutdown {
                tracing::error!(reason = %reason, "consensus node stops");
            }
            inner.reason = Some(reason.clone());
            std::mem::take(&mut inner.waiting)
        };
        for waiter in waiting {
            // A waiter that went away no longer needs the reason.
            let _gone = waiter.send(reason.clone());
        }
    }

    /// The reason, if the node has stopped.
    #[must_use]
    pub fn get(&self) -> Option<FatalReason> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.reason.clone()
    }

    /// Resolves when the node has stopped.
    pub async fn wait(&self) -> FatalReason {
        let receiver = {
            let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(reason) = &inner.reason {
                return reason.clone();
            }
            let (sender, receiver) = oneshot::channel();
            inner.waiting.push(sender);
            receiver
        };
        receiver
            .await
            .expect("the cell outlives the call and keeps its senders until a reason is set")
    }
}
