//! What is set for a namespace: how much of the cluster its jobs may hold, and what each of
//! their tasks may ask for. Whether there is room is one question, which planning and apply
//! share.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use thiserror::Error;

use crate::fits::Claim;
use crate::guarantee::Guarantee;
use crate::limit_range::LimitRange;
use crate::name::Name;
use crate::node::NodeSpec;
use crate::quantity::{CpuMilli, MemoryBytes, ShareMilli};
use crate::spec::{JobKind, JobSpec, TaskSpec};
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

    /// Whether nothing of it is of nodes: at most some jobs are queued.
    pub fn holds_nothing(self) -> bool {
        self.with(Resource::QueuedJobs, 0).is_zero()
    }

    #[must_use]
    pub fn plus(self, other: Amounts) -> Amounts {
        self.each(other, u64::saturating_add)
    }

    /// The largest part that this is of any resource of the whole that nodes have, in millionths: a
    /// dominant share. Of what the whole has none of nothing is counted.
    pub fn dominant_ppm(self, whole: Amounts) -> u64 {
        let part = |resource| {
            let (held, all) = (u128::from(self.of(resource)), u128::from(whole.of(resource)));
            (held * 1_000_000).checked_div(all).unwrap_or(0)
        };
        let most = Guarantee::RESOURCES.map(part).into_iter().max().unwrap_or(0);
        u64::try_from(most).unwrap_or(u64::MAX)
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

impl NodeSpec {
    /// What a node has of what a quota counts.
    pub fn amounts(&self) -> Amounts {
        let gpus = self.devices.len() as u64;
        let memory = self.devices.iter().fold(0, |sum: u64, one| sum.saturating_add(one.memory.0));
        Amounts::default()
            .with(Resource::Gpus, gpus.saturating_mul(ShareMilli::WHOLE.0.into()))
            .with(Resource::GpuMemory, memory)
            .with(Resource::Cpu, self.cpu.0)
            .with(Resource::Memory, self.memory.0)
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

/// Which part of a quota is too small.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum QuotaPart {
    Limit,
    /// Beyond it only what may be ended for others is lent anything.
    Guarantee,
}

/// A quota leaves no room for what is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shortage {
    pub part: QuotaPart,
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
        Shortage::of_any(&self.amounts, QuotaPart::Limit, used, asked)
    }

    pub fn is_empty(&self) -> bool {
        self.amounts.is_empty() && self.submits_per_second.is_none()
    }
}

impl Shortage {
    /// The first of these bounds that leaves no room for what is asked for of it.
    pub(crate) fn of_any<'b>(
        bounds: impl IntoIterator<Item = (&'b Resource, &'b u64)>,
        part: QuotaPart,
        used: Amounts,
        asked: Amounts,
    ) -> Result<(), Shortage> {
        for (resource, limit) in bounds {
            let (resource, limit) = (*resource, *limit);
            let (used, asked) = (used.of(resource), asked.of(resource));
            if asked > 0 && used.saturating_add(asked) > limit {
                return Err(Shortage { part, resource, limit, used, asked });
            }
        }
        Ok(())
    }

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
    "namespace `{namespace}`: {} {} of {} {}, {} asked for{}",
    .shortage.resource.label(),
    .shortage.resource.show(.shortage.used),
    .shortage.resource.show(.shortage.limit),
    match .shortage.part {
        QuotaPart::Limit => "in use",
        QuotaPart::Guarantee => "that are guaranteed in use by what may not be ended for others",
    },
    .shortage.resource.show(.shortage.asked),
    match .shortage.part {
        QuotaPart::Limit => "",
        QuotaPart::Guarantee => ", and it is lent nothing",
    }
)]
pub struct OverQuota {
    pub namespace: Name,
    pub shortage: Shortage,
}

/// What of the cluster a namespace has.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Quota {
    pub limit: Limit,
    /// No more than the limit.
    pub guaranteed: Guarantee,
}

impl Quota {
    /// Whether there is room for `asked` in the limit, and of what may not be ended for others in
    /// the guarantee: what is lent has to come back.
    ///
    /// # Errors
    /// The first resource that is short.
    pub fn check(&self, used: Used, asked: Amounts, borrowing: Borrowing) -> Result<(), Shortage> {
        self.limit.check(used.all, asked)?;
        match borrowing {
            Borrowing::Allowed => Ok(()),
            Borrowing::Barred => self.guaranteed.check(used.barred, asked),
        }
    }
}

/// What counts against a quota.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Used {
    pub all: Amounts,
    /// What of it may not be ended for others.
    pub barred: Amounts,
}

impl Used {
    /// After what something that may borrow, or may not, holds has come or gone.
    #[must_use]
    pub fn changed(self, borrowing: Borrowing, change: impl Fn(Amounts) -> Amounts) -> Used {
        let barred = match borrowing {
            Borrowing::Allowed => self.barred,
            Borrowing::Barred => change(self.barred),
        };
        Used { all: change(self.all), barred }
    }
}

/// Whether a job's instances may hold more than what is guaranteed to their namespace.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Borrowing {
    Allowed,
    Barred,
}

impl JobSpec {
    /// Only what may be ended for others may be lent anything.
    pub fn borrowing(&self) -> Borrowing {
        match self.preemption.preemptible && self.kind != JobKind::Daemon {
            true => Borrowing::Allowed,
            false => Borrowing::Barred,
        }
    }
}

/// What is set for a namespace.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NamespaceSpec {
    pub name: Name,
    pub description: String,
    pub quota: Quota,
    pub range: LimitRange,
    /// Its part of what is idle is as large, beside those of others, as this is beside theirs: 1 to
    /// [`NamespaceSpec::WEIGHT_MAX`].
    pub weight: u32,
}

impl NamespaceSpec {
    /// A namespace for which nothing more is set.
    pub fn new(name: Name) -> NamespaceSpec {
        NamespaceSpec {
            name,
            description: String::new(),
            quota: Quota::default(),
            range: LimitRange::default(),
            weight: NamespaceSpec::WEIGHT_DEFAULT,
        }
    }

    /// Of a namespace that says nothing; some may have less.
    pub const WEIGHT_DEFAULT: u32 = 10;
    pub const WEIGHT_MAX: u32 = 1000;
}

/// Everything wrong with what is set for a namespace.
pub fn validate_namespace(spec: &NamespaceSpec) -> Vec<Violation> {
    let mut violations = Vec::new();
    let found = spec.description.len();
    if found > DESCRIPTION_BYTES_MAX {
        let message = format!("expected at most {DESCRIPTION_BYTES_MAX} bytes, found {found}");
        violations.push(Violation { field: "description".to_owned(), message, hint: None });
    }
    if !(1..=NamespaceSpec::WEIGHT_MAX).contains(&spec.weight) {
        let message = format!("expected 1 to {}, found {}", NamespaceSpec::WEIGHT_MAX, spec.weight);
        violations.push(Violation { field: "weight".to_owned(), message, hint: None });
    }
    let Quota { limit, guaranteed } = &spec.quota;
    for (resource, sure) in &guaranteed.amounts {
        let most = limit.amounts.get(resource).filter(|most| sure > *most);
        let message = match most {
            Some(most) => {
                let (most, sure) = (resource.show(*most), resource.show(*sure));
                format!("expected at most the limit of {most}, found {sure}")
            }
            None if Guarantee::RESOURCES.contains(resource) => continue,
            None => "this cannot be guaranteed".to_owned(),
        };
        let field = format!("quota.guaranteed.{}", resource.name());
        violations.push(Violation { field, message, hint: None });
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
        let (part, limit, used, asked) = (QuotaPart::Limit, 8000, 8000, 2000);
        let short = Shortage { part, resource: R::Gpus, limit, used, asked };
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
    fn the_largest_part_of_anything_is_the_share() {
        use Resource as R;
        let whole = Amounts::default().with(R::Gpus, 8000).with(R::Cpu, 64_000);
        let of = |gpus, cpu| Amounts::default().with(R::Gpus, gpus).with(R::Cpu, cpu);
        let found = [of(0, 0), of(2000, 16_000), of(0, 48_000), of(9000, 1)];
        let found = found.map(|held| held.dominant_ppm(whole));
        assert_eq!(found, [0, 250_000, 750_000, 1_125_000]);
        assert_eq!(Amounts::default().with(R::Memory, 9).dominant_ppm(whole), 0);
    }

    #[test]
    fn what_may_not_be_ended_is_lent_nothing() {
        let gpus = |milli| Amounts::default().with(Resource::Gpus, milli);
        let guaranteed = Guarantee { amounts: [(Resource::Gpus, 6000)].into() };
        let quota = Quota { limit: limit(Resource::Gpus, 8000), guaranteed };
        let used = |all, barred| Used { all: gpus(all), barred: gpus(barred) };
        assert_eq!(quota.check(used(6000, 6000), gpus(2000), Borrowing::Allowed), Ok(()));
        assert_eq!(quota.check(used(6000, 4000), gpus(2000), Borrowing::Barred), Ok(()));
        let short = quota.check(used(6000, 5000), gpus(2000), Borrowing::Barred).unwrap_err();
        let said = short.of(&Name::new("research").unwrap()).to_string();
        let expected = "namespace `research`: GPUs 5 of 6 that are guaranteed in use by what may \
                        not be ended for others, 2 asked for, and it is lent nothing";
        assert_eq!(said, expected);
    }

    #[test]
    fn what_is_guaranteed_is_no_more_than_the_limit() {
        let mut spec = NamespaceSpec::new(Name::new("research").unwrap());
        spec.quota.limit = limit(Resource::Gpus, 8000);
        spec.quota.guaranteed.amounts = [(Resource::Gpus, 8000), (Resource::Cpu, 9)].into();
        assert!(validate_namespace(&spec).is_empty());
        let amounts = [(Resource::Gpus, 8500), (Resource::RunningTasks, 1)];
        spec.quota.guaranteed.amounts = amounts.into();
        let told: Vec<String> = validate_namespace(&spec)
            .into_iter()
            .map(|one| format!("{}: {}", one.field, one.message))
            .collect();
        let expected = [
            "quota.guaranteed.gpus: expected at most the limit of 8, found 8.5",
            "quota.guaranteed.running_tasks: this cannot be guaranteed",
        ];
        assert_eq!(told, expected);
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
