//! Ends every process of an allocation whose shim is gone.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use super::identity::{open_if_started_at, signal_all};
use super::mark::{Mark, Marked, marked};

/// Why something of an allocation is still there.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// SIGKILL was sent and these processes are still there, perhaps in an uninterruptible sleep. Devices they hold
    /// must stay blocked.
    #[error("processes {pids:?} of allocation {allocation_id} do not end")]
    Unkillable {
        /// The allocation.
        allocation_id: String,
        /// Who is left.
        pids: Vec<u32>,
    },
    /// `/proc` could not be read or did not tell, or a signal was not permitted.
    #[error("cannot end the processes of allocation {allocation_id}")]
    Io {
        /// The allocation.
        allocation_id: String,
        /// The system's reason.
        source: io::Error,
    },
}

/// Sends SIGKILL to everything that carries `mark` until two scans in a row find nothing, and returns how many
/// processes were signalled. Blocks for `patience` at most, plus one scan.
///
/// # Errors
/// See [`KillError`].
pub fn kill_all(mark: &Mark, patience: Duration) -> Result<usize, KillError> {
    let deadline = Instant::now() + patience;
    let failed = |source| KillError::Io { allocation_id: mark.allocation_id.clone(), source };
    let mut signalled_count = 0;
    let mut empty_scans = 0;
    loop {
        let Marked { found, undecided } = marked(mark).map_err(failed)?;
        if let ([], [pid, ..]) = (&*found, &*undecided) {
            if Instant::now() >= deadline {
                let what = format!("process {pid} is in the middle of an exec: whose is it?");
                return Err(failed(io::Error::new(io::ErrorKind::TimedOut, what)));
            }
            empty_scans = 0;
            continue;
        }
        if found.is_empty() {
            // The second scan sees a child forked by a process that ended during the first.
            empty_scans += 1;
            if empty_scans == 2 {
                return Ok(signalled_count);
            }
            continue;
        }
        empty_scans = 0;
        signalled_count += signal_all(&found, Signal::KILL).map_err(failed)?;
        for stat in &found {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                let pids = found.iter().map(|stat| stat.pid).collect();
                return Err(KillError::Unkillable {
                    allocation_id: mark.allocation_id.clone(),
                    pids,
                });
            }
            wait_for_end(stat.pid, stat.start_ticks, remaining).map_err(failed)?;
        }
    }
}

fn wait_for_end(pid: u32, start_ticks: u64, timeout: Duration) -> io::Result<()> {
    let Some(descriptor) = open_if_started_at(pid, start_ticks)? else {
        return Ok(());
    };
    let timeout = Timespec::try_from(timeout).ok();
    match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
