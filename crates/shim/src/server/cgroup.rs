//! Entering a worker's cgroup without code between fork and exec: the shim moves itself in, spawns, and moves back,
//! so the worker is born inside, and the shim is neither charged nor killed with it. It makes and removes no cgroup.

use std::fs;
use std::path::{Path, PathBuf};

use crate::process::cgroup::PROCS_FILE;
use crate::record::CANNOT_ENTER_CGROUP;

/// Written to `cgroup.procs` it means the writing process.
const SELF: &str = "0";

/// The shim inside its worker's cgroups; dropping it moves the shim back.
#[derive(Debug, Default)]
pub(super) struct Visit {
    homes: Vec<PathBuf>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        for home in &self.homes {
            if let Err(error) = fs::write(home.join(PROCS_FILE), SELF) {
                super::log_trouble(format_args!(
                    "stays in a worker's cgroup: {}: {error}",
                    home.display()
                ));
            }
        }
    }
}

/// Moves the shim into every directory of `dirs`.
///
/// # Errors
/// A sentence for the exit record.
pub(super) fn enter(dirs: &[String]) -> Result<Visit, String> {
    let mut visit = Visit::default();
    if dirs.is_empty() {
        return Ok(visit);
    }
    let mounts = read("/proc/self/mountinfo")?;
    let own = read("/proc/self/cgroup")?;
    for dir in dirs {
        let home = home_beside(Path::new(dir), &mounts, &own);
        let home = home.ok_or_else(|| {
            format!("{CANNOT_ENTER_CGROUP} `{dir}`: it is in no mounted hierarchy")
        })?;
        fs::write(Path::new(dir).join(PROCS_FILE), SELF).map_err(|error| {
            format!("{CANNOT_ENTER_CGROUP} `{dir}`: {}", super::describe(&error))
        })?;
        visit.homes.push(home);
    }
    Ok(visit)
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path)
        .map_err(|error| format!("cannot read {path}: {}", super::describe(&error)))
}

/// Kills a v2 cgroup as a whole where the kernel can; the caller signals each process in any case.
pub(super) fn kill(dir: &Path) {
    let file = dir.join("cgroup.kill");
    if file.exists() {
        let _ = fs::write(file, "1");
    }
}

/// Processes that the kernel killed in this cgroup for memory, ever. Zero where it does not count them.
pub(super) fn oom_kill_count(dir: &Path) -> u64 {
    let counted = ["memory.events", "memory.oom_control"].into_iter().find_map(|name| {
        let text = fs::read_to_string(dir.join(name)).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    });
    counted.unwrap_or_default()
}

/// The directory of this process's own cgroup in the hierarchy that `dir` is part of.
fn home_beside(dir: &Path, mounts: &str, own: &str) -> Option<PathBuf> {
    let candidates = mounts.lines().filter_map(Mount::parse);
    let mount = candidates
        .filter(|mount| dir.starts_with(mount.point))
        .max_by_key(|mount| mount.point.len())?;
    let path = own.lines().find_map(|line| mount.own_path(line))?;
    let below = Path::new(path).strip_prefix(mount.root).ok()?;
    Some(Path::new(mount.point).join(below))
}

/// One line of `/proc/self/mountinfo` that mounts a cgroup hierarchy.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    /// `None` for v2; else the options, the controllers among them.
    options: Option<&'a str>,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let mut filesystem = filesystem.split(' ');
        let options = match filesystem.next()? {
            "cgroup2" => None,
            "cgroup" => Some(filesystem.nth(1)?),
            _ => return None,
        };
        Some(Self { root, point, options })
    }

    /// The path in a line `id:controllers:path` of `/proc/self/cgroup`, if it is about this hierarchy.
    fn own_path(&self, line: &'a str) -> Option<&'a str> {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_same = match self.options {
            None => id == "0" && controllers.is_empty(),
            Some(options) => {
                let first = controllers.split(',').next().filter(|first| !first.is_empty());
                first.is_some_and(|first| options.split(',').any(|option| option == first))
            }
        };
        is_same.then_some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
25 20 0:22 / / rw - ext4 /dev/vda rw
30 25 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct
32 25 0:28 /pod /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 25 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd";
    const OWN: &str =
        "5:memory:/pod/agent\n4:cpu,cpuacct:/\n1:name=systemd:/a.service\n0::/agent.slice";

    #[test]
    fn the_home_is_found_in_each_hierarchy() {
        let check = |dir: &str, home: Option<&str>| {
            assert_eq!(home_beside(Path::new(dir), MOUNTS, OWN), home.map(PathBuf::from), "{dir}");
        };
        check("/sys/fs/cgroup/unified/berth/1", Some("/sys/fs/cgroup/unified/agent.slice"));
        check("/sys/fs/cgroup/cpu,cpuacct/berth/1", Some("/sys/fs/cgroup/cpu,cpuacct/"));
        check("/sys/fs/cgroup/memory/berth/1", Some("/sys/fs/cgroup/memory/agent"));
        check("/sys/fs/cgroup/systemd/berth", Some("/sys/fs/cgroup/systemd/a.service"));
        check("/tmp/no-cgroup", None);
    }

    #[test]
    fn oom_kills_are_read_from_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(oom_kill_count(dir.path()), 0);
        let control = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
        fs::write(dir.path().join("memory.oom_control"), control).unwrap();
        assert_eq!(oom_kill_count(dir.path()), 2);
        fs::write(dir.path().join("memory.events"), "low 0\nmax 3\noom 1\noom_kill 1\n").unwrap();
        assert_eq!(oom_kill_count(dir.path()), 1);
    }
}
