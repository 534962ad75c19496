//! What is set for a namespace: how much of the cluster its jobs may hold, and what each of
//! their tasks may ask for. Whether there is room is one question, which planning and apply
//! share.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use thiserror::Error;

use crate::fits::Claim;
use crate::limit_range::LimitRange;
use crate::name::Name;
use crate::quantity::{CpuMilli, MemoryBytes, ShareMilli};
use crate::spec::TaskSpec;
use crate::validate::Violation;

/// The longest description, in bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 1024;

/// What a quota counts. The order is the one in which people are told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Resource {
    /// In thousandths of one.
    Gpus,
    /// In bytes.
    GpuMemory,
    /// In thousandths of a core.
    Cpu,
    /// In bytes.
    Memory,
    /// Live allocations, from planned until their end is seen or they are given up.
    RunningTasks,
    /// Jobs that wait with nothing alive.
    QueuedJobs,
}

impl Resource {
    pub const ALL: [Resource; 6] = [
        Resource::Gpus,
        Resource::GpuMemory,
        Resource::Cpu,
        Resource::Memory,
        Resource::RunningTasks,
        Resource::QueuedJobs,
    ];

    /// A stable name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Gpus => "gpus",
            Resource::GpuMemory => "gpu_memory",
            Resource::Cpu => "cpu",
            Resource::Memory => "memory",
            Resource::RunningTasks => "running_tasks",
            Resource::QueuedJobs => "queued_jobs",
        }
    }

    /// As it stands in a sentence.
    pub fn label(self) -> &'static str {
        match self {
            Resource::Gpus => "GPUs",
            Resource::GpuMemory => "GPU memory",
            Resource::Cpu => "cores",
            Resource::Memory => "memory",
            Resource::RunningTasks => "running tasks",
            Resource::QueuedJobs => "queued jobs",
        }
    }

    /// An amount of it as people write it.
    pub fn show(self, amount: u64) -> String {
        match self {
            Resource::Gpus => match u32::try_from(amount) {
                Ok(milli) => ShareMilli(milli).to_string(),
                Err(_) => (amount / 1000).to_string(),
            },
            Resource::GpuMemory | Resource::Memory => MemoryBytes(amount).to_string(),
            Resource::Cpu => CpuMilli(amount).to_string(),
            Resource::RunningTasks | Resource::QueuedJobs => amount.to_string(),
        }
    }
}

/// So much of each resource; sums stay at the largest number instead of wrapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Amounts([u64; Resource::ALL.len()]);

impl Amounts {
    pub fn of(self, resource: Resource) -> u64 {
        self.0[resource as usize]
    }

    #[must_use]
    pub fn with(mut self, resource: Resource, amount: u64) -> Amounts {
        self.0[resource as usize] = amount;
        self
    }

    pub fn is_zero(self) -> bool {
        self == Amounts::default()
    }

    #[must_use]
    pub fn plus(self, other: Amounts) -> Amounts {
        self.each(other, u64::saturating_add)
    }

    /// At least nothing of each.
    #[must_use]
    pub fn minus(self, other: Amounts) -> Amounts {
        self.each(other, u64::saturating_sub)
    }

    #[must_use]
    pub fn times(self, factor: u32) -> Amounts {
        Amounts(self.0.map(|amount| amount.saturating_mul(u64::from(factor))))
    }

    fn each(mut self, other: Amounts, sum: impl Fn(u64, u64) -> u64) -> Amounts {
        for (own, theirs) in self.0.iter_mut().zip(other.0) {
            *own = sum(*own, theirs);
        }
        self
    }
}

impl Claim {
    /// What an allocation with this claim counts against a quota.
    pub fn amounts(&self) -> Amounts {
        let gpu_memory =
            self.devices.iter().fold(0, |sum: u64, one| sum.saturating_add(one.memory.0));
        Amounts::default()
            .with(Resource::Gpus, self.gpu_milli())
            .with(Resource::GpuMemory, gpu_memory)
            .with(Resource::Cpu, self.cpu.0)
            .with(Resource::Memory, self.memory.0)
            .with(Resource::RunningTasks, 1)
    }
}

impl TaskSpec {
    /// What one instance counts against a quota at least: how much memory its GPUs have is
    /// known only once they are named.
    pub fn amounts_least(&self) -> Amounts {
        let least = Amounts::default()
            .with(Resource::Cpu, self.cpu.0)
            .with(Resource::Memory, self.memory.0)
            .with(Resource::RunningTasks, 1);
        let Some(gpu) = &self.gpu else { return least };
        let count = u64::from(gpu.count);
        let memory = gpu.memory_min.map_or(0, |memory| memory.0);
        least
            .with(Resource::Gpus, count.saturating_mul(u64::from(gpu.share.0)))
            .with(Resource::GpuMemory, count.saturating_mul(memory))
    }
}

/// What the jobs of a namespace may hold at most; what is not named has no limit.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Limit {
    pub amounts: BTreeMap<Resource, u64>,
    /// Jobs that may be submitted in a second.
    pub submits_per_second: Option<NonZeroU32>,
}

/// A limit leaves no room for what is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shortage {
    pub resource: Resource,
    pub limit: u64,
    pub used: u64,
    pub asked: u64,
}

impl Limit {
    /// Whether there is room for `asked` beside `used`. What asks for nothing of a resource is
    /// not held up by it, however much of it is used.
    ///
    /// # Errors
    /// The first resource that is short.
    pub fn check(&self, used: Amounts, asked: Amounts) -> Result<(), Shortage> {
        for (resource, limit) in &self.amounts {
            let (resource, limit) = (*resource, *limit);
            let (used, asked) = (used.of(resource), asked.of(resource));
            if asked > 0 && used.saturating_add(asked) > limit {
                return Err(Shortage { resource, limit, used, asked });
            }
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.amounts.is_empty() && self.submits_per_second.is_none()
    }
}

impl Shortage {
    /// Whether it would be short even if nothing were used.
    pub fn is_for_ever(&self) -> bool {
        self.asked > self.limit
    }

    pub fn of(self, namespace: &Name) -> OverQuota {
        OverQuota { namespace: namespace.clone(), shortage: self }
    }
}

/// A namespace has no room for what is asked for.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Error)]
#[error(
    "namespace `{namespace}`: {} {} of {} in use, {} asked for",
    .shortage.resource.label(),
    .shortage.resource.show(.shortage.used),
    .shortage.resource.show(.shortage.limit),
    .shortage.resource.show(.shortage.asked)
)]
pub struct OverQuota {
    pub namespace: Name,
    pub shortage: Shortage,
}

/// What of the cluster a namespace has.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Quota {
    pub limit: Limit,
}

/// What is set for a namespace.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NamespaceSpec {
    pub name: Name,
    pub description: String,
    pub quota: Quota,
    pub range: LimitRange,
}

impl NamespaceSpec {
    /// A namespace for which nothing more is set.
    pub fn new(name: Name) -> NamespaceSpec {
        let (description, quota) = (String::new(), Quota::default());
        NamespaceSpec { name, description, quota, range: LimitRange::default() }
    }
}

/// Everything wrong with what is set for a namespace.
pub fn validate_namespace(spec: &NamespaceSpec) -> Vec<Violation> {
    let mut violations = Vec::new();
    let found = spec.description.len();
    if found > DESCRIPTION_BYTES_MAX {
        let message = format!("expected at most {DESCRIPTION_BYTES_MAX} bytes, found {found}");
        violations.push(Violation { field: "description".to_owned(), message, hint: None });
    }
    violations.extend(spec.range.violations());
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(resource: Resource, most: u64) -> Limit {
        Limit { amounts: [(resource, most)].into(), submits_per_second: None }
    }

    #[test]
    fn amounts_are_where_their_resource_is() {
        for (position, resource) in Resource::ALL.into_iter().enumerate() {
            assert_eq!(resource as usize, position);
            let one = Amounts::default().with(resource, 7);
            let found = Resource::ALL.map(|other| one.of(other));
            assert_eq!(found.iter().sum::<u64>(), 7);
            assert_eq!(found[position], 7);
        }
    }

    #[test]
    fn a_limit_is_for_what_is_asked_for_alone() {
        use Resource as R;
        let check = |limited, most, used: u64, asked: Amounts| {
            limit(limited, most).check(Amounts::default().with(limited, used), asked)
        };
        let gpus = |milli| Amounts::default().with(R::Gpus, milli).with(R::Cpu, 1);
        assert_eq!(check(R::Gpus, 8000, 6000, gpus(2000)), Ok(()));
        let short = Shortage { resource: R::Gpus, limit: 8000, used: 8000, asked: 2000 };
        assert_eq!(check(R::Gpus, 8000, 8000, gpus(2000)), Err(short));
        assert!(!short.is_for_ever());
        assert!(check(R::Gpus, 8000, 0, gpus(8001)).unwrap_err().is_for_ever());
        // A quota was lowered below what is in use; what needs none of it goes on.
        assert_eq!(check(R::Gpus, 1000, 8000, gpus(0)), Ok(()));
        assert_eq!(check(R::Memory, u64::MAX, u64::MAX, gpus(1)), Ok(()));
        let said = short.of(&Name::new("research").unwrap()).to_string();
        assert_eq!(said, "namespace `research`: GPUs 8 of 8 in use, 2 asked for");
    }

    #[test]
    fn amounts_are_shown_with_their_unit() {
        use Resource as R;
        let shown = [
            R::Gpus.show(8500),
            R::GpuMemory.show(80 << 30),
            R::Cpu.show(500),
            R::Memory.show(3 << 29),
            R::RunningTasks.show(3),
            R::QueuedJobs.show(0),
        ];
        assert_eq!(shown, ["8.5", "80GiB", "500m", "1.5GiB", "3", "0"]);
    }
}
