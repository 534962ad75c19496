//! Processes that the agent runs for a while, and everything that they start.

use rustix::process::{Pid, Signal, kill_process_group};

/// Kills a whole process group when dropped, unless told that it has ended.
pub struct GroupKill(Option<Pid>);

impl GroupKill {
    /// The group that a process leads.
    pub fn of(pid: Option<u32>) -> GroupKill {
        let raw = pid.and_then(|pid| i32::try_from(pid).ok());
        GroupKill(raw.and_then(Pid::from_raw))
    }

    /// Its leader, while it is there.
    pub fn leader(&self) -> Option<Pid> {
        self.0
    }

    /// Asks all of it for something.
    pub fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // Gone meanwhile is as good.
            let _ = kill_process_group(group, signal);
        }
    }

    pub fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for GroupKill {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
