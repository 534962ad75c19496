//! What each task of a namespace may ask for: defaults for what its job leaves out, and bounds
//! for what it asks.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::name::Name;
use crate::namespace::Resource;
use crate::node::DEVICES_MAX;
use crate::quantity::{CpuMilli, MemoryBytes, ShareMilli};
use crate::spec::{GpuRequest, JobSpec, TaskSpec};
use crate::validate::Violation;

/// What of a task its job says nothing of, where a value stands in the specification all the
/// same. A request for GPUs, or for their memory, is absent then.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct LeftOut {
    pub cpu: bool,
    pub memory: bool,
}

/// For one kind of request; amounts in the units of its resource.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Bounds {
    /// What stands for a request that was left out.
    pub default: Option<u64>,
    pub min: Option<u64>,
    pub max: Option<u64>,
}

/// Bounds by what is asked for; only of [`LimitRange::RESOURCES`].
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct LimitRange(pub BTreeMap<Resource, Bounds>);

/// Which bound a request is beyond.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Bound {
    Min(u64),
    Max(u64),
}

/// A task asks for what its namespace does not let it ask for.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Error)]
#[error(
    "tasks.{task}.{}: namespace `{namespace}` lets a task ask for {}, found {}",
    key_of(*.resource),
    shown(*.resource, *.bound),
    .resource.show(*.asked)
)]
pub struct OutOfRange {
    pub namespace: Name,
    pub task: Name,
    pub resource: Resource,
    pub asked: u64,
    pub bound: Bound,
}

/// The key of a job file that asks for it.
fn key_of(resource: Resource) -> &'static str {
    match resource {
        Resource::Gpus => "gpu",
        Resource::GpuMemory => "gpu.vram",
        Resource::Cpu | Resource::Memory | Resource::RunningTasks | Resource::QueuedJobs => {
            resource.name()
        }
    }
}

fn shown(resource: Resource, bound: Bound) -> String {
    let label = resource.label();
    match bound {
        Bound::Min(least) => format!("at least {} {label}", resource.show(least)),
        Bound::Max(most) => format!("at most {} {label}", resource.show(most)),
    }
}

impl LimitRange {
    /// What a task asks for, in the order in which defaults are filled in.
    pub const RESOURCES: [Resource; 4] =
        [Resource::Gpus, Resource::GpuMemory, Resource::Cpu, Resource::Memory];

    /// Fills in what the job left out and there is a default for; whether anything was. What was
    /// filled in is left out no more.
    pub fn fill(&self, spec: &mut JobSpec) -> bool {
        let mut filled = false;
        for task in &mut spec.tasks {
            for resource in LimitRange::RESOURCES {
                let default = self.0.get(&resource).and_then(|bounds| bounds.default);
                filled |= default.is_some_and(|default| fill_in(task, resource, default));
            }
        }
        filled
    }

    /// Whether all tasks ask for what they may. A bound for GPUs, or for their memory, is for
    /// tasks that ask for them.
    ///
    /// # Errors
    /// The first request that is out of range.
    pub fn check(&self, spec: &JobSpec) -> Result<(), OutOfRange> {
        for task in &spec.tasks {
            for (resource, bounds) in &self.0 {
                let Some(asked) = asked(task, *resource) else { continue };
                let below = bounds.min.filter(|least| asked < *least).map(Bound::Min);
                let above = bounds.max.filter(|most| asked > *most).map(Bound::Max);
                if let Some(bound) = below.or(above) {
                    let (namespace, task) = (spec.namespace.clone(), task.name.clone());
                    let resource = *resource;
                    return Err(OutOfRange { namespace, task, resource, asked, bound });
                }
            }
        }
        Ok(())
    }

    /// Everything wrong with it.
    pub(crate) fn violations(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        for (resource, bounds) in &self.0 {
            let path = format!("range.{}", resource.name());
            let wrong = |field: &str, message: String| {
                let field = if field.is_empty() { path.clone() } else { format!("{path}.{field}") };
                Violation { field, message, hint: None }
            };
            if !LimitRange::RESOURCES.contains(resource) {
                violations.push(wrong("", "no task asks for it".to_owned()));
            }
            if *bounds == Bounds::default() {
                violations.push(wrong("", "says nothing".to_owned()));
            }
            let Bounds { default, min, max } = *bounds;
            let ordered = [("default", min, default), ("default", default, max), ("min", min, max)];
            let crossed = ordered
                .into_iter()
                .find(|(_, low, high)| low.is_some_and(|low| high.is_some_and(|high| low > high)));
            if let Some((field, low, high)) = crossed {
                let show = |amount: Option<u64>| resource.show(amount.unwrap_or_default());
                let message = format!("{} is above {}", show(low), show(high));
                violations.push(wrong(field, message));
            }
            let gpus = default.filter(|_| *resource == Resource::Gpus);
            if gpus.is_some_and(|milli| request_of(milli).is_none()) {
                let message =
                    format!("expected a part of one GPU, or 1 to {DEVICES_MAX} whole ones");
                violations.push(wrong("default", message));
            }
        }
        violations
    }
}

fn fill_in(task: &mut TaskSpec, resource: Resource, default: u64) -> bool {
    match resource {
        Resource::Gpus if task.gpu.is_none() => {
            task.gpu = request_of(default);
            task.gpu.is_some()
        }
        Resource::GpuMemory => match &mut task.gpu {
            Some(gpu) if gpu.memory_min.is_none() => {
                gpu.memory_min = Some(MemoryBytes(default));
                true
            }
            Some(_) | None => false,
        },
        Resource::Cpu if task.left_out.cpu => {
            task.cpu = CpuMilli(default);
            task.left_out.cpu = false;
            true
        }
        Resource::Memory if task.left_out.memory => {
            task.memory = MemoryBytes(default);
            task.left_out.memory = false;
            true
        }
        Resource::Gpus
        | Resource::Cpu
        | Resource::Memory
        | Resource::RunningTasks
        | Resource::QueuedJobs => false,
    }
}

/// So many thousandths as a task can ask for them.
fn request_of(milli: u64) -> Option<GpuRequest> {
    let milli = u32::try_from(milli).ok()?;
    let count = milli / 1000;
    if milli % 1000 != 0 {
        return (count == 0)
            .then_some(GpuRequest { share: ShareMilli(milli), ..GpuRequest::whole(1) });
    }
    (1..=DEVICES_MAX).contains(&usize::try_from(count).ok()?).then_some(GpuRequest::whole(count))
}

fn asked(task: &TaskSpec, resource: Resource) -> Option<u64> {
    let gpu = task.gpu.as_ref();
    match resource {
        Resource::Gpus => gpu.map(|gpu| u64::from(gpu.count) * u64::from(gpu.share.0)),
        Resource::GpuMemory => gpu.and_then(|gpu| gpu.memory_min).map(|memory| memory.0),
        Resource::Cpu => Some(task.cpu.0),
        Resource::Memory => Some(task.memory.0),
        Resource::RunningTasks | Resource::QueuedJobs => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::JobKind;

    fn job(change: impl FnOnce(&mut TaskSpec)) -> JobSpec {
        let name = |text: &str| Name::new(text).unwrap();
        let mut task = TaskSpec::new(name("main"), JobKind::Batch, vec!["true".to_owned()]);
        task.left_out = LeftOut { cpu: true, memory: true };
        change(&mut task);
        JobSpec::new(name("job"), name("research"), JobKind::Batch, vec![task])
    }

    fn range(
        resource: Resource,
        default: Option<u64>,
        min: Option<u64>,
        max: Option<u64>,
    ) -> LimitRange {
        LimitRange([(resource, Bounds { default, min, max })].into())
    }

    #[test]
    fn defaults_are_for_what_was_left_out() {
        use Resource as R;
        let filled = |resource, default, change: fn(&mut TaskSpec)| {
            let mut spec = job(change);
            let filled = range(resource, Some(default), None, None).fill(&mut spec);
            let task = spec.tasks.remove(0);
            assert!(
                !range(resource, Some(default), None, None).fill(&mut job(|it| *it = task.clone())),
                "once"
            );
            (filled, task)
        };
        let (did, task) = filled(R::Cpu, 4000, |_| {});
        assert_eq!(
            (did, task.cpu, task.left_out.cpu, task.left_out.memory),
            (true, CpuMilli(4000), false, true)
        );
        let (did, task) = filled(R::Cpu, 4000, |task| task.left_out.cpu = false);
        assert_eq!((did, task.cpu), (false, JobSpec::CPU_DEFAULT));
        let (did, task) = filled(R::Memory, 1 << 30, |_| {});
        assert_eq!((did, task.memory), (true, MemoryBytes(1 << 30)));
        assert_eq!(filled(R::Gpus, 2000, |_| {}).1.gpu, Some(GpuRequest::whole(2)));
        let part = GpuRequest { share: ShareMilli(250), ..GpuRequest::whole(1) };
        assert_eq!(filled(R::Gpus, 250, |_| {}).1.gpu, Some(part));
        let (did, task) = filled(R::Gpus, 2000, |task| task.gpu = Some(GpuRequest::whole(1)));
        assert_eq!((did, task.gpu), (false, Some(GpuRequest::whole(1))));
        let (did, task) =
            filled(R::GpuMemory, 1 << 30, |task| task.gpu = Some(GpuRequest::whole(1)));
        assert_eq!((did, task.gpu.unwrap().memory_min), (true, Some(MemoryBytes(1 << 30))));
        assert!(!filled(R::GpuMemory, 1 << 30, |_| {}).0);
    }

    #[test]
    fn what_is_out_of_range_is_told_with_field_bound_and_namespace() {
        use Resource as R;
        let check = |resource, min, max, change: fn(&mut TaskSpec)| {
            let checked = range(resource, None, min, max).check(&job(change));
            checked.map_err(|refused| refused.to_string())
        };
        let said = |text: &str| Err(format!("tasks.main.{text}"));
        let of = "namespace `research` lets a task ask for";
        assert_eq!(check(R::Cpu, Some(100), Some(100), |_| {}), Ok(()));
        assert_eq!(
            check(R::Cpu, Some(101), None, |_| {}),
            said(&format!("cpu: {of} at least 101m cores, found 100m"))
        );
        let memory: fn(&mut TaskSpec) = |task| task.memory = MemoryBytes(2 << 30);
        assert_eq!(
            check(R::Memory, None, Some(1 << 30), memory),
            said(&format!("memory: {of} at most 1GiB memory, found 2GiB"))
        );
        let gpus: fn(&mut TaskSpec) = |task| task.gpu = Some(GpuRequest::whole(4));
        assert_eq!(
            check(R::Gpus, None, Some(2500), gpus),
            said(&format!("gpu: {of} at most 2.5 GPUs, found 4"))
        );
        // It asks for none.
        assert_eq!(check(R::Gpus, Some(1000), None, |_| {}), Ok(()));
        assert_eq!(check(R::GpuMemory, Some(1), None, gpus), Ok(()));
    }

    #[test]
    fn bounds_that_cannot_be_are_refused() {
        use Resource as R;
        let check = |range: LimitRange, expected: &[(&str, &str)]| {
            let violations = range.violations();
            let found: Vec<_> =
                violations.iter().map(|one| (one.field.as_str(), one.message.as_str())).collect();
            assert_eq!(found, expected);
        };
        check(range(R::Cpu, Some(2000), Some(1000), Some(3000)), &[]);
        check(
            range(R::Cpu, Some(500), Some(1000), None),
            &[("range.cpu.default", "1 is above 500m")],
        );
        check(
            range(R::Cpu, Some(2000), None, Some(1000)),
            &[("range.cpu.default", "2 is above 1")],
        );
        check(range(R::Cpu, None, Some(2000), Some(1000)), &[("range.cpu.min", "2 is above 1")]);
        check(range(R::Memory, None, None, None), &[("range.memory", "says nothing")]);
        check(
            range(R::QueuedJobs, None, Some(1), None),
            &[("range.queued_jobs", "no task asks for it")],
        );
        let gpus = "expected a part of one GPU, or 1 to 64 whole ones";
        check(range(R::Gpus, Some(1500), None, None), &[("range.gpus.default", gpus)]);
        check(range(R::Gpus, Some(0), None, None), &[("range.gpus.default", gpus)]);
    }
}
