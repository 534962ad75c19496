//! The environment that a process was started with, as `/proc` shows it.
//!
//! For a moment of every exec there is none to be seen: the old memory is gone and the new one not laid out yet. Who
//! took that for "no mark" would leave the process alive and its GPU to somebody else, so it is read again until it
//! tells. Seen on Linux 6.18: of a process that execs without end the second look already showed nothing.

use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::stat::{Environment, pids};

/// How much of an environment is searched in bytes, as much as execve(2) allows for one string times 16.
const ENVIRONMENT_BYTES_MAX: u64 = 2 << 20;
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
    let mut environment = Vec::new();
    for pid in pids()?.filter(|pid| *pid != own_pid) {
        match read_settled(pid, deadline, &mut environment) {
            Ok(true) => look(pid, &environment),
            Ok(false) => undecided.push(pid),
            // Ended, or another user's.
            Err(_) => {}
        }
    }
    Ok(undecided)
}

/// `Ok(false)`: in the middle of an exec until the deadline.
fn read_settled(pid: u32, deadline: Instant, environment: &mut Vec<u8>) -> io::Result<bool> {
    let mut shown = Environment::Nothing;
    loop {
        environment.clear();
        File::open(format!("/proc/{pid}/environ"))?
            .take(ENVIRONMENT_BYTES_MAX)
            .read_to_end(environment)?;
        if !environment.is_empty() {
            return Ok(true);
        }
        let seen_before = std::mem::replace(&mut shown, Environment::of(pid)?);
        match shown {
            Environment::Nothing => return Ok(true),
            // Twice at one place and not to be read: the process hides it. Once: an exec came between the two reads,
            // and each exec lays it out elsewhere.
            Environment::At(_) if shown == seen_before => return Ok(true),
            Environment::At(_) => {}
            Environment::NotYet if Instant::now() >= deadline => return Ok(false),
            Environment::NotYet => std::thread::sleep(PAUSE),
        }
    }
}
