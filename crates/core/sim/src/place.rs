//! Placement alone: one task after another is offered, and what finds no place is turned away
//! for good. Nothing ends, nothing moves.

use std::collections::BTreeMap;

use berth_model::{
    CpuMilli, Device, GpuRequest, JobKind, MemoryBytes, Name, NodeId, NodeSpec, Policy, PortRange,
    ShareMilli, TaskSpec,
};
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

/// What there is, what is taken and what was asked for, in thousandths of GPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    pub capacity_milli: u64,
    pub allocated_milli: u64,
    /// Of everything that was offered, placed or not.
    pub arrived_milli: u64,
    pub offered: u64,
    pub refused: u64,
}

/// A cluster that fills up.
pub struct PlaceRun {
    cluster: Cluster,
    policy: Policy,
    names: BTreeMap<NodeId, Name>,
    totals: Totals,
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
        Ok(PlaceRun { cluster, policy, names, totals })
    }

    /// Offers one task; `None` if it has no place.
    ///
    /// # Errors
    /// What apply refuses the task with, or the plan for it.
    pub fn offer(&mut self, arrival: &Arrival) -> Result<Option<Placed>, Refusal> {
        let job = self.cluster.submit(arrival.name.clone(), self.policy, arrival.task())?;
        let placements = self.cluster.place(job)?;
        self.totals.offered += 1;
        self.totals.arrived_milli += arrival.gpu_milli();
        let Some(placement) = placements.first() else {
            self.totals.refused += 1;
            self.cluster.stop(job)?;
            return Ok(None);
        };
        self.totals.allocated_milli += arrival.gpu_milli();
        let spec = self.cluster.state.nodes().get(&placement.node).map(|row| row.spec.clone());
        let index = |uuid: &str| spec.as_ref()?.device(uuid).map(|device| device.index);
        let mut gpus: Vec<u32> =
            placement.devices.iter().filter_map(|claim| index(&claim.uuid)).collect();
        gpus.sort_unstable();
        let node = self.names.get(&placement.node).cloned().unwrap_or(plain_name());
        Ok(Some(Placed { node, gpus }))
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }
}

#[cfg(test)]
mod tests;
