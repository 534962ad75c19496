//! How much of the host is in use, or of what of it a container leaves this agent if that is
//! less. What cannot be read is not known, and is never taken for nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::gpus::SIMULATED_FOLDER;

/// Where cgroups are mounted; seen from inside a container its root is the container's own.
const CGROUPS: &str = "/sys/fs/cgroup";
const PROC: &str = "/proc";
/// Whoever tries things out writes this one; beside that of simulated GPUs.
const PRETENDED_FILE: &str = "host-use";
/// A limit of memory that is above this is none: the first version of cgroups has a number for it.
const UNLIMITED_BYTES: u64 = 1 << 60;

/// Where what is in use is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// From the kernel.
    Kernel,
    /// From a file that pretends: a simulated host has no load of its own, and several agents of
    /// one machine must not each take all of its load for theirs.
    Pretended(PathBuf),
}

/// In thousandths of what there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Used {
    /// Since the last look; not known at the first.
    pub cpu_milli: Option<u32>,
    pub memory_milli: Option<u32>,
}

/// Reads it again and again.
pub struct Meter {
    source: Source,
    /// Of the host, and of the container.
    last: [Option<Reading>; 2],
}

/// Time that was worked, and the most that could have been.
#[derive(Clone, Copy, Debug)]
struct Reading {
    worked: u64,
    all: u64,
}

impl Source {
    /// The pretence of the agent with this data directory.
    pub fn pretended(data_dir: &Path) -> Source {
        Source::Pretended(data_dir.join(SIMULATED_FOLDER).join(PRETENDED_FILE))
    }
}

impl Meter {
    pub fn new(source: Source) -> Meter {
        Meter { source, last: [None, None] }
    }

    pub fn look(&mut self) -> Used {
        match &self.source {
            Source::Pretended(file) => fs::read_to_string(file).map(|text| read(&text)),
            Source::Kernel => Ok(self.look_below(Path::new(PROC), Path::new(CGROUPS))),
        }
        .unwrap_or_default()
    }

    fn look_below(&mut self, proc: &Path, cgroups: &Path) -> Used {
        let now = [host_cpu(proc), container_cpu(cgroups)];
        let before = std::mem::replace(&mut self.last, now);
        let busy = before.into_iter().zip(now).filter_map(|(before, now)| share(before?, now?));
        let memory = [host_memory(proc), container_memory(cgroups)];
        // Whichever is nearer to its end is what counts.
        Used { cpu_milli: busy.max(), memory_milli: memory.into_iter().flatten().max() }
    }
}

/// Has the agent with this data directory say so of its host from now on, where it pretends; of
/// what is `None` what was said before.
///
/// # Errors
/// More than all is said to be in use, or the file cannot be read or written.
pub fn pretend_host(
    data_dir: &Path,
    cpu_percent: Option<u32>,
    memory_percent: Option<u32>,
) -> anyhow::Result<()> {
    let Source::Pretended(file) = Source::pretended(data_dir) else { return Ok(()) };
    let before = match fs::read_to_string(&file) {
        Ok(text) => read(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Used::default(),
        Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
    };
    if let Some(percent) = cpu_percent.max(memory_percent).filter(|percent| *percent > 100) {
        bail!("{percent} % of a host cannot be in use: expected 0 to 100");
    }
    let lines = [
        ("cpu", cpu_percent.map(|percent| percent * 10).or(before.cpu_milli)),
        ("memory", memory_percent.map(|percent| percent * 10).or(before.memory_milli)),
    ];
    let lines = lines.iter().filter_map(|(what, milli)| Some(format!("{what} {}\n", (*milli)?)));
    write(&file, &lines.collect::<String>())
}

/// Forgets what was pretended of the host of the agent with this data directory.
///
/// # Errors
/// The file cannot be written.
pub fn pretend_nothing_of_host(data_dir: &Path) -> anyhow::Result<()> {
    match Source::pretended(data_dir) {
        Source::Pretended(file) if file.exists() => write(&file, ""),
        Source::Pretended(_) | Source::Kernel => Ok(()),
    }
}

/// At once: who reads it meanwhile sees the one or the other.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let folder = file.parent().context("the file is in no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let new = file.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, file))
        .with_context(|| format!("write {}", file.display()))
}

/// Lines such as `cpu 950`.
fn read(text: &str) -> Used {
    let of = |what: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(' '));
        line.and_then(|milli| milli.trim().parse::<u32>().ok()).map(|milli| milli.min(1000))
    };
    Used { cpu_milli: of("cpu"), memory_milli: of("memory") }
}

fn share(before: Reading, now: Reading) -> Option<u32> {
    let all = now.all.checked_sub(before.all).filter(|all| *all > 0)?;
    milli(now.worked.checked_sub(before.worked)?, all)
}

fn milli(part: u64, all: u64) -> Option<u32> {
    let milli = part.saturating_mul(1000).checked_div(all)?;
    u32::try_from(milli.min(1000)).ok()
}

/// In ticks of the clock, from the first line of `/proc/stat`.
fn host_cpu(proc: &Path) -> Option<Reading> {
    let stat = fs::read_to_string(proc.join("stat")).ok()?;
    let (worked, all) = crate::host::ticks(&stat)?;
    Some(Reading { worked, all })
}

fn host_memory(proc: &Path) -> Option<u32> {
    let text = fs::read_to_string(proc.join("meminfo")).ok()?;
    let total = crate::host::kibibytes_of(&text, "MemTotal:")?;
    let free = crate::host::kibibytes_of(&text, "MemAvailable:")?;
    milli(total.checked_sub(free)?, total)
}

/// In microseconds, where the processors that may be used are limited.
fn container_cpu(cgroups: &Path) -> Option<Reading> {
    let (quota, period, worked) = match fs::read_to_string(cgroups.join("cpu.max")) {
        Ok(max) => {
            let (quota, period) = max.trim().split_once(' ')?;
            let stat = fs::read_to_string(cgroups.join("cpu.stat")).ok()?;
            (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?, field(&stat, "usage_usec")?)
        }
        Err(_) => {
            let nanoseconds = number(&cgroups.join("cpuacct/cpuacct.usage"))?;
            // It is -1 without a limit.
            let quota = number(&cgroups.join("cpu/cpu.cfs_quota_us"))?;
            (quota, number(&cgroups.join("cpu/cpu.cfs_period_us"))?, nanoseconds / 1000)
        }
    };
    let passed = u64::try_from(started().elapsed().as_micros()).ok()?;
    Some(Reading { worked, all: passed.saturating_mul(quota).checked_div(period)? })
}

/// What would have to be written somewhere first is in use; what is kept of files for its speed
/// alone is not.
fn container_memory(cgroups: &Path) -> Option<u32> {
    let (limit, current, stat, kept) = match fs::read_to_string(cgroups.join("memory.max")) {
        Ok(max) => {
            let current = number(&cgroups.join("memory.current"))?;
            (max.trim().parse().ok()?, current, cgroups.join("memory.stat"), "inactive_file")
        }
        Err(_) => {
            let folder = cgroups.join("memory");
            let limit = number(&folder.join("memory.limit_in_bytes"))?;
            let current = number(&folder.join("memory.usage_in_bytes"))?;
            (limit, current, folder.join("memory.stat"), "total_inactive_file")
        }
    };
    let kept = field(&fs::read_to_string(stat).ok()?, kept)?;
    (limit < UNLIMITED_BYTES).then(|| milli(current.saturating_sub(kept), limit))?
}

/// What readings count from.
fn started() -> Instant {
    static STARTED: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *STARTED.get_or_init(Instant::now)
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn field(stat: &str, name: &str) -> Option<u64> {
    let mut fields = stat.lines().filter_map(|line| line.split_once(' '));
    fields.find(|(found, _)| *found == name)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(folder: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let file = folder.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
    }

    #[test]
    fn what_is_nearer_to_its_end_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (proc, cgroups) = (folder.path().join("proc"), folder.path().join("cgroup"));
        let mut meter = Meter::new(Source::Kernel);
        assert_eq!(meter.look_below(&proc, &cgroups), Used::default(), "nothing can be read");
        fill(
            &proc,
            &[
                ("stat", "cpu  100 0 0 900 0 0 0 0\n"),
                ("meminfo", "MemTotal: 1000 kB\nMemAvailable: 400 kB\n"),
            ],
        );
        let first = meter.look_below(&proc, &cgroups);
        assert_eq!(first, Used { cpu_milli: None, memory_milli: Some(600) });
        fill(&proc, &[("stat", "cpu  190 0 0 910 0 0 0 0\n")]);
        let second = meter.look_below(&proc, &cgroups);
        assert_eq!(second, Used { cpu_milli: Some(900), memory_milli: Some(600) });
        fill(
            &cgroups,
            &[
                ("memory.max", "1000\n"),
                ("memory.current", "990\n"),
                ("memory.stat", "anon 1\ninactive_file 40\n"),
            ],
        );
        assert_eq!(meter.look_below(&proc, &cgroups).memory_milli, Some(950));
        fill(&cgroups, &[("memory.max", "max\n")]);
        assert_eq!(meter.look_below(&proc, &cgroups).memory_milli, Some(600), "without limit");
    }

    #[test]
    fn the_first_version_of_cgroups_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let memory = |limit: &str| {
            fill(
                folder.path(),
                &[
                    ("memory/memory.limit_in_bytes", limit),
                    ("memory/memory.usage_in_bytes", "700\n"),
                    ("memory/memory.stat", "inactive_file 1\ntotal_inactive_file 100\n"),
                ],
            );
            container_memory(folder.path())
        };
        assert_eq!(memory("800\n"), Some(750));
        assert_eq!(memory("9223372036854771712\n"), None, "without limit");
        fill(
            folder.path(),
            &[
                ("cpu/cpu.cfs_quota_us", "-1\n"),
                ("cpu/cpu.cfs_period_us", "100000\n"),
                ("cpuacct/cpuacct.usage", "5000\n"),
            ],
        );
        assert!(container_cpu(folder.path()).is_none(), "without limit");
        fill(folder.path(), &[("cpu/cpu.cfs_quota_us", "200000\n")]);
        assert_eq!(container_cpu(folder.path()).unwrap().worked, 5);
        fill(folder.path(), &[("cpu.max", "max 100000\n"), ("cpu.stat", "usage_usec 7\n")]);
        assert!(container_cpu(folder.path()).is_none(), "without limit");
        fill(folder.path(), &[("cpu.max", "50000 100000\n")]);
        assert_eq!(container_cpu(folder.path()).unwrap().worked, 7);
    }

    #[test]
    fn what_is_pretended_is_said_until_it_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut meter = Meter::new(Source::pretended(folder.path()));
        let mut check = |cpu_milli, memory_milli| {
            assert_eq!(meter.look(), Used { cpu_milli, memory_milli });
        };
        check(None, None);
        pretend_nothing_of_host(folder.path()).unwrap();
        check(None, None);
        pretend_host(folder.path(), Some(95), None).unwrap();
        check(Some(950), None);
        pretend_host(folder.path(), None, Some(93)).unwrap();
        check(Some(950), Some(930));
        assert!(pretend_host(folder.path(), Some(101), None).is_err());
        pretend_nothing_of_host(folder.path()).unwrap();
        check(None, None);
    }

    #[test]
    fn this_host_says_something() {
        let mut meter = Meter::new(Source::Kernel);
        assert!(meter.look().memory_milli.is_some_and(|milli| milli > 0));
    }
}
