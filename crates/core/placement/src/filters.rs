//! Whether a node can take a request: what it is, what state it is in, and what
//! is free on it. Each question names the first reason against, so that a plan
//! and an explanation never disagree.

use std::collections::BTreeSet;

use berth_model::fits::open_devices;
use berth_model::{
    Constraints, Guards, JobKind, JobSpec, Misfit, NodeState, NodeUse, Shut, StateMs, TaskSpec,
    eligible,
};
use berth_state::{ClusterState, NodeRow, Permit, Purpose, let_in};

/// What is looked for: a task with the constraints of its job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub task: &'a TaskSpec,
    pub constraints: &'a Constraints,
    /// Of the job.
    pub kind: JobKind,
    pub pass: Pass<'a>,
}

/// What it has to show where nodes are reserved.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pass<'a> {
    pub permit: Permit,
    /// Where rows are asked how they are reserved; hosts know it themselves.
    pub view: Option<&'a ClusterState>,
}

impl<'a> Request<'a> {
    /// Of a task of a job, to be asked of rows.
    pub fn of(view: &'a ClusterState, spec: &'a JobSpec, task: &'a TaskSpec) -> Request<'a> {
        let pass = Pass { permit: view.permit(spec, task), view: Some(view) };
        Request { pass, ..Request::anywhere(spec, task) }
    }

    /// The same where it does not matter how nodes are reserved.
    pub fn anywhere(spec: &'a JobSpec, task: &'a TaskSpec) -> Request<'a> {
        let constraints = &spec.constraints;
        Request { task, constraints, kind: spec.kind, pass: Pass::default() }
    }

    /// The same where nobody knows when it begins.
    pub fn later(self) -> Request<'a> {
        Request { pass: Pass { permit: self.pass.permit.later(), ..self.pass }, ..self }
    }
}

impl Pass<'_> {
    pub fn check(self, row: &NodeRow, now: StateMs) -> Result<(), Misfit> {
        self.view.map_or(Ok(()), |view| let_in(&view.holds_on(row, now), self.permit))
    }
}

/// All questions in the order of `Misfit`.
pub(crate) fn admits(
    row: &NodeRow,
    used: &NodeUse,
    now: StateMs,
    request: Request<'_>,
) -> Result<(), Misfit> {
    is_eligible(row, request)?;
    takes_work(row, now, request)?;
    has_room(row, used, now, request.task)
}

/// Whether the request could ever run there.
pub(crate) fn is_eligible(row: &NodeRow, request: Request<'_>) -> Result<(), Misfit> {
    eligible(&row.name, &row.spec, request.constraints, request.task)
}

/// Whether the node takes anything new of such a job.
pub(crate) fn takes_work(row: &NodeRow, now: StateMs, request: Request<'_>) -> Result<(), Misfit> {
    match (row.state, row.purpose) {
        (NodeState::Disconnected | NodeState::Down, _) => Err(Misfit::NotReady),
        (NodeState::Ready, Purpose::Cordoned) => Err(Misfit::Cordoned),
        (NodeState::Ready, Purpose::Draining(_)) => Err(Misfit::Draining),
        (NodeState::Ready, Purpose::Work) if row.rests(now) => Err(Misfit::Resting),
        (NodeState::Ready, Purpose::Work) => {
            request.pass.check(row, now)?;
            pressures(row, request.kind).next().map_or(Ok(()), Err)
        }
    }
}

/// What the host is short of, for whoever has to wait for that; see `NodeRow::takes_daemons`.
pub(crate) fn pressures(row: &NodeRow, kind: JobKind) -> impl Iterator<Item = Misfit> + use<> {
    let Guards { cpu, memory } = match kind {
        JobKind::Batch | JobKind::Service => row.guards,
        JobKind::Daemon => Guards::default(),
    };
    let free = |shut: Shut| (100_u8.saturating_sub(shut.used_percent), shut.opens_below_percent);
    let cpu = cpu.map(free).map(|(free_percent, opens_below_percent)| Misfit::CpuPressure {
        free_percent,
        opens_below_percent,
    });
    let memory = memory.map(free).map(|(free_percent, opens_below_percent)| {
        Misfit::MemoryPressure { free_percent, opens_below_percent }
    });
    cpu.into_iter().chain(memory)
}

/// Whether enough is free on an eligible node. Agrees with `resources::claim`:
/// either both succeed or neither.
pub(crate) fn has_room(
    row: &NodeRow,
    used: &NodeUse,
    now: StateMs,
    task: &TaskSpec,
) -> Result<(), Misfit> {
    let spec = &row.spec;
    if let Some(gpu) = &task.gpu {
        let node = row.capacity(used);
        // Counting stops at enough: this runs for every node of a search.
        let enough = usize::try_from(gpu.count).unwrap_or(usize::MAX);
        let free = open_devices(node, gpu).take(enough).count();
        let free = u32::try_from(free).unwrap_or(u32::MAX);
        if free < gpu.count && gpu.is_shared() {
            return Err(Misfit::GpuShareBusy { asked: gpu.share.0 });
        }
        if free < gpu.count {
            return Err(Misfit::GpuBusy { asked: gpu.count, free });
        }
    }
    let cpu_free = spec.cpu.saturating_sub(used.cpu);
    if task.cpu > cpu_free {
        return Err(Misfit::CpuBusy { asked: task.cpu, free: cpu_free });
    }
    let memory_free = spec.memory.saturating_sub(used.memory);
    if task.memory > memory_free {
        return Err(Misfit::MemoryBusy { asked: task.memory, free: memory_free });
    }
    if task.ports.is_empty() {
        return Ok(());
    }
    let free = free_ports(row, used, now);
    if task.ports.len() > free {
        let asked = u32::try_from(task.ports.len()).unwrap_or(u32::MAX);
        return Err(Misfit::PortsBusy { asked, free: u32::try_from(free).unwrap_or(u32::MAX) });
    }
    Ok(())
}

/// Ports of the node's range that nobody holds and no stranger was seen on.
pub(crate) fn free_ports(row: &NodeRow, used: &NodeUse, now: StateMs) -> usize {
    let range = row.spec.ports;
    let total = usize::from(range.last.saturating_sub(range.first)).saturating_add(1);
    if used.ports.is_empty() && row.blocked_ports.is_empty() {
        return total;
    }
    let blocked = row.blocked_ports.iter().filter(|(_, until)| **until > now).map(|(port, _)| port);
    let taken: BTreeSet<u16> =
        used.ports.iter().chain(blocked).copied().filter(|port| range.contains(*port)).collect();
    total.saturating_sub(taken.len())
}
