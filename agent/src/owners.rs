//! Whose processes are those that the driver names on a GPU: by the kernel's word where workers
//! have cgroups or containers of their own, else by the mark in their environment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use berth_model::AllocationId;
use berth_shim::process::cgroup_pids;
use berth_supervise::gpu::Owner;

use crate::leftovers::marked;

/// Of an environment no more is searched: the mark stands among what Berth sets.
const ENVIRONMENT_BYTES_MAX: u64 = 2 << 20;

/// By what the processes of one worker are known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sign {
    /// It has cgroups of its own. What its environment says is its own affair.
    Cgroups(Vec<PathBuf>),
    /// The engine's id of its container, which is in the names of that one's cgroups.
    Container(String),
    /// The mark in its environment, where there is nothing better.
    Environment,
}

/// The owner of each of these processes. `allocations` is where this agent's allocations are.
/// Reads files.
pub fn owners(
    pids: &BTreeSet<u32>,
    signs: &BTreeMap<AllocationId, Sign>,
    allocations: &Path,
) -> BTreeMap<u32, Owner> {
    let mut found = BTreeMap::new();
    for (id, sign) in signs {
        if let Sign::Cgroups(dirs) = sign {
            let inside = dirs.iter().flat_map(|dir| cgroup_pids(dir).unwrap_or_default());
            found.extend(inside.map(|pid| (pid, Owner::Worker(*id))));
        }
    }
    let owner = |pid: &u32| {
        let known = found.get(pid).copied();
        known.unwrap_or_else(|| owner_of(*pid, signs, allocations))
    };
    pids.iter().map(|pid| (*pid, owner(pid))).collect()
}

fn owner_of(pid: u32, signs: &BTreeMap<AllocationId, Sign>, allocations: &Path) -> Owner {
    let process = PathBuf::from(format!("/proc/{pid}"));
    if !process.exists() {
        return Owner::Unseen;
    }
    let groups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    let contained = signs.iter().find(|(_, sign)| match sign {
        Sign::Container(container) => !container.is_empty() && groups.contains(container.as_str()),
        Sign::Cgroups(_) | Sign::Environment => false,
    });
    if let Some((id, _)) = contained {
        return Owner::Worker(*id);
    }
    let mut environment = Vec::new();
    // Another user's, or gone by now: nobody's.
    let _ = File::open(process.join("environ"))
        .and_then(|file| file.take(ENVIRONMENT_BYTES_MAX).read_to_end(&mut environment));
    let id = marked(&environment, allocations);
    let id = id.filter(|id| signs.get(id) == Some(&Sign::Environment));
    id.map_or(Owner::Stranger, Owner::Worker)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A process that waits for its end, with this mark; it runs its program by now: a kernel shows
    /// no environment for a moment after a process was begun.
    fn process(allocations: &Path, id: &str) -> Running {
        let child = Command::new("cat")
            .env("BERTH_ALLOC_ID", id)
            .env("BERTH_TASK_DIR", allocations.join(id).join("task"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut running = Running(child.unwrap());
        running.0.stdin.as_mut().unwrap().write_all(b".").unwrap();
        running.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        running
    }

    #[test]
    fn a_process_is_whose_cgroup_or_container_it_is_in_or_whose_mark_it_carries() {
        let folder = tempfile::tempdir().unwrap();
        let allocations = folder.path();
        let (one, other): (AllocationId, AllocationId) =
            ("1.0.0.1".parse().unwrap(), "1.0.1.1".parse().unwrap());
        let process = process(allocations, "1.0.0.1");
        let pid = process.0.id();
        let own_groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let group = allocations.join("group");
        fs::create_dir(&group).unwrap();
        fs::write(group.join("cgroup.procs"), format!("{pid}\n")).unwrap();
        let check = |signs: &[(AllocationId, Sign)], allocations: &Path, expected: Owner| {
            let signs = signs.iter().cloned().collect();
            let found = owners(&[pid].into(), &signs, allocations);
            assert_eq!(found, [(pid, expected)].into(), "{signs:?}");
        };
        let environment = || (one, Sign::Environment);
        check(&[environment()], allocations, Owner::Worker(one));
        check(&[(other, Sign::Environment)], allocations, Owner::Stranger);
        check(&[environment()], Path::new("/elsewhere"), Owner::Stranger);
        // Whoever pretends to be a neighbour is found where the kernel has put it.
        let inside = (other, Sign::Cgroups(vec![group]));
        check(&[environment(), inside], allocations, Owner::Worker(other));
        check(&[(one, Sign::Cgroups(Vec::new()))], allocations, Owner::Stranger);
        let container = own_groups.trim().to_owned();
        check(&[(other, Sign::Container(container))], allocations, Owner::Worker(other));
        check(&[(other, Sign::Container(String::new()))], allocations, Owner::Stranger);
        // Numbers go no further than this.
        let nobody = owners(&[u32::MAX].into(), &BTreeMap::new(), allocations);
        assert_eq!(nobody, [(u32::MAX, Owner::Unseen)].into());
    }
}
