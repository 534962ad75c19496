//! The environment that a process was started with, as `/proc` shows it.
//!
//! For a moment of every exec there is none to be seen: the old memory is gone and the new one not laid out yet. Who
//! took that for "no mark" would leave the process alive and its GPU to somebody else, so it is read again until it
//! tells. Seen on Linux 6.18: of a process that execs without end the second look already showed nothing.
//!
//! One look is one read(2). The file shows the memory that was there when it was opened: of an exec between two reads
//! of it the second would be empty, as at the end, and the first a piece without the mark.

use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::stat::{Environment, pids};

/// How much of an environment is searched in bytes, as much as execve(2) allows for one string times 16.
const ENVIRONMENT_BYTES_MAX: usize = 2 << 20;
/// How much of one is read at first in bytes: more than nearly all have.
const ENVIRONMENT_BYTES_USUAL: usize = 64 << 10;
/// How long one scan waits, all in all, for processes in the middle of an exec. One takes well under a millisecond
/// unless the disk that its program is on hangs.
const PATIENCE: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_micros(100);

/// Calls `look` with the pid and the environment of every process but this one, and returns the pids of those that
/// were in the middle of an exec for as long as a scan waits: nobody knows whose they are. Processes that end
/// meanwhile and, unless this is root, those of other users are left out.
///
/// # Errors
/// Only if `/proc` cannot be listed.
pub fn scan_environments(mut look: impl FnMut(u32, &[u8])) -> io::Result<Vec<u32>> {
    let own_pid = std::process::id();
    let deadline = Instant::now() + PATIENCE;
    let mut undecided = Vec::new();
    let mut buffer = vec![0; ENVIRONMENT_BYTES_USUAL];
    for pid in pids()?.filter(|pid| *pid != own_pid) {
        match read_settled(pid, deadline, &mut buffer) {
            Ok(Some(environment)) => look(pid, environment),
            Ok(None) => undecided.push(pid),
            // Ended, or another user's.
            Err(_) => {}
        }
    }
    Ok(undecided)
}

/// `None`: in the middle of an exec until the deadline.
fn read_settled(pid: u32, deadline: Instant, buffer: &mut Vec<u8>) -> io::Result<Option<&[u8]>> {
    let mut shown = Environment::Nothing;
    loop {
        let length = read_at_once(pid, buffer)?;
        if length > 0 {
            return Ok(Some(&buffer[..length]));
        }
        let seen_before = std::mem::replace(&mut shown, Environment::of(pid)?);
        match shown {
            Environment::Nothing => return Ok(Some(&[])),
            // Twice at one place and not to be read: the process hides it. Once: an exec came between the two reads,
            // and each exec lays it out elsewhere.
            Environment::At(_) if shown == seen_before => return Ok(Some(&[])),
            Environment::At(_) => {}
            Environment::NotYet if Instant::now() >= deadline => return Ok(None),
            Environment::NotYet => std::thread::sleep(PAUSE),
        }
    }
}

/// The length of what one read of the environment put into `buffer`, which grows until it holds all of it, or as much
/// as is searched.
fn read_at_once(pid: u32, buffer: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        let length = File::open(format!("/proc/{pid}/environ"))?.read(buffer)?;
        if length < buffer.len() || length >= ENVIRONMENT_BYTES_MAX {
            return Ok(length);
        }
        buffer.resize(ENVIRONMENT_BYTES_MAX.min(2 * length), 0);
    }
}
