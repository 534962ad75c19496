//! What each namespace may still be given: by the question that apply will ask, so that nothing
//! is proposed which it would refuse for ever.

use std::collections::BTreeMap;

use berth_model::fits::suits;
use berth_model::{
    AllocationId, Amounts, Borrowing, GpuRequest, JobSpec, Name, OverQuota, Quota, Resource,
    TaskIndex, TaskSpec, Used,
};
use berth_state::{ClusterState, JobRow, Right};

use crate::victims::{Lender, Lenders};

/// What the namespaces that a plan has met use, with what the plan hands out.
#[derive(Default)]
pub(crate) struct Rooms {
    used: BTreeMap<Name, Used>,
    /// The memory of all devices of one instance, by request.
    device_memory: BTreeMap<GpuRequest, u64>,
    /// Once they were asked for.
    lenders: Option<Lenders>,
}

impl Rooms {
    /// Whether a namespace has room for so many more instances of a task, all at once. What is kept
    /// for `own`, if it is, makes way for it and does not count.
    ///
    /// # Errors
    /// What is short.
    pub fn check(
        &mut self,
        view: &ClusterState,
        spec: &JobSpec,
        (task, count): (&TaskSpec, u32),
        own: Option<AllocationId>,
    ) -> Result<(), OverQuota> {
        let namespace = &spec.namespace;
        let Some(row) = view.namespace(namespace) else { return Ok(()) };
        let quota = &row.spec.quota;
        let asked = self.asked(view, quota, task).times(count);
        let kept = own.map_or_else(Amounts::default, |own| view.kept_for(own));
        let used = self.used_by(view, namespace).changed(spec.borrowing(), |sum| sum.minus(kept));
        quota.check(used, asked, spec.borrowing()).map_err(|shortage| shortage.of(namespace))
    }

    /// By what right so many more instances of a task are asked for, all at once; `own` as above.
    pub fn right(
        &mut self,
        view: &ClusterState,
        spec: &JobSpec,
        (task, count): (&TaskSpec, u32),
        own: Option<AllocationId>,
    ) -> Right {
        let Some(row) = view.namespace(&spec.namespace) else { return Right::Priority };
        let quota = &row.spec.quota;
        if quota.guaranteed.is_empty() {
            return Right::Priority;
        }
        let asked = self.asked(view, quota, task).times(count);
        let kept = own.map_or_else(Amounts::default, |own| view.kept_for(own));
        match quota.guaranteed.covers(self.used_by(view, &spec.namespace).all.minus(kept), asked) {
            true => Right::Guarantee,
            false => Right::Priority,
        }
    }

    /// What one instance takes of what the quota counts.
    pub fn asked(&mut self, view: &ClusterState, quota: &Quota, task: &TaskSpec) -> Amounts {
        let least = task.amounts_least();
        let counts = |amounts: &BTreeMap<Resource, u64>| amounts.contains_key(&Resource::GpuMemory);
        let Some(gpu) = &task.gpu else { return least };
        if !counts(&quota.limit.amounts) && !counts(&quota.guaranteed.amounts) {
            return least;
        }
        let known = self.device_memory.entry(gpu.clone());
        least.with(Resource::GpuMemory, *known.or_insert_with(|| most_memory(view, gpu)))
    }

    /// What namespaces to which something is guaranteed can do without. Costs O(namespaces) once.
    pub fn lenders(&mut self, view: &ClusterState) -> &mut Lenders {
        self.lenders.get_or_insert_with(|| {
            let lender = |name: &Name| {
                let lent = view.lent_to(name)?;
                Some((name.clone(), Lender { lent, taken: Amounts::default() }))
            };
            view.guaranteed().filter_map(lender).collect()
        })
    }

    /// The same, of whom somebody was looked for already.
    pub fn known_lenders(&self) -> &Lenders {
        static NOBODY: Lenders = Lenders::new();
        self.lenders.as_ref().unwrap_or(&NOBODY)
    }

    pub fn take(&mut self, view: &ClusterState, spec: &JobSpec, amounts: Amounts) {
        if view.namespace(&spec.namespace).is_some() {
            let used = self.used_by(view, &spec.namespace);
            *used = used.changed(spec.borrowing(), |sum| sum.plus(amounts));
        }
    }

    pub fn give_back(&mut self, spec: &JobSpec, amounts: Amounts) {
        if let Some(used) = self.used.get_mut(&spec.namespace) {
            *used = used.changed(spec.borrowing(), |sum| sum.minus(amounts));
        }
    }

    fn used_by(&mut self, view: &ClusterState, namespace: &Name) -> &mut Used {
        self.used.entry(namespace.clone()).or_insert_with(|| {
            // Of both kinds something may be asked for.
            view.used(namespace, Borrowing::Barred, None)
        })
    }
}

/// The most that the devices of one instance may have: which ones they will be is not known, and
/// apply counts all of their memory. Costs O(devices).
fn most_memory(view: &ClusterState, gpu: &GpuRequest) -> u64 {
    let devices = view.nodes().values().flat_map(|row| &row.spec.devices);
    let suitable = devices.filter(|device| suits(gpu, device));
    let most = suitable.map(|device| gpu.memory_of(device.memory).0).max().unwrap_or(0);
    most.saturating_mul(u64::from(gpu.count))
}

/// What a namespace is short of for the next instance of a task, or for the whole of a gang.
pub(crate) fn shortage(view: &ClusterState, spec: &JobSpec, task: &TaskSpec) -> Option<OverQuota> {
    let together = if task.gang.is_some() { task.count } else { 1 };
    Rooms::default().check(view, spec, (task, together), None).err()
}

/// Why a job could never start all that it is, even if its namespace held nothing else.
pub fn passes_quota(view: &ClusterState, spec: &JobSpec) -> Option<String> {
    let short = spec.tasks.iter().filter_map(|task| shortage(view, spec, task));
    short.filter(|short| short.shortage.is_for_ever()).map(|short| told(&short)).next()
}

/// What a job that wants places waits for, if its namespace has no room for the first of its
/// tasks that waits.
pub fn waits_for_quota(view: &ClusterState, job: &JobRow) -> Option<String> {
    let waits = |at: &usize| {
        let task = u16::try_from(*at).ok().map(TaskIndex)?;
        let row = view.tasks().get(&(job.id, task))?;
        let is_kept = view.reservations_of(job.id, task).next().is_some();
        (!row.pending.is_empty() && !is_kept).then_some(())
    };
    let first = (0..job.spec.tasks.len()).find(|at| job.places() && waits(at).is_some())?;
    let short = shortage(view, &job.spec, job.spec.tasks.get(first)?)?;
    Some(told(&short))
}

/// What people are told of it.
pub(crate) fn told(short: &OverQuota) -> String {
    if short.shortage.is_for_ever() {
        return format!("{short}, more than its quota: raise it, or ask for less");
    }
    format!("wait: {short}")
}
