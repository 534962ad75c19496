//! Holds each worker to what it may use: a cgroup of its own, with shares and quotas of CPU,
//! a limit of memory and of processes, and cores of its own where it is guaranteed them.
//!
//! The kernel's files are written here and nowhere else. Which bounds a worker has is said
//! by its task; when one begins and ends is the agent's affair; entering a group is the
//! shim's. What is pinned is read back from the kernel after a restart: nothing of it is
//! kept beside.

mod cores;
mod hierarchy;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use berth_model::{AllocationId, CpuMilli, MemoryBytes};
use berth_shim::process::cgroup_pids;
use rustix::fs::{FlockOperation, flock};
use tracing::{debug, warn};

use cores::{CoreSet, Cores};
use hierarchy::{Hierarchy, inherit_cores, write};
pub use settings::{Bounds, Controller, Version, shares};
use settings::{Needed, settings};

/// Ends the name of a group that has cores of its own.
const OWN: &str = ".own";

/// The cgroups of one agent's workers.
pub struct Cgroups {
    hierarchy: Hierarchy,
    /// `None` without the controller.
    cores: Option<Cores>,
    /// Groups that did not go at once: their last process is just being taken apart.
    leftover: BTreeSet<PathBuf>,
    /// Held while this agent lives: who finds another's free may take its groups away.
    _lock: Option<File>,
}

/// What the kernel says of a worker's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryUse {
    /// `None`: without limit.
    pub limit: Option<MemoryBytes>,
    /// The most that was ever in use; not every kernel says so.
    pub peak: Option<MemoryBytes>,
    /// Whether the limit was ever in the way.
    pub was_at_limit: bool,
}

impl Cgroups {
    /// Makes the place for the groups of the agent `name`, on a host that offers `cpu`;
    /// `mountinfo` is what `/proc/self/mountinfo` says. Groups of an agent before this one
    /// are taken over.
    ///
    /// # Errors
    /// In one sentence: nothing is mounted that limits memory, or the system refuses.
    pub fn begin(mountinfo: &str, name: &str, cpu: CpuMilli) -> Result<Cgroups, String> {
        // Nobody takes a place away between its making and its holding.
        let (hierarchy, _turn) = Hierarchy::prepare(mountinfo, name, cpu)?;
        let own = &hierarchy.dirs[&Controller::Memory];
        let lock = lock(own);
        if lock.is_none() {
            return Err(format!("{} is another agent's", own.display()));
        }
        let mut cgroups =
            Cgroups { hierarchy, cores: None, leftover: BTreeSet::new(), _lock: lock };
        cgroups.cores = cgroups.read_cores();
        cgroups.share_cores();
        cgroups.remove_abandoned();
        Ok(cgroups)
    }

    /// What agents have left that are gone for good, such as those of trials: their groups
    /// are empty, and nobody holds their place.
    fn remove_abandoned(&self) {
        let Some(own) = self.hierarchy.dirs.get(&Controller::Memory) else { return };
        let siblings = own.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
        for sibling in siblings.map(|entry| entry.path()).filter(|path| path.is_dir()) {
            let Some(name) = sibling.file_name() else { continue };
            let Some(_lock) =
                Some(&sibling).filter(|path| *path != own).and_then(|path| lock(path))
            else {
                continue;
            };
            for tree in self.hierarchy.trees() {
                remove_tree(&tree.with_file_name(name));
            }
        }
    }

    /// Takes everything away that nobody lives in: no worker begins any more.
    pub fn clear(&mut self) {
        let empty = self.found().into_iter().filter(|(_, lives)| *lives == Inhabited::No);
        for (id, _) in empty.collect::<Vec<_>>() {
            self.remove(id);
        }
    }

    pub fn version(&self) -> Version {
        self.hierarchy.version
    }

    /// What this host cannot bound.
    pub fn missing(&self) -> Vec<&'static str> {
        let all = Controller::ALL.into_iter();
        all.filter(|one| !self.hierarchy.dirs.contains_key(one)).map(Controller::name).collect()
    }

    /// Makes the groups of a worker, and returns their directories, one for each tree.
    ///
    /// # Errors
    /// In one sentence, and nothing of them is left.
    pub fn make(&mut self, id: AllocationId, bounds: &Bounds) -> Result<Vec<PathBuf>, String> {
        // Cores come and go.
        if let Some((cores, all)) = self.cores.as_mut().zip(self.hierarchy.cores()) {
            cores.all = all;
        }
        let own = self.cores.as_mut().and_then(|cores| cores.pin(id, bounds.cores_pinned));
        if own.is_some() {
            self.share_cores();
        }
        let name = if own.is_some() { format!("{id}{OWN}") } else { id.to_string() };
        let cores = own.or_else(|| self.shared_cores());
        let made = self.fill(&name, bounds, cores.as_ref());
        if made.is_err() {
            self.remove(id);
        }
        made
    }

    fn fill(
        &self,
        name: &str,
        bounds: &Bounds,
        cores: Option<&CoreSet>,
    ) -> Result<Vec<PathBuf>, String> {
        let mut dirs = Vec::new();
        for tree in self.hierarchy.trees() {
            let dir = tree.join(name);
            match fs::create_dir(&dir) {
                // Of an agent that was killed before anything began in it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(|error| format!("cannot make {}: {error}", dir.display()))?,
            }
            dirs.push(dir);
        }
        for setting in settings(self.version(), bounds) {
            let Some(tree) = self.hierarchy.dirs.get(&setting.controller) else { continue };
            let file = tree.join(name).join(setting.file);
            if setting.needed == Needed::Yes || file.exists() {
                write(&file, &setting.value)?;
            }
        }
        if let (Some(tree), Some(cores)) = (self.hierarchy.dirs.get(&Controller::Cpuset), cores) {
            let dir = tree.join(name);
            if self.version() == Version::V1 {
                inherit_cores(tree, &dir)?;
            }
            write(&dir.join("cpuset.cpus"), &cores::text(cores))?;
        }
        Ok(dirs)
    }

    /// The directories of a worker's groups, as far as they are there.
    pub fn dirs(&self, id: AllocationId) -> Vec<PathBuf> {
        self.hierarchy.trees().into_iter().filter_map(|tree| group_of(tree, id)).collect()
    }

    /// Removes the groups of a worker of which nothing is left.
    pub fn remove(&mut self, id: AllocationId) {
        self.leftover.extend(self.dirs(id));
        self.leftover.retain(|dir| {
            remove_tree(dir);
            dir.is_dir()
        });
        let released = self.cores.as_mut().and_then(|cores| cores.pinned.remove(&id));
        if released.is_some() {
            self.share_cores();
        }
    }

    /// What the kernel says of a worker's memory; `None` if its group is gone.
    pub fn memory(&self, id: AllocationId) -> Option<MemoryUse> {
        let dir = self.memory_dir(id)?;
        let number = |file: &str| fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok();
        // What version 1 says without a limit, in whole pages.
        let limit = |bytes: &u64| *bytes < u64::MAX >> 2;
        Some(match self.version() {
            Version::V1 => MemoryUse {
                limit: number("memory.limit_in_bytes").filter(limit).map(MemoryBytes),
                peak: number("memory.max_usage_in_bytes").map(MemoryBytes),
                // Linux 6.18 does not count in `memory.failcnt` any more.
                was_at_limit: number("memory.failcnt") > Some(0)
                    || number("memory.max_usage_in_bytes") >= number("memory.limit_in_bytes")
                    || number("memory.memsw.max_usage_in_bytes")
                        .is_some_and(|most| Some(most) >= number("memory.memsw.limit_in_bytes")),
            },
            Version::V2 => MemoryUse {
                limit: number("memory.max").map(MemoryBytes),
                peak: number("memory.peak").map(MemoryBytes),
                was_at_limit: fact(&dir.join("memory.events"), "oom").unwrap_or(0) > 0,
            },
        })
    }

    /// How many of a worker's processes the kernel has killed for want of memory.
    pub fn memory_kills(&self, id: AllocationId) -> u64 {
        let file = match self.version() {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        self.memory_dir(id).and_then(|dir| fact(&dir.join(file), "oom_kill")).unwrap_or(0)
    }

    fn memory_dir(&self, id: AllocationId) -> Option<PathBuf> {
        group_of(self.hierarchy.dirs.get(&Controller::Memory)?, id)
    }

    /// Those that have groups, and whether any process is in them.
    pub fn found(&self) -> BTreeMap<AllocationId, Inhabited> {
        let mut found = BTreeMap::new();
        for dir in self.hierarchy.trees() {
            for (id, _, path) in groups(dir) {
                let inhabited = found.entry(id).or_insert(Inhabited::No);
                // Who cannot be asked is not empty.
                if cgroup_pids(&path).is_ok_and(|pids| pids.is_empty()) {
                    continue;
                }
                *inhabited = Inhabited::Yes;
            }
        }
        found
    }

    fn shared_cores(&self) -> Option<CoreSet> {
        self.cores.as_ref().map(Cores::shared)
    }

    /// Has everybody without cores of his own run on those that are nobody's.
    fn share_cores(&self) {
        let Some((tree, shared)) =
            self.hierarchy.dirs.get(&Controller::Cpuset).zip(self.shared_cores())
        else {
            return;
        };
        if shared.is_empty() {
            warn!("no core is left that is nobody's");
            return;
        }
        for (_, owns, dir) in groups(tree) {
            if owns == Owns::Nothing
                && let Err(problem) = write(&dir.join("cpuset.cpus"), &cores::text(&shared))
            {
                warn!(problem, "a worker runs on cores that are another's");
            }
        }
    }

    fn read_cores(&self) -> Option<Cores> {
        let tree = self.hierarchy.dirs.get(&Controller::Cpuset)?;
        let all = self.hierarchy.cores()?;
        let pinned = groups(tree).into_iter().filter(|(_, owns, _)| *owns == Owns::Cores);
        let own = |dir: &Path| cores::parse(&fs::read_to_string(dir.join("cpuset.cpus")).ok()?);
        let pinned = pinned.filter_map(|(id, _, dir)| Some((id, own(&dir)?))).collect();
        Some(Cores { all, pinned })
    }
}

impl Drop for Cgroups {
    /// An agent without workers leaves nothing behind.
    fn drop(&mut self) {
        for tree in self.hierarchy.trees() {
            // It is still in use.
            let _ = fs::remove_dir(tree);
        }
    }
}

/// Holds a directory; `None` if somebody else does.
fn lock(dir: &Path) -> Option<File> {
    let open = File::open(dir).ok()?;
    flock(&open, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(open)
}

/// Removes a group with those that its worker has made below it, as far as nobody lives
/// there.
fn remove_tree(dir: &Path) {
    for below in fs::read_dir(dir).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&below.path());
        }
    }
    if let Err(error) = fs::remove_dir(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        debug!(dir = %dir.display(), %error, "cgroup is left for now");
    }
}

/// Whether anything lives in a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inhabited {
    Yes,
    No,
}

/// What is a group's alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owns {
    Nothing,
    Cores,
}

/// The group of a worker in one tree, if it is there.
fn group_of(tree: &Path, id: AllocationId) -> Option<PathBuf> {
    let names = [id.to_string(), format!("{id}{OWN}")];
    names.iter().map(|name| tree.join(name)).find(|dir| dir.is_dir())
}

/// The groups of workers in one tree.
fn groups(tree: &Path) -> Vec<(AllocationId, Owns, PathBuf)> {
    let entries = fs::read_dir(tree).into_iter().flatten().flatten();
    let group = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let name = name.to_str()?;
        let (id, owns) = match name.strip_suffix(OWN) {
            Some(id) => (id, Owns::Cores),
            None => (name, Owns::Nothing),
        };
        Some((id.parse().ok()?, owns, entry.path()))
    };
    entries.filter_map(group).collect()
}

/// The number behind a name in a file of names and numbers.
fn fact(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests;
