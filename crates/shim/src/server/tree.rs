//! Who belongs to the held allocation: descendants of the shim, bearers of its mark, members of its cgroups. Each
//! source sees what another may miss; only living processes count.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions, wait};

use super::cgroup;
use crate::process::cgroup::cgroup_pids;
use crate::process::{Mark, Marked, ProcessTable, Stat, marked, signal_all};

/// Where to look.
#[derive(Debug)]
pub(super) struct Tree {
    shim_pid: u32,
    mark: Option<Mark>,
    cgroup_dirs: Vec<PathBuf>,
}

/// What taking the status of ended children left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Children {
    Some,
    None,
}

impl Tree {
    pub(super) fn new(mark: Option<Mark>, cgroup_dirs: Vec<PathBuf>) -> Self {
        Self { shim_pid: std::process::id(), mark, cgroup_dirs }
    }

    /// Every living member. One pass over `/proc`, two with a mark.
    pub(super) fn members(&self) -> io::Result<Vec<Stat>> {
        let table = ProcessTable::read()?;
        let mut members: BTreeMap<u32, Stat> = BTreeMap::new();
        members.extend(table.descendants(self.shim_pid).into_iter().map(|stat| (stat.pid, stat)));
        members.extend(self.strangers()?.found.into_iter().map(|stat| (stat.pid, stat)));
        Ok(members.into_values().filter(|stat| !stat.is_dead()).collect())
    }

    /// Whether nothing but descendants of the shim can be left.
    pub(super) fn is_without_strangers(&self) -> io::Result<bool> {
        let Marked { found, undecided } = self.strangers()?;
        Ok(found.is_empty() && undecided.is_empty())
    }

    /// Members that may not descend from the shim.
    fn strangers(&self) -> io::Result<Marked> {
        let mut strangers = Marked::default();
        if let Some(mark) = &self.mark {
            strangers = marked(mark)?;
        }
        for dir in &self.cgroup_dirs {
            let inside = cgroup_pids(dir)?.into_iter().filter(|pid| *pid != self.shim_pid);
            strangers.found.extend(
                inside.filter_map(|pid| Stat::read(pid).ok()).filter(|stat| !stat.is_dead()),
            );
        }
        Ok(strangers)
    }

    /// Signals every member and returns how many got it. One that cannot be signalled does not spare the others.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<usize> {
        signal_all(&self.members()?, signal)
    }

    /// One pass of SIGKILL over all members.
    pub(super) fn kill(&self) -> io::Result<usize> {
        self.cgroup_dirs.iter().for_each(|dir| cgroup::kill(dir));
        self.signal(Signal::KILL)
    }
}

/// Takes the status of every ended child but `main`, whose own is taken with its resource usage. Children that were
/// orphaned by their parents come to the shim as their subreaper.
pub(super) fn reap_others(
    main: Option<u32>,
    mut main_ended: impl FnMut(rustix::process::WaitStatus),
) -> Children {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(None) => return Children::Some,
            Ok(Some((pid, status))) => {
                let pid = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or_default();
                if main == Some(pid) {
                    main_ended(status);
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Children::None,
            Err(_) => return Children::Some,
        }
    }
}
