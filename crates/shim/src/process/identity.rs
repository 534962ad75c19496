//! A process by what cannot be reused: pid, start time and boot.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::stat::Stat;

/// One process of one boot. A later process with the same pid has another start time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessIdentity {
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks since boot.
    pub start_ticks: u64,
    /// See [`boot_id`].
    pub boot_id: String,
}

impl ProcessIdentity {
    /// The identity of the process that has `pid` now, ended but unreaped ones included.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, start_ticks: Stat::read(pid)?.start_ticks, boot_id: boot_id()? })
    }

    /// A descriptor that becomes readable when the process ends, or `None` if it has ended, was never of this boot, or
    /// its pid belongs to another process now. An ended but unreaped process counts as ended.
    ///
    /// # Errors
    /// Those of `/proc` and pidfd_open(2), such as too many open files.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        if self.boot_id != boot_id()? {
            return Ok(None);
        }
        open_if_started_at(self.pid, self.start_ticks)
    }

    /// Sends `signal` to this process and never to another one. `Ok(false)`: it has ended.
    ///
    /// # Errors
    /// `PermissionDenied`, or those of [`ProcessIdentity::open`].
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match self.open()? {
            Some(descriptor) => send(&descriptor, signal),
            None => Ok(false),
        }
    }
}

/// The kernel's random id of this boot.
///
/// # Errors
/// If `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

/// Signals processes that were just read from `/proc` during this boot, and returns how many got it. All are tried;
/// the error is the first one met.
pub(crate) fn signal_all(processes: &[Stat], signal: Signal) -> io::Result<usize> {
    let mut signalled_count = 0;
    let mut first_error = None;
    for stat in processes {
        let opened = open_if_started_at(stat.pid, stat.start_ticks);
        match opened
            .and_then(|found| found.map_or(Ok(false), |descriptor| send(&descriptor, signal)))
        {
            Ok(reached) => signalled_count += usize::from(reached),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(signalled_count), Err)
}

/// Opens first and compares afterwards: once opened the descriptor cannot come to mean another process, so equal start
/// times prove that it is the right one.
pub(crate) fn open_if_started_at(pid: u32, start_ticks: u64) -> io::Result<Option<OwnedFd>> {
    let Some(raw_pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(None);
    };
    let descriptor = match pidfd_open(raw_pid, PidfdFlags::empty()) {
        Ok(descriptor) => descriptor,
        // EINVAL: the pid is a thread's by now, not a process's.
        Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match Stat::read(pid) {
        Ok(stat) if stat.start_ticks == start_ticks && !stat.is_dead() => Ok(Some(descriptor)),
        Ok(_) => Ok(None),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn send(descriptor: &OwnedFd, signal: Signal) -> io::Result<bool> {
    match pidfd_send_signal(descriptor, signal) {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// `/proc` answers ESRCH instead of ENOENT when the process ends between open and read.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_reused_pid_another_boot_and_a_zombie_are_never_signalled() {
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let identity = ProcessIdentity::of(child.id()).unwrap();
        let later = ProcessIdentity { start_ticks: identity.start_ticks + 1, ..identity.clone() };
        let other_boot = ProcessIdentity { boot_id: "other".to_owned(), ..identity.clone() };
        assert!(!later.signal(Signal::KILL).unwrap());
        assert!(!other_boot.signal(Signal::KILL).unwrap());
        let descriptor = identity.open().unwrap().expect("it still runs");
        drop(child.stdin.take());
        let mut waited = [rustix::event::PollFd::new(&descriptor, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut waited, None).unwrap();
        assert!(identity.open().unwrap().is_none(), "an unreaped process counts as ended");
        assert_eq!(child.wait().unwrap().code(), Some(0), "it ended by itself");
        assert!(!identity.signal(Signal::KILL).unwrap());
    }
}
