//! Placement alone: one task after another is offered, and what finds no place is turned away
//! for good. Nothing ends; nothing moves, unless a refusal would otherwise follow and moves are
//! allowed.

use std::collections::BTreeMap;

use berth_model::{
    AllocationId, Claim, CpuMilli, Device, GpuRequest, JobId, JobKind, MemoryBytes, Name, NodeId,
    NodeSpec, Policy, PortRange, ShareMilli, TaskSpec,
};
use berth_placement::defragment::{Move, RoomLimits};
use berth_placement::{Mix, MixCounts};
use berth_state::Refusal;

use crate::cluster::{Cluster, plain_name};

/// The memory of a simulated device: shares of it are given in proportion, and nothing in such
/// a list asks for an amount.
const DEVICE_MEMORY: MemoryBytes = MemoryBytes(80 << 30);

/// A node of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeShape {
    pub name: Name,
    pub cpu: CpuMilli,
    pub memory: MemoryBytes,
    pub gpus: u32,
    /// Of all its GPUs.
    pub model: String,
}

/// A task of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrival {
    pub name: Name,
    pub cpu: CpuMilli,
    pub memory: MemoryBytes,
    pub gpus: u32,
    /// Of each of them.
    pub share: ShareMilli,
    /// Accepted models; empty means any.
    pub models: Vec<String>,
}

/// Where a task went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    pub node: Name,
    /// The indices of its GPUs on that node, ascending.
    pub gpus: Vec<u32>,
}

/// A task that was moved to make room for another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moved {
    /// How many had been offered before it was.
    pub position: u64,
    pub from: Name,
    pub to: Name,
    /// The indices of its GPUs where it is now, ascending.
    pub gpus: Vec<u32>,
}

/// How many moves there may have been at any moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MovesMax {
    Count(u64),
    /// In ten-thousandths of the tasks that have been placed by then.
    OfPlaced(u32),
}

/// Moves for one task, and how much a search for them may look at: in openb more than one hardly
/// ever pays, and a search takes some milliseconds at the most.
const MOVES_OF_ONE_MAX: usize = 3;
const TRIES_MAX: u64 = 50_000;
/// What each move has to bring, in thousandths of a GPU: anything, as there are more moves than
/// occasions for them.
const WORTH_MILLI: i64 = 1;

/// What there is, what is taken and what was asked for, in thousandths of GPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    pub capacity_milli: u64,
    pub allocated_milli: u64,
    /// Of everything that was offered, placed or not.
    pub arrived_milli: u64,
    pub offered: u64,
    pub refused: u64,
    pub moved: u64,
}

/// A cluster that fills up.
pub struct PlaceRun {
    cluster: Cluster,
    policy: Policy,
    names: BTreeMap<NodeId, Name>,
    totals: Totals,
    moves_max: MovesMax,
    /// The position of what each job was submitted for.
    positions: BTreeMap<JobId, u64>,
    /// Not taken yet.
    moved: Vec<Moved>,
}

impl NodeShape {
    fn spec(&self, position: usize, tasks_per_device_max: u32) -> NodeSpec {
        let device = |index| {
            Device::new(format!("GPU-{position}-{index}"), index, &self.model, DEVICE_MEMORY)
        };
        NodeSpec {
            labels: BTreeMap::new(),
            pool: plain_name(),
            zone: plain_name(),
            cpu: self.cpu,
            memory: self.memory,
            devices: (0..self.gpus).map(device).collect(),
            ports: PortRange::DEFAULT,
            agent_version: String::new(),
            docker_version: String::new(),
            tasks_per_device_max,
            address: String::new(),
        }
    }
}

impl Arrival {
    /// Thousandths of GPUs that it asks for.
    pub fn gpu_milli(&self) -> u64 {
        u64::from(self.gpus) * u64::from(self.share.0)
    }

    /// The task that is submitted for it. What asks for no memory is given one byte.
    pub fn task(&self) -> TaskSpec {
        let gpu = GpuRequest {
            models: self.models.clone(),
            share: self.share,
            ..GpuRequest::whole(self.gpus)
        };
        TaskSpec {
            cpu: self.cpu.max(CpuMilli(1)),
            memory: self.memory.max(MemoryBytes(1)),
            gpu: (self.gpus > 0).then_some(gpu),
            ..TaskSpec::new(plain_name(), JobKind::Batch, vec!["simulated".to_owned()])
        }
    }
}

/// The mix of a whole list, for who knows it beforehand.
pub fn mix_of<'a>(arrivals: impl IntoIterator<Item = &'a Arrival>) -> Mix {
    let mut counts = MixCounts::default();
    arrivals.into_iter().for_each(|arrival| counts.add(&arrival.task(), 1));
    counts.mix()
}

impl PlaceRun {
    /// A cluster of these machines, in their order: that is the order in which nodes that are
    /// equally good are taken. Without a mix the cluster learns it from what arrives.
    ///
    /// # Errors
    /// What apply refuses a machine with.
    pub fn new(
        machines: &[NodeShape],
        tasks_per_device_max: u32,
        policy: Policy,
        mix: Option<Mix>,
    ) -> Result<PlaceRun, Refusal> {
        let spec = |(position, machine): (usize, &NodeShape)| {
            (machine.name.clone(), machine.spec(position, tasks_per_device_max))
        };
        let cluster = Cluster::new(machines.iter().enumerate().map(spec).collect(), mix)?;
        let nodes = cluster.state.nodes().values();
        let names = nodes.map(|node| (node.id, node.name.clone())).collect();
        let gpus: u64 = machines.iter().map(|machine| u64::from(machine.gpus)).sum();
        let totals = Totals { capacity_milli: gpus * 1000, ..Totals::default() };
        Ok(PlaceRun {
            cluster,
            policy,
            names,
            totals,
            moves_max: MovesMax::Count(0),
            positions: BTreeMap::new(),
            moved: Vec::new(),
        })
    }

    /// Lets tasks be moved when another would be refused.
    pub fn allow_moves(&mut self, moves_max: MovesMax) {
        self.moves_max = moves_max;
    }

    /// Offers one task; `None` if it has no place.
    ///
    /// # Errors
    /// What apply refuses the task with, or the plan for it.
    pub fn offer(&mut self, arrival: &Arrival) -> Result<Option<Placed>, Refusal> {
        let job = self.cluster.submit(arrival.name.clone(), self.policy, arrival.task())?;
        self.positions.insert(job, self.totals.offered);
        let mut placements = self.cluster.place(job)?;
        if placements.is_empty() && self.make_room(arrival)? {
            placements = self.cluster.place(job)?;
        }
        self.totals.offered += 1;
        self.totals.arrived_milli += arrival.gpu_milli();
        let Some(placement) = placements.first() else {
            self.totals.refused += 1;
            self.cluster.stop(job)?;
            return Ok(None);
        };
        self.totals.allocated_milli += arrival.gpu_milli();
        let claim = placement.devices.iter().map(|claim| claim.uuid.as_str());
        let gpus = self.indices(placement.node, claim);
        Ok(Some(Placed { node: self.name(placement.node), gpus }))
    }

    /// Moves others so that a task fits that has no place; whether it has one then.
    fn make_room(&mut self, arrival: &Arrival) -> Result<bool, Refusal> {
        let placed = self.totals.offered - self.totals.refused;
        let allowed = match self.moves_max {
            MovesMax::Count(count) => count,
            MovesMax::OfPlaced(parts) => placed * u64::from(parts) / 10_000,
        };
        let left = allowed.saturating_sub(self.totals.moved);
        let limits = RoomLimits {
            moves_max: usize::try_from(left)
                .map_or(MOVES_OF_ONE_MAX, |left| left.min(MOVES_OF_ONE_MAX)),
            tries_max: TRIES_MAX,
            worth_milli: WORTH_MILLI,
        };
        if limits.moves_max == 0 {
            return Ok(false);
        }
        let Some(room) = self.cluster.make_room(&arrival.task(), limits) else { return Ok(false) };
        for one in &room.moves {
            self.cluster.relocate(one)?;
            self.note(one);
        }
        Ok(true)
    }

    fn note(&mut self, one: &Move) {
        let Move { allocation: AllocationId { job, .. }, from, to, claim, .. } = one;
        let Claim { devices, .. } = claim;
        let gpus = self.indices(*to, devices.iter().map(|claim| claim.uuid.as_str()));
        let position = self.positions.get(job).copied().unwrap_or(u64::MAX);
        self.moved.push(Moved { position, from: self.name(*from), to: self.name(*to), gpus });
        self.totals.moved += 1;
    }

    fn name(&self, node: NodeId) -> Name {
        self.names.get(&node).cloned().unwrap_or(plain_name())
    }

    fn indices<'u>(&self, node: NodeId, uuids: impl Iterator<Item = &'u str>) -> Vec<u32> {
        let Some(row) = self.cluster.state.nodes().get(&node) else { return Vec::new() };
        let of = |uuid: &str| row.spec.device(uuid).map(|device| device.index);
        let mut gpus: Vec<u32> = uuids.filter_map(of).collect();
        gpus.sort_unstable();
        gpus
    }

    /// What was moved since this was asked last, in the order in which it was.
    pub fn take_moved(&mut self) -> Vec<Moved> {
        std::mem::take(&mut self.moved)
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }
}

#[cfg(test)]
mod tests;
