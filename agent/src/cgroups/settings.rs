//! What a cgroup is told, so that it holds a worker to its bounds. Touches no file.

use berth_model::{CpuMilli, MemoryBytes, TaskSpec};

/// A part of the kernel that cgroups bound.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Controller {
    Cpu,
    Cpuset,
    Memory,
    Pids,
}

impl Controller {
    pub const ALL: [Controller; 4] =
        [Controller::Cpu, Controller::Cpuset, Controller::Memory, Controller::Pids];

    /// As the kernel calls it.
    pub fn name(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu",
            Controller::Cpuset => "cpuset",
            Controller::Memory => "memory",
            Controller::Pids => "pids",
        }
    }
}

/// The two interfaces of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// A tree of groups for each controller.
    V1,
    /// One tree for all of them.
    V2,
}

/// What a worker is held to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Its share where the CPU does not suffice for all.
    pub cpu: CpuMilli,
    pub cpu_max: Option<CpuMilli>,
    pub memory_max: Option<MemoryBytes>,
    pub processes_max: u32,
    /// Cores that nobody else runs on.
    pub cores_pinned: usize,
}

impl Bounds {
    pub fn of(task: &TaskSpec) -> Bounds {
        Bounds {
            cpu: task.cpu,
            cpu_max: task.limits.cpu,
            memory_max: task.memory_max(),
            processes_max: task.processes_max(),
            cores_pinned: task.cores_pinned(),
        }
    }

    /// With room for so many processes that are not the worker's own.
    pub fn with_processes_beside(self, count: u32) -> Bounds {
        Bounds { processes_max: self.processes_max.saturating_add(count), ..self }
    }
}

/// One value for one file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    pub controller: Controller,
    pub file: &'static str,
    pub value: String,
    pub needed: Needed,
}

/// Whether the bounds hold without it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needed {
    Yes,
    /// Not every kernel has the file.
    IfThere,
}

/// Microseconds over which a CPU quota is counted: the kernel's own default.
const PERIOD_US: u64 = 100_000;
/// The kernel takes no smaller quota.
const QUOTA_US_MIN: u64 = 1_000;
/// The kernel's range of `cpu.shares`; 1024 stand for a core.
const SHARES_MIN: u64 = 2;
const SHARES_MAX: u64 = 262_144;
/// The kernel's largest `cpu.weight`; the least is 1.
const WEIGHT_MAX: u64 = 10_000;

/// Everything that holds a worker to `bounds`, its cores aside, in the order in which the
/// kernel takes it.
pub fn settings(version: Version, bounds: &Bounds) -> Vec<Setting> {
    let mut all = vec![share(version, bounds.cpu)];
    all.extend(bounds.cpu_max.map(|most| quota(version, most)).into_iter().flatten());
    all.extend(memory(version, bounds.memory_max));
    all.push(must(Controller::Pids, "pids.max", bounds.processes_max.to_string()));
    all
}

/// As version 1 of cgroups counts shares, and Docker's engine on either.
pub fn shares(cpu: CpuMilli) -> u64 {
    (cpu.0.saturating_mul(1024) / 1000).clamp(SHARES_MIN, SHARES_MAX)
}

/// The share of CPU time under pressure, beside others of the same group.
pub fn share(version: Version, cpu: CpuMilli) -> Setting {
    let shares = shares(cpu);
    match version {
        Version::V1 => must(Controller::Cpu, "cpu.shares", shares.to_string()),
        Version::V2 => {
            // As Kubernetes maps one range to the other (its enhancement proposal 2254).
            let weight = 1 + (shares - SHARES_MIN) * (WEIGHT_MAX - 1) / (SHARES_MAX - SHARES_MIN);
            must(Controller::Cpu, "cpu.weight", weight.to_string())
        }
    }
}

fn quota(version: Version, most: CpuMilli) -> Vec<Setting> {
    let quota = (most.0.saturating_mul(PERIOD_US) / 1000).max(QUOTA_US_MIN);
    match version {
        Version::V1 => vec![
            must(Controller::Cpu, "cpu.cfs_period_us", PERIOD_US.to_string()),
            must(Controller::Cpu, "cpu.cfs_quota_us", quota.to_string()),
        ],
        Version::V2 => vec![must(Controller::Cpu, "cpu.max", format!("{quota} {PERIOD_US}"))],
    }
}

fn memory(version: Version, most: Option<MemoryBytes>) -> Vec<Setting> {
    let may = |file, value: String| Setting {
        controller: Controller::Memory,
        file,
        value,
        needed: Needed::IfThere,
    };
    let limit = most.map(|most| most.0.to_string());
    match version {
        // Memory and swap together, so that no limit is outrun by swapping; it may not be
        // below that of memory alone, so it comes second.
        Version::V1 => limit
            .into_iter()
            .flat_map(|limit| {
                let both = may("memory.memsw.limit_in_bytes", limit.clone());
                [must(Controller::Memory, "memory.limit_in_bytes", limit), both]
            })
            .collect(),
        Version::V2 => {
            // All of it or nothing is left when memory runs out.
            let mut all = vec![may("memory.oom.group", "1".to_owned())];
            if let Some(limit) = limit {
                all.push(must(Controller::Memory, "memory.max", limit));
                all.push(may("memory.swap.max", "0".to_owned()));
            }
            all
        }
    }
}

fn must(controller: Controller, file: &'static str, value: String) -> Setting {
    Setting { controller, file, value, needed: Needed::Yes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(version: Version, bounds: &Bounds) -> Vec<String> {
        let line = |setting: Setting| {
            let mark = if setting.needed == Needed::Yes { "" } else { "?" };
            format!("{}{mark} {}", setting.file, setting.value)
        };
        settings(version, bounds).into_iter().map(line).collect()
    }

    #[test]
    fn each_version_is_told_in_its_own_words() {
        let all = Bounds {
            cpu: CpuMilli(2_000),
            cpu_max: Some(CpuMilli(2_500)),
            memory_max: Some(MemoryBytes(1 << 30)),
            processes_max: 50,
            cores_pinned: 0,
        };
        assert_eq!(
            lines(Version::V1, &all),
            [
                "cpu.shares 2048",
                "cpu.cfs_period_us 100000",
                "cpu.cfs_quota_us 250000",
                "memory.limit_in_bytes 1073741824",
                "memory.memsw.limit_in_bytes? 1073741824",
                "pids.max 50",
            ]
        );
        assert_eq!(
            lines(Version::V2, &all),
            [
                "cpu.weight 79",
                "cpu.max 250000 100000",
                "memory.oom.group? 1",
                "memory.max 1073741824",
                "memory.swap.max? 0",
                "pids.max 50",
            ]
        );
        let few = Bounds { cpu: CpuMilli(1), cpu_max: None, memory_max: None, ..all };
        assert_eq!(lines(Version::V1, &few), ["cpu.shares 2", "pids.max 50"]);
        assert_eq!(
            lines(Version::V2, &few),
            ["cpu.weight 1", "memory.oom.group? 1", "pids.max 50"]
        );
    }

    #[test]
    fn shares_and_quotas_stay_in_the_kernels_ranges() {
        let shown = |setting: Setting| setting.value;
        for (cpu, v1, v2) in [
            (0, "2", "1"),
            (100, "102", "4"),
            (1_000, "1024", "39"),
            (256_000, "262144", "10000"),
            (u64::MAX, "262144", "10000"),
        ] {
            assert_eq!(shown(share(Version::V1, CpuMilli(cpu))), v1);
            assert_eq!(shown(share(Version::V2, CpuMilli(cpu))), v2);
        }
        assert_eq!(quota(Version::V2, CpuMilli(1))[0].value, "1000 100000");
    }
}
