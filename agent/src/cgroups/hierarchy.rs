//! Where the kernel's trees of cgroups are, and this agent's place in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use berth_model::CpuMilli;
use rustix::fs::{FlockOperation, flock};
use tracing::warn;

use super::cores::{self, CoreSet};
use super::settings::{Controller, Version, share};

/// Everything of Berth is below a group of this name.
const FAMILY: &str = "berth";

/// The trees, and in each the directory below which groups are made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hierarchy {
    pub version: Version,
    pub dirs: BTreeMap<Controller, PathBuf>,
}

/// What is mounted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Mounts {
    unified: Option<PathBuf>,
    split: BTreeMap<Controller, PathBuf>,
}

impl Hierarchy {
    /// Finds the trees in what `/proc/self/mountinfo` says, and makes this agent's place
    /// in them: `berth/NAME`, which counts as much as `cpu` beside its neighbours. A
    /// controller that cannot be used is left out. While the file that comes along is open,
    /// no other agent of this host does the same.
    ///
    /// # Errors
    /// In one sentence: no tree has the memory controller, or the system refuses.
    pub fn prepare(
        mountinfo: &str,
        name: &str,
        cpu: CpuMilli,
    ) -> Result<(Hierarchy, File), String> {
        let mounts = mounts(mountinfo);
        let unified = mounts.unified.map(|root| (controllers(&root), root));
        let (version, roots) = match unified {
            Some((controllers, root)) if controllers.contains(&Controller::Memory) => {
                let roots = controllers.iter().map(|controller| (*controller, root.clone()));
                (Version::V2, roots.collect())
            }
            Some(_) | None => (Version::V1, mounts.split),
        };
        let roots: BTreeMap<Controller, PathBuf> = roots;
        let Some(memory) = roots.get(&Controller::Memory) else {
            return Err("no mounted hierarchy has the memory controller".to_owned());
        };
        let turn = take_turn(&memory.join(FAMILY))?;
        let hierarchy = Hierarchy { version, dirs: roots };
        let hierarchy = match version {
            Version::V1 => hierarchy.prepare_split(name, cpu)?,
            Version::V2 => hierarchy.prepare_unified(name, cpu)?,
        };
        Ok((hierarchy, turn))
    }

    /// Each tree once.
    pub fn trees(&self) -> BTreeSet<&Path> {
        self.dirs.values().map(PathBuf::as_path).collect()
    }

    /// The cores that there are for this agent's workers now.
    pub fn cores(&self) -> Option<CoreSet> {
        let file = match self.version {
            Version::V1 => "cpuset.cpus",
            Version::V2 => "cpuset.cpus.effective",
        };
        cores::parse(&read(&self.dirs.get(&Controller::Cpuset)?.join(file)).ok()?)
    }

    fn prepare_unified(self, name: &str, cpu: CpuMilli) -> Result<Hierarchy, String> {
        let root = self.dirs[&Controller::Memory].clone();
        let own = root.join(FAMILY).join(name);
        let mut dirs: BTreeMap<_, _> =
            self.dirs.into_keys().map(|controller| (controller, own.clone())).collect();
        for dir in [root.clone(), root.join(FAMILY), own.clone()] {
            make(&dir)?;
            let file = dir.join("cgroup.subtree_control");
            let open = controllers_in(&file);
            let mut closed = BTreeSet::new();
            for controller in dirs.keys().filter(|controller| !open.contains(controller)) {
                match write(&file, &format!("+{}", controller.name())) {
                    Ok(()) => {}
                    Err(problem) if *controller == Controller::Memory => return Err(problem),
                    Err(problem) => {
                        warn!(problem, "a controller of cgroups cannot be used");
                        closed.insert(*controller);
                    }
                }
            }
            dirs.retain(|controller, _| !closed.contains(controller));
        }
        Hierarchy { version: Version::V2, dirs }.weighed(cpu)
    }

    fn prepare_split(self, name: &str, cpu: CpuMilli) -> Result<Hierarchy, String> {
        let mut dirs = BTreeMap::new();
        for (controller, root) in self.dirs {
            match place(controller, &root, name) {
                Ok(own) => {
                    dirs.insert(controller, own);
                }
                Err(problem) if controller == Controller::Memory => return Err(problem),
                Err(problem) => warn!(problem, "a controller of cgroups cannot be used"),
            }
        }
        Hierarchy { version: Version::V1, dirs }.weighed(cpu)
    }

    fn weighed(self, cpu: CpuMilli) -> Result<Hierarchy, String> {
        if let Some(dir) = self.dirs.get(&Controller::Cpu) {
            let setting = share(self.version, cpu);
            for dir in [Some(dir.as_path()), dir.parent()].into_iter().flatten() {
                write(&dir.join(setting.file), &setting.value)?;
            }
        }
        Ok(self)
    }
}

/// This agent's place in one tree of version 1.
fn place(controller: Controller, root: &Path, name: &str) -> Result<PathBuf, String> {
    let family = root.join(FAMILY);
    let own = family.join(name);
    for (parent, dir) in [(root, &family), (&family, &own)] {
        make(dir)?;
        if controller == Controller::Cpuset {
            inherit_cores(parent, dir)?;
            // Also those that were away when it was made.
            let all = read(&parent.join("cpuset.cpus"))?;
            write(&dir.join("cpuset.cpus"), all.trim())?;
        }
    }
    Ok(own)
}

/// A new group of version 1 has no cores and no memory at all.
pub fn inherit_cores(parent: &Path, dir: &Path) -> Result<(), String> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let has = fs::read_to_string(dir.join(file)).unwrap_or_default();
        if has.trim().is_empty() {
            let given = read(&parent.join(file))?;
            write(&dir.join(file), given.trim())?;
        }
    }
    Ok(())
}

fn make(dir: &Path) -> Result<(), String> {
    match fs::create_dir(dir) {
        // Workers may look up their own limits, and nobody but root may hold the directory.
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o711)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(|error| format!("cannot make {}: {error}", dir.display()))
}

/// Waits until no other agent of this host makes or takes away places.
fn take_turn(family: &Path) -> Result<File, String> {
    make(family)?;
    let open = File::open(family).map_err(|error| format!("{}: {error}", family.display()))?;
    flock(&open, FlockOperation::LockExclusive)
        .map_err(|error| format!("cannot lock {}: {error}", family.display()))?;
    Ok(open)
}

/// Writes a value to a file that is there.
///
/// # Errors
/// In one sentence.
pub fn write(file: &Path, value: &str) -> Result<(), String> {
    let written = OpenOptions::new().write(true).truncate(true).open(file);
    written
        .and_then(|mut open| open.write_all(value.as_bytes()))
        .map_err(|error| format!("cannot write `{value}` to {}: {error}", file.display()))
}

/// Reads a file.
///
/// # Errors
/// In one sentence.
fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}

fn controllers(root: &Path) -> BTreeSet<Controller> {
    controllers_in(&root.join("cgroup.controllers"))
}

fn controllers_in(file: &Path) -> BTreeSet<Controller> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let is_named =
        |controller: &Controller| text.split_whitespace().any(|word| word == controller.name());
    Controller::ALL.into_iter().filter(is_named).collect()
}

fn mounts(mountinfo: &str) -> Mounts {
    let mut mounts = Mounts::default();
    for line in mountinfo.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
        let mut fields = mount.split(' ').skip(4);
        let (Some(point), Some(flags)) = (fields.next().map(PathBuf::from), fields.next()) else {
            continue;
        };
        if flags.split(',').any(|flag| flag == "ro") {
            continue;
        }
        let mut words = filesystem.split(' ');
        match (words.next(), words.nth(1)) {
            (Some("cgroup2"), _) => mounts.unified = mounts.unified.or(Some(point)),
            (Some("cgroup"), Some(options)) => {
                let here = Controller::ALL.into_iter().filter(|controller| {
                    options.split(',').any(|option| option == controller.name())
                });
                for controller in here {
                    mounts.split.entry(controller).or_insert_with(|| point.clone());
                }
            }
            _ => {}
        }
    }
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mounted_controller_is_found() {
        let text = "\
25 20 0:22 / / rw - ext4 /dev/vda rw
30 25 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct
32 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 25 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 25 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset";
        let found = mounts(text);
        assert_eq!(found.unified, Some("/sys/fs/cgroup/unified".into()));
        let split: Vec<_> =
            found.split.iter().map(|(key, dir)| (key.name(), dir.to_str().unwrap())).collect();
        assert_eq!(
            split,
            [
                ("cpu", "/sys/fs/cgroup/cpu,cpuacct"),
                ("cpuset", "/sys/fs/cgroup/cpuset"),
                ("memory", "/sys/fs/cgroup/memory")
            ]
        );
        let locked = "31 25 0:27 / /c ro,nosuid - cgroup cgroup rw,cpu,cpuset,memory";
        assert_eq!(mounts(locked), Mounts::default());
        let none = Hierarchy::prepare("25 20 0:22 / / rw - ext4 /dev/vda rw", "a", CpuMilli(1));
        assert_eq!(none.err().unwrap(), "no mounted hierarchy has the memory controller");
    }
}
