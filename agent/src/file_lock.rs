//! Files that one process at a time may hold.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

const RETRY: Duration = Duration::from_millis(20);

/// Holds a file for as long as it is open, waiting for whoever does for some time. Blocks.
///
/// # Errors
/// `WOULDBLOCK`: somebody else still holds it. Otherwise the system's.
pub fn hold(file: &File, patience: Duration) -> Result<(), Errno> {
    let deadline = Instant::now() + patience;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(RETRY),
            outcome => return outcome,
        }
    }
}
