//! The reasons for which a task waits: those of the job itself, and those of the
//! nodes, counted.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{AllocationId, JobKind, Misfit, Name, NodeId, StateMs, TaskIndex};
use berth_state::{ClusterState, JobPhase, JobRow, NodeRow};

use crate::filters::{Request, is_eligible};
use crate::hindrances::hindrances;
use crate::quota;

/// Names in one sentence, so that it is read.
const NAMED_MAX: usize = 16;

/// One reason, for programs by its code and for people by its detail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reason {
    /// Stable; in kebab-case.
    pub code: &'static str,
    /// How many nodes it is said of; 0 when it is said of the job.
    pub nodes: u64,
    /// In the words of the node that is nearest to fitting.
    pub detail: String,
    /// What stands against some of these nodes beside that, and against how many.
    pub also: Vec<(&'static str, u64)>,
}

/// Instances without a place. A daemon has none pending: what waits are the
/// nodes that could run it and do not.
pub(crate) fn waiting_count(view: &ClusterState, job: &JobRow, task: TaskIndex) -> u64 {
    let Some(row) = view.tasks().get(&(job.id, task)) else { return 0 };
    let Some(spec) = job.spec.tasks.get(usize::from(task.0)) else { return 0 };
    match job.kind() {
        JobKind::Batch | JobKind::Service => row.pending.len(),
        JobKind::Daemon => {
            let request = Request::of(view, &job.spec, spec);
            let covered = covered_nodes(view, job, task);
            let lacks = |node: &NodeRow| {
                !covered.contains(&node.id)
                    && is_eligible(node, request).is_ok()
                    && node.accepts_work()
            };
            view.nodes().values().filter(|node| lacks(node)).count() as u64
        }
    }
}

/// The nodes on which the task could still be placed: for a daemon those
/// without an instance of it, else all.
pub(crate) fn uncovered<'a>(
    view: &ClusterState,
    job: &JobRow,
    task: TaskIndex,
    nodes: &[&'a NodeRow],
) -> Vec<&'a NodeRow> {
    match job.kind() {
        JobKind::Batch | JobKind::Service => nodes.to_vec(),
        JobKind::Daemon => {
            let covered = covered_nodes(view, job, task);
            nodes.iter().copied().filter(|node| !covered.contains(&node.id)).collect()
        }
    }
}

/// Nodes where a daemon runs, or has failed for good.
fn covered_nodes(view: &ClusterState, job: &JobRow, task: TaskIndex) -> BTreeSet<NodeId> {
    let live = view.allocations_of_task(job.id, task).map(|row| row.id.instance.0);
    let failed = view.tasks().get(&(job.id, task)).into_iter().flat_map(|row| row.failed.iter());
    live.chain(failed).map(|instance| NodeId(u64::from(instance))).collect()
}

/// What holds the task back whatever the nodes.
pub(crate) fn own_hindrances(
    view: &ClusterState,
    job: &JobRow,
    task: TaskIndex,
    now: StateMs,
) -> Vec<Reason> {
    let own = |code, detail: String| Reason { code, nodes: 0, detail, also: Vec::new() };
    let mut reasons = Vec::new();
    if view.waits_after_restore(now) {
        let whom = match view.awaited() {
            0 => "nodes that the backup does not know have a while to come".to_owned(),
            awaited => format!("{awaited} of its nodes have not yet said what runs on them"),
        };
        let detail = format!(
            "wait: the cluster was restored from a backup, and {whom}; `berth operator resume` \
             waits no longer"
        );
        reasons.push(own("restored", detail));
    }
    if job.held {
        reasons.push(own("held", "the job is held: release it".to_owned()));
    }
    match job.phase {
        JobPhase::Active => {}
        JobPhase::Ending(_) | JobPhase::Ended { .. } => {
            reasons.push(own("ending", "the job is being stopped".to_owned()));
        }
    }
    if job.waits_for_orphans(task) && view.has_orphan_of_task(job.id, task) {
        let what = if job.spec.exclusive { "the job is exclusive" } else { "it is a gang" };
        let detail = format!(
            "wait: {what}, and an orphan still runs a part of it; `berth orphan list` shows where"
        );
        reasons.push(own("orphan", detail));
    }
    let kept = kept_places(view, job, task);
    let is_kept = kept.is_some();
    reasons.extend(kept.map(|detail| own("reserved", detail)));
    let spec = job.spec.tasks.get(usize::from(task.0));
    let row = view.tasks().get(&(job.id, task));
    let (Some(spec), Some(row)) = (spec, row) else { return reasons };
    if !is_kept && let Some(short) = quota::shortage(view, &job.spec, spec) {
        reasons.push(own("quota", quota::told(&short)));
    }
    if spec.gang.is_some() && row.live > 0 {
        let detail = format!("wait: {} of its gang have yet to end", row.live);
        reasons.push(own("gang-ending", detail));
    }
    let limit = spec.parallel_max();
    if row.live >= limit {
        let detail = format!("wait: {} of at most {limit} at once are live", row.live);
        reasons.push(own("parallel-limit", detail));
    }
    let later = |instance: u32| row.retries.get(&instance).map(|retry| retry.not_before);
    let mut due = row.pending.iter().map(|instance| later(instance).filter(|at| *at > now));
    let waits = row.pending.iter().filter_map(later).filter(|at| *at > now).min();
    if let Some(at) = waits.filter(|_| due.all(|at| at.is_some())) {
        let wait_ms = at.since(now).0;
        let detail = format!("wait: the next attempt begins in {wait_ms} ms at the earliest");
        reasons.push(own("backoff", detail));
    }
    reasons
}

/// Where places are kept, if one is for each instance that waits.
fn kept_places(view: &ClusterState, job: &JobRow, task: TaskIndex) -> Option<String> {
    let kept: Vec<(AllocationId, NodeId)> = view.reservations_of(job.id, task).collect();
    let (first, node) = kept.first()?;
    let others = kept.len() as u64 - 1;
    let how = if view.is_reserved_patiently(*first) { " by itself" } else { " for it" };
    if others + 1 < waiting_count(view, job, task) {
        return None;
    }
    if !view.is_gang(job.id, task) {
        let (node, awaited) = kept_on(view, *first, *node)?;
        let elsewhere = if others > 0 { format!("; {others} more like it") } else { String::new() };
        let awaited = some_of(awaited.iter().map(ToString::to_string));
        return Some(format!(
            "wait: a place is kept on node {node} until {awaited} has ended{how}{elsewhere}"
        ));
    }
    let on = kept.iter().filter_map(|(id, node)| kept_on(view, *id, *node));
    let on: BTreeMap<&Name, &BTreeSet<AllocationId>> = on.collect();
    let awaited = some_of(on.values().copied().flatten().map(ToString::to_string));
    let nodes = some_of(on.keys().map(ToString::to_string));
    Some(format!(
        "wait: the places of all members are kept, on {nodes}, until {awaited} has ended{how}"
    ))
}

/// The name of a node, and who is awaited there for an instance.
fn kept_on(
    view: &ClusterState,
    id: AllocationId,
    node: NodeId,
) -> Option<(&Name, &BTreeSet<AllocationId>)> {
    let node = view.nodes().get(&node)?;
    let kept = node.reservations.iter().find(|one| one.members.contains_key(&id))?;
    Some((&node.name, &kept.awaits))
}

/// As many as somebody reads.
fn some_of(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(NAMED_MAX);
    names.truncate(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names.join(", "))
}

/// Nodes that have the same thing against them first.
struct Bucket {
    nearest: Misfit,
    nodes: u64,
    also: BTreeMap<&'static str, u64>,
}

/// Every node once: by the first thing against it, as having an instance of
/// the daemon already, or as fitting. In the order from far to near.
pub(crate) fn node_reasons(
    nodes: &[&NodeRow],
    open: &[&NodeRow],
    now: StateMs,
    request: Request<'_>,
) -> Vec<Reason> {
    let mut fitting: u64 = 0;
    let mut groups: BTreeMap<&'static str, Bucket> = BTreeMap::new();
    for row in open {
        let mut against = hindrances(row, now, request).into_iter();
        let Some(misfit) = against.next() else {
            fitting += 1;
            continue;
        };
        let new = || Bucket { nearest: misfit.clone(), nodes: 0, also: BTreeMap::new() };
        let bucket = groups.entry(misfit_code(&misfit)).or_insert_with(new);
        bucket.nodes += 1;
        against.for_each(|other| *bucket.also.entry(misfit_code(&other)).or_default() += 1);
        // The order of `Misfit` ends in the amounts: the largest is that of the node which
        // lacks least.
        if bucket.nearest < misfit {
            bucket.nearest = misfit;
        }
    }
    let mut groups: Vec<Bucket> = groups.into_values().collect();
    groups.sort_by(|one, other| one.nearest.cmp(&other.nearest));
    let said = groups.into_iter().map(|Bucket { nearest: misfit, nodes, also }| {
        let prefix = if nodes > 1 { "nearest node: " } else { "" };
        let detail = match &misfit {
            Misfit::GpuCount { .. }
            | Misfit::CpuCapacity { .. }
            | Misfit::MemoryCapacity { .. }
            | Misfit::ReservedSoon { .. }
            | Misfit::CpuPressure { .. }
            | Misfit::MemoryPressure { .. }
            | Misfit::GpuBusy { .. }
            | Misfit::GpuShareBusy { .. }
            | Misfit::CpuBusy { .. }
            | Misfit::MemoryBusy { .. }
            | Misfit::PortsBusy { .. } => format!("{prefix}{misfit}"),
            Misfit::OtherNode { .. }
            | Misfit::OtherPool { .. }
            | Misfit::Label { .. }
            | Misfit::NoDocker
            | Misfit::GpuModel { .. }
            | Misfit::GpuMemory { .. }
            | Misfit::NotReady
            | Misfit::Cordoned
            | Misfit::Draining
            | Misfit::Resting
            | Misfit::Reserved { .. }
            | Misfit::DeviceGone { .. }
            | Misfit::DeviceBusy { .. }
            | Misfit::DeviceCrowded { .. }
            | Misfit::PortTaken { .. }
            | Misfit::ClaimMismatch => misfit.to_string(),
        };
        Reason { code: misfit_code(&misfit), nodes, detail, also: also.into_iter().collect() }
    });
    let other = |code, nodes: u64, detail: &str| {
        (nodes > 0).then(|| Reason { code, nodes, detail: detail.to_owned(), also: Vec::new() })
    };
    let covered = nodes.len().saturating_sub(open.len()) as u64;
    said.chain(other("has-one", covered, "has its instance already"))
        .chain(other("fits", fitting, "fits now, unless tasks ahead in the queue take it"))
        .collect()
}

/// A stable name for each reason that a node can have.
pub fn misfit_code(misfit: &Misfit) -> &'static str {
    match misfit {
        Misfit::OtherNode { .. } => "other-node",
        Misfit::OtherPool { .. } => "other-pool",
        Misfit::Label { .. } => "label",
        Misfit::NoDocker => "no-docker",
        Misfit::GpuModel { .. } => "gpu-model",
        Misfit::GpuMemory { .. } => "gpu-memory",
        Misfit::GpuCount { .. } => "gpu-count",
        Misfit::CpuCapacity { .. } => "cpu-capacity",
        Misfit::MemoryCapacity { .. } => "memory-capacity",
        Misfit::NotReady => "not-ready",
        Misfit::Cordoned => "cordoned",
        Misfit::Draining => "draining",
        Misfit::Resting => "resting",
        Misfit::Reserved { .. } => "node-reserved",
        Misfit::ReservedSoon { .. } => "node-reserved-soon",
        Misfit::CpuPressure { .. } => "cpu-pressure",
        Misfit::MemoryPressure { .. } => "memory-pressure",
        Misfit::GpuBusy { .. } | Misfit::GpuShareBusy { .. } => "gpu-busy",
        Misfit::CpuBusy { .. } => "cpu-busy",
        Misfit::MemoryBusy { .. } => "memory-busy",
        Misfit::PortsBusy { .. } => "ports-busy",
        Misfit::DeviceGone { .. } => "device-gone",
        Misfit::DeviceBusy { .. } => "device-busy",
        Misfit::DeviceCrowded { .. } => "device-crowded",
        Misfit::PortTaken { .. } => "port-taken",
        Misfit::ClaimMismatch => "claim-mismatch",
    }
}
