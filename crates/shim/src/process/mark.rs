//! The mark that every worker carries in its environment. It finds what parent links cannot: the processes of a shim
//! that was itself killed, and those that another process started with a worker's environment.
//!
//! A process that overwrites its own environment area (some do, to change their title) is not found this way.

use std::io;
use std::path::PathBuf;

use super::ProcessIdentity;
use super::cgroup::cgroup_pids;
use super::environ::scan_environments;
use super::identity::boot_id;
use super::stat::Stat;

/// Which processes are meant. Allocation ids repeat between clusters, and several agents may share a machine, so the
/// id alone says too little: give the task directory too, which is one agent's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Value of `BERTH_ALLOC_ID`.
    pub allocation_id: String,
    /// Value of `BERTH_TASK_DIR`; `None` matches any.
    pub task_dir: Option<String>,
    /// Cgroups of this allocation alone: whoever is in one is meant, whatever it carries.
    pub cgroup_dirs: Vec<PathBuf>,
}

impl Mark {
    /// The mark of a worker with this environment; `None` if it carries no `BERTH_ALLOC_ID`.
    pub(crate) fn of_environment<'a>(
        variables: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Option<Self> {
        let value = |wanted| {
            variables.clone().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned())
        };
        Some(Self {
            allocation_id: value("BERTH_ALLOC_ID")?,
            task_dir: value("BERTH_TASK_DIR"),
            cgroup_dirs: Vec::new(),
        })
    }

    fn matches(&self, environment: &[u8]) -> bool {
        let holds = |name: &[u8], value: &str| {
            environment.split(|byte| *byte == 0).any(|entry| {
                entry.strip_prefix(name).is_some_and(|found| found == value.as_bytes())
            })
        };
        holds(b"BERTH_ALLOC_ID=", &self.allocation_id)
            && self.task_dir.as_ref().is_none_or(|task_dir| holds(b"BERTH_TASK_DIR=", task_dir))
    }
}

/// The living processes that carry `mark`: the truth about "still running" when no shim answers. Processes of other
/// users are seen only by root. Cost: one file read per process on the machine.
///
/// # Errors
/// Only if `/proc` cannot be listed.
pub fn processes_of(mark: &Mark) -> io::Result<Vec<ProcessIdentity>> {
    let boot_id = boot_id()?;
    let identity = |stat: Stat| ProcessIdentity {
        pid: stat.pid,
        start_ticks: stat.start_ticks,
        boot_id: boot_id.clone(),
    };
    Ok(marked(mark)?.found.into_iter().map(identity).collect())
}

/// What a scan for a mark found.
#[derive(Debug, Default)]
pub(crate) struct Marked {
    /// As [`processes_of`], with the rest of what `/proc` says.
    pub(crate) found: Vec<Stat>,
    /// Those of which a scan cannot tell, see [`scan_environments`]. While there are any, nobody may say that all are
    /// gone.
    pub(crate) undecided: Vec<u32>,
}

pub(crate) fn marked(mark: &Mark) -> io::Result<Marked> {
    let mut found = Vec::new();
    let undecided = scan_environments(|pid, environment| {
        if mark.matches(environment) {
            found.extend(Stat::read(pid).ok().filter(|stat| !stat.is_dead()));
        }
    })?;
    for dir in &mark.cgroup_dirs {
        let others = cgroup_pids(dir)?.into_iter().filter_map(|pid| Stat::read(pid).ok());
        for stat in others.filter(|stat| !stat.is_dead()) {
            if found.iter().all(|known: &Stat| known.pid != stat.pid) {
                found.push(stat);
            }
        }
    }
    Ok(Marked { found, undecided })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_matched_whole_and_with_its_directory() {
        let environment = b"A=1\0BERTH_ALLOC_ID=1.main.0.1\0BERTH_TASK_DIR=/a/1\0";
        let mark = |id: &str, dir: Option<&str>| Mark {
            allocation_id: id.to_owned(),
            task_dir: dir.map(str::to_owned),
            cgroup_dirs: Vec::new(),
        };
        assert!(mark("1.main.0.1", None).matches(environment));
        assert!(mark("1.main.0.1", Some("/a/1")).matches(environment));
        assert!(
            !mark("1.main.0.1", Some("/b/1")).matches(environment),
            "the same id of another agent"
        );
        assert!(!mark("1.main.0.11", None).matches(environment));
        assert!(!mark("1.main.0", None).matches(environment), "a prefix is another allocation");
        assert!(!mark("1.main.0.1", None).matches(b"XBERTH_ALLOC_ID=1.main.0.1\0"));
    }

    #[test]
    fn an_environment_without_the_id_has_no_mark() {
        assert_eq!(Mark::of_environment([("BERTH_TASK_DIR", "/a")].into_iter()), None);
        let mark =
            Mark::of_environment([("BERTH_TASK_DIR", "/a"), ("BERTH_ALLOC_ID", "7")].into_iter());
        assert_eq!(
            mark,
            Some(Mark {
                allocation_id: "7".to_owned(),
                task_dir: Some("/a".to_owned()),
                cgroup_dirs: Vec::new(),
            })
        );
    }
}
