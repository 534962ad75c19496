//! The agent's side of `shim/1`. It refuses to talk to a shim of another user or another major version.

mod handle;
mod scan;
mod spawn;

use std::io;
use std::path::PathBuf;

use crate::protocol::{FrameError, RefusalCode};

pub use handle::{Event, ShimHandle};
pub use scan::{FoundShim, remove_stale_socket, scan};

/// Name of the socket in a shim's directory.
pub(crate) const SOCKET_FILE: &str = "shim.sock";

/// Why a shim did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// There is no socket in the directory: no shim was started there, or it quit.
    #[error("no shim in {}", dir.display())]
    Absent {
        /// The shim's directory.
        dir: PathBuf,
    },
    /// A socket is left but nobody listens: the shim was killed. Its worker may still run, see
    /// [`crate::processes_of`].
    #[error("shim in {} is gone", dir.display())]
    Stale {
        /// The shim's directory.
        dir: PathBuf,
    },
    /// The process behind the socket runs as neither this user nor root.
    #[error("socket in {} belongs to user {uid}", dir.display())]
    Foreign {
        /// The shim's directory.
        dir: PathBuf,
        /// Whose process it is.
        uid: u32,
    },
    /// The shim answered with a refusal.
    #[error("shim refused: {message}")]
    Refused {
        /// The kind of refusal.
        code: RefusalCode,
        /// The shim's words.
        message: String,
        /// What it holds; empty when idle.
        held_allocation_id: String,
    },
    /// No answer in time. The request may still have been carried out: ask for the state, or start again with the
    /// same id.
    #[error("shim in {} did not answer in time", dir.display())]
    TimedOut {
        /// The shim's directory.
        dir: PathBuf,
    },
    /// The shim closed the connection. The request may have been carried out.
    #[error("shim in {} closed the connection", dir.display())]
    Closed {
        /// The shim's directory.
        dir: PathBuf,
    },
    /// What came is not `shim/1`.
    #[error("shim speaks no known protocol")]
    Protocol(#[from] FrameError),
    /// A well-formed message that answers something else.
    #[error("shim gave an unexpected answer")]
    UnexpectedAnswer,
    /// The shim's executable did not become ready.
    #[error("cannot start a shim: {message}")]
    NotStarted {
        /// What it said, at most 4 KiB.
        message: String,
    },
    /// The system's reason.
    #[error("cannot reach shim")]
    Io(#[from] io::Error),
}
