//! The smallest single change that would make a waiting task fit now. It is
//! found by making the change to a copy and asking the filters again, so that
//! what is said to fit does fit.

use std::collections::BTreeMap;
use std::fmt;

use berth_model::fits::open_devices;
use berth_model::{
    Constraints, CpuMilli, DurationMs, Guards, JobKind, MemoryBytes, Misfit, Name, StateMs,
    TaskSpec,
};
use berth_state::NodeRow;
use berth_state::reservation::RESTART_MS;

use crate::filters::{Pass, Request, admits, has_room, is_eligible, takes_work};

/// A change and where it helps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub kind: ChangeKind,
    /// On how many nodes it would be enough.
    pub nodes: u32,
    /// The first of them.
    pub node: Name,
}

/// What would have to be different. The order is from small to large: what
/// passes by itself, what others hold, then what the job asks for, and within
/// one kind the missing amount.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ChangeKind {
    NodeState(NodeHindrance),
    /// It is reserved for others.
    Reserved {
        reservation: String,
    },
    /// It is reserved for others soon: what ends by its time limit within so long may run before.
    TimeLimit {
        most: DurationMs,
    },
    Gpus {
        shortage: Shortage,
        missing: u32,
        asked: u32,
        free: u32,
        model: String,
    },
    Cpu {
        shortage: Shortage,
        missing: CpuMilli,
        asked: CpuMilli,
        free: CpuMilli,
    },
    Memory {
        shortage: Shortage,
        missing: MemoryBytes,
        asked: MemoryBytes,
        free: MemoryBytes,
    },
    Ports {
        missing: u32,
    },
    Label {
        key: String,
        asked: String,
    },
    Pool {
        asked: String,
        found: String,
    },
    OtherNode {
        asked: String,
    },
    GpuMemory {
        asked: MemoryBytes,
    },
    GpuModel {
        asked: String,
    },
}

/// A state of a node that lets nothing in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NodeHindrance {
    NotReady,
    Draining,
    Cordoned,
    Resting,
    Pressed(Guards),
}

/// Why there is not enough.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Shortage {
    /// Other work holds it.
    Held,
    /// The node never had it.
    Absent,
}

/// The smallest change over all nodes, of which none fits as things are; `None`
/// when no single one is enough.
pub(crate) fn smallest(nodes: &[&NodeRow], now: StateMs, request: Request<'_>) -> Option<Change> {
    let mut found: BTreeMap<ChangeKind, (u32, Name)> = BTreeMap::new();
    for row in nodes {
        let Err(misfit) = admits(row, &row.used, now, request) else { continue };
        if let Some(kind) = sole_change(row, now, request, misfit) {
            found.entry(kind).or_insert_with(|| (0, row.name.clone())).0 += 1;
        }
    }
    let (kind, (nodes, node)) = found.pop_first()?;
    Some(Change { kind, nodes, node })
}

/// The change that does away with `misfit`, if nothing else is in the way.
fn sole_change(
    row: &NodeRow,
    now: StateMs,
    request: Request<'_>,
    misfit: Misfit,
) -> Option<ChangeKind> {
    let kind = change_for(row, request.task, misfit).filter(offers_something)?;
    let mut relaxed = Relaxed::of(request);
    relaxed.make(&kind);
    let request = relaxed.request();
    is_eligible(row, request).ok()?;
    if !matches!(kind, ChangeKind::NodeState(_) | ChangeKind::Reserved { .. }) {
        takes_work(row, now, request).ok()?;
    }
    has_room(row, &row.used, now, request.task).ok()?;
    Some(kind)
}

fn change_for(row: &NodeRow, task: &TaskSpec, misfit: Misfit) -> Option<ChangeKind> {
    use Shortage::{Absent, Held};
    match misfit {
        Misfit::NotReady => Some(ChangeKind::NodeState(NodeHindrance::NotReady)),
        Misfit::Draining => Some(ChangeKind::NodeState(NodeHindrance::Draining)),
        Misfit::Cordoned => Some(ChangeKind::NodeState(NodeHindrance::Cordoned)),
        Misfit::Resting => Some(ChangeKind::NodeState(NodeHindrance::Resting)),
        Misfit::Reserved { reservation } => Some(ChangeKind::Reserved { reservation }),
        Misfit::ReservedSoon { left, .. } => {
            let most = left.0.checked_sub(RESTART_MS)?.checked_sub(task.stop.grace.0)?;
            // Whole minutes, where they are some: whoever reads it has yet to submit it.
            let seconds = match most / 1000 {
                0 => return None,
                seconds @ 1..120 => seconds,
                seconds => seconds / 60 * 60,
            };
            Some(ChangeKind::TimeLimit { most: DurationMs::from_secs(seconds) })
        }
        Misfit::CpuPressure { .. } | Misfit::MemoryPressure { .. } => {
            Some(ChangeKind::NodeState(NodeHindrance::Pressed(row.guards)))
        }
        Misfit::GpuBusy { asked, .. } => gpus(row, task, asked, Held),
        Misfit::GpuShareBusy { .. } => gpus(row, task, 1, Held),
        Misfit::GpuCount { asked, .. } => gpus(row, task, asked, Absent),
        Misfit::CpuBusy { asked, free } => {
            let missing = asked.saturating_sub(free);
            Some(ChangeKind::Cpu { shortage: Held, missing, asked, free })
        }
        Misfit::CpuCapacity { asked, .. } => {
            let free = row.spec.cpu.saturating_sub(row.used.cpu);
            let missing = asked.saturating_sub(free);
            Some(ChangeKind::Cpu { shortage: Absent, missing, asked, free })
        }
        Misfit::MemoryBusy { asked, free } => {
            let missing = asked.saturating_sub(free);
            Some(ChangeKind::Memory { shortage: Held, missing, asked, free })
        }
        Misfit::MemoryCapacity { asked, .. } => {
            let free = row.spec.memory.saturating_sub(row.used.memory);
            let missing = asked.saturating_sub(free);
            Some(ChangeKind::Memory { shortage: Absent, missing, asked, free })
        }
        Misfit::PortsBusy { asked, free } => {
            Some(ChangeKind::Ports { missing: asked.saturating_sub(free) })
        }
        Misfit::Label { key, asked } => Some(ChangeKind::Label { key, asked }),
        Misfit::OtherPool { asked, found } => Some(ChangeKind::Pool { asked, found }),
        Misfit::OtherNode { asked } => Some(ChangeKind::OtherNode { asked }),
        Misfit::GpuMemory { asked } => Some(ChangeKind::GpuMemory { asked }),
        Misfit::GpuModel { asked } => Some(ChangeKind::GpuModel { asked }),
        // It takes an engine, and nothing else in the job.
        Misfit::NoDocker => None,
        // These are said of a claim, and none has been made yet.
        Misfit::DeviceGone { .. }
        | Misfit::DeviceBusy { .. }
        | Misfit::DeviceCrowded { .. }
        | Misfit::PortTaken { .. }
        | Misfit::ClaimMismatch => None,
    }
}

/// Nothing is free of what the node has too little of: there is neither less to
/// ask for nor enough that could become free.
fn offers_something(kind: &ChangeKind) -> bool {
    !matches!(
        kind,
        ChangeKind::Gpus { shortage: Shortage::Absent, free: 0, .. }
            | ChangeKind::Cpu { shortage: Shortage::Absent, free: CpuMilli::ZERO, .. }
            | ChangeKind::Memory { shortage: Shortage::Absent, free: MemoryBytes::ZERO, .. }
    )
}

fn gpus(row: &NodeRow, task: &TaskSpec, asked: u32, shortage: Shortage) -> Option<ChangeKind> {
    let gpu = task.gpu.as_ref()?;
    let node = row.capacity(&row.used);
    let free = u32::try_from(open_devices(node, gpu).count()).unwrap_or(u32::MAX);
    let missing = asked.saturating_sub(free);
    let model = if gpu.models.is_empty() { "GPU".to_owned() } else { gpu.models.join(" or ") };
    Some(ChangeKind::Gpus { shortage, missing, asked, free, model })
}

/// A copy of a request that changes are made to.
pub(crate) struct Relaxed<'v> {
    pub task: TaskSpec,
    pub constraints: Constraints,
    pub kind: JobKind,
    pub pass: Pass<'v>,
}

impl<'v> Relaxed<'v> {
    pub fn of(request: Request<'v>) -> Relaxed<'v> {
        // Command and environment may be long and decide nothing here.
        let task = TaskSpec {
            cpu: request.task.cpu,
            memory: request.task.memory,
            gpu: request.task.gpu.clone(),
            ports: request.task.ports.clone(),
            driver: request.task.driver.clone(),
            stop: request.task.stop,
            ..TaskSpec::new(request.task.name.clone(), berth_model::JobKind::Batch, Vec::new())
        };
        let Request { kind, pass, .. } = request;
        Relaxed { task, constraints: request.constraints.clone(), kind, pass }
    }

    pub fn request(&self) -> Request<'_> {
        let Relaxed { task, constraints, kind, pass } = self;
        Request { task, constraints, kind: *kind, pass: *pass }
    }

    fn make(&mut self, change: &ChangeKind) {
        match change {
            ChangeKind::NodeState(_) | ChangeKind::Reserved { .. } => {}
            ChangeKind::TimeLimit { most } => {
                let lasts = most.0 + RESTART_MS + self.task.stop.grace.0;
                self.pass.permit = self.pass.permit.within(DurationMs(lasts));
            }
            // With none free the change is that others give theirs up: what
            // matters is whether everything else would be in order.
            ChangeKind::Gpus { free: 0, .. } => self.task.gpu = None,
            ChangeKind::Gpus { free, .. } => {
                self.task.gpu.iter_mut().for_each(|gpu| gpu.count = *free);
            }
            ChangeKind::Cpu { free, .. } => self.task.cpu = *free,
            ChangeKind::Memory { free, .. } => self.task.memory = *free,
            ChangeKind::Ports { .. } => self.task.ports.clear(),
            ChangeKind::Label { key, .. } => {
                self.constraints.labels.remove(key);
            }
            ChangeKind::Pool { .. } => self.constraints.pool = None,
            ChangeKind::OtherNode { .. } => self.constraints.node = None,
            ChangeKind::GpuMemory { .. } => {
                self.task.gpu.iter_mut().for_each(|gpu| gpu.memory_min = None);
            }
            ChangeKind::GpuModel { .. } => {
                self.task.gpu.iter_mut().for_each(|gpu| gpu.models.clear());
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = &self.node;
        let any = if self.nodes == 1 {
            format!("on node {node}")
        } else {
            format!("on any of {} nodes", self.nodes)
        };
        match &self.kind {
            ChangeKind::NodeState(NodeHindrance::NotReady) => {
                write!(formatter, "wait: node {node} is not ready")
            }
            ChangeKind::NodeState(NodeHindrance::Draining) => {
                write!(formatter, "wait: node {node} is draining")
            }
            ChangeKind::NodeState(NodeHindrance::Cordoned) => {
                write!(formatter, "uncordon node {node}")
            }
            ChangeKind::NodeState(NodeHindrance::Resting) => {
                write!(formatter, "wait: node {node} could not start a worker and is tried again")
            }
            ChangeKind::NodeState(NodeHindrance::Pressed(guards)) => {
                write!(formatter, "wait: node {node}: {guards}")
            }
            ChangeKind::Reserved { reservation } => {
                write!(formatter, "wait: node {node} is reserved (`{reservation}`)")
            }
            ChangeKind::TimeLimit { most } => {
                let limit = shown(*most);
                write!(formatter, "with a time_limit of at most {limit} it would fit now {any}")
            }
            ChangeKind::Gpus { shortage, missing, asked, free, model } => {
                let less = format!("{} instead of {asked}", plural(*free, "GPU"));
                let more = format!("free {missing} more {model} {any}");
                write_amount(formatter, *shortage, (*free > 0).then_some(less), &more, node)
            }
            ChangeKind::Cpu { shortage, missing, asked, free } => {
                let less = format!("{free} cores instead of {asked}");
                let more = format!("free {missing} cores {any}");
                write_amount(formatter, *shortage, (free.0 > 0).then_some(less), &more, node)
            }
            ChangeKind::Memory { shortage, missing, asked, free } => {
                let less = format!("{free} of memory instead of {asked}");
                let more = format!("free {missing} of memory {any}");
                write_amount(formatter, *shortage, (free.0 > 0).then_some(less), &more, node)
            }
            ChangeKind::Ports { missing } => {
                write!(formatter, "free {} {any}", plural(*missing, "port"))
            }
            ChangeKind::Label { key, asked } => {
                write!(formatter, "without the label `{key}` at `{asked}` it would fit now {any}")
            }
            ChangeKind::Pool { asked, found } => {
                write!(formatter, "pool `{found}` instead of `{asked}` would fit now {any}")
            }
            ChangeKind::OtherNode { asked } => {
                write!(formatter, "another node than `{asked}` would fit now: {node}")
            }
            ChangeKind::GpuMemory { asked } => {
                write!(formatter, "GPUs with less than {asked} of memory would fit now {any}")
            }
            ChangeKind::GpuModel { asked } => {
                write!(formatter, "another GPU model than {asked} would fit now {any}")
            }
        }
    }
}

/// Asking for less always helps now, if anything is left to ask for; more can
/// become free only where others hold it.
fn write_amount(
    formatter: &mut fmt::Formatter<'_>,
    shortage: Shortage,
    less: Option<String>,
    more: &str,
    node: &Name,
) -> fmt::Result {
    match (less, shortage) {
        (Some(less), Shortage::Absent) => {
            write!(formatter, "{less} would fit now on node {node}")
        }
        (Some(less), Shortage::Held) => {
            write!(formatter, "{less} would fit now on node {node}, or {more}")
        }
        (None, Shortage::Held | Shortage::Absent) => formatter.write_str(more),
    }
}

/// In the largest unit in which nothing is lost, as job files have it.
fn shown(span: DurationMs) -> String {
    match span.0 / 1000 {
        seconds if seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

/// `1 GPU`, `2 GPUs`.
fn plural(count: u32, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests;
