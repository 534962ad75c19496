//! Finding one's shims again after an agent's restart.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{SOCKET_FILE, ShimError, ShimHandle};

/// A directory with a shim's socket, and what came of connecting to it.
#[derive(Debug)]
pub struct FoundShim {
    /// The shim's directory.
    pub dir: PathBuf,
    /// A greeted connection; [`ShimError::Stale`] if the shim was killed; [`ShimError::TimedOut`] if it hangs.
    pub shim: Result<ShimHandle, ShimError>,
}

/// Connects to every shim whose directory is a child of `root`, in the order of names. All are greeted before any
/// answer is awaited, so hanging ones cost one `timeout` together, not one each.
///
/// # Errors
/// Only if `root` cannot be listed.
pub fn scan(root: &Path, timeout: Duration) -> io::Result<Vec<FoundShim>> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(root)? {
        let dir = entry?.path();
        if dir.join(SOCKET_FILE).symlink_metadata().is_ok() {
            dirs.push(dir);
        }
    }
    dirs.sort();
    let greeted: Vec<_> = dirs.into_iter().map(|dir| (greet(&dir), dir)).collect();
    let deadline = Instant::now() + timeout;
    let finish = |(greeted, dir): (Result<(ShimHandle, u64), ShimError>, PathBuf)| {
        let shim =
            greeted.and_then(|(mut shim, id)| shim.receive_hello(id, deadline).map(|()| shim));
        FoundShim { dir, shim }
    };
    Ok(greeted.into_iter().map(finish).collect())
}

/// Removes the socket of a shim that was killed. Refuses while anybody listens there.
///
/// # Errors
/// `AddrInUse` if a shim answers; otherwise those of unlink(2).
pub fn remove_stale_socket(dir: &Path) -> io::Result<()> {
    match ShimHandle::open(dir) {
        Err(ShimError::Absent { .. }) => Ok(()),
        Err(ShimError::Stale { .. }) => fs::remove_file(dir.join(SOCKET_FILE)),
        Ok(_) | Err(_) => Err(io::Error::from(io::ErrorKind::AddrInUse)),
    }
}

fn greet(dir: &Path) -> Result<(ShimHandle, u64), ShimError> {
    let mut shim = ShimHandle::open(dir)?;
    let id = shim.send_hello()?;
    Ok((shim, id))
}
