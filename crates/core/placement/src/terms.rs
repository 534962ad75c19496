//! The terms that policies are composed of: each turns a node, as a plan sees it, into one
//! integer, of which less is better. Nothing here is a float, so equal inputs give equal
//! scores on every machine. A file each.

pub(crate) mod cost;
pub(crate) mod fragmentation;
mod gpu_load;
mod gpus_left;
mod host_load;
mod left_over;
mod packing;
mod used;

use berth_model::{Policy, TaskSpec};

use crate::host::Host;
use crate::mix::Mix;
use crate::unusable::MixTable;

/// A node with what is to be put on it.
#[derive(Clone, Copy)]
pub(crate) struct Look<'a> {
    pub host: &'a Host,
    pub task: &'a TaskSpec,
    /// Whether the task accepts each kind of device.
    pub suits: &'a [bool],
    pub inputs: Inputs<'a>,
    /// Live instances of the job on the node, this plan's included.
    pub on_node: u32,
}

/// What is known beside the node.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub mix: &'a Mix,
    pub table: &'a MixTable,
    /// What an idle core costs beside a task without GPUs, in thousandths of a GPU.
    pub core_price: u32,
}

/// One property of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Term {
    /// How busy its GPUs are, in thousandths.
    GpuLoad,
    /// How busy the host is, in thousandths.
    HostLoad,
    /// GPUs that nobody holds afterwards.
    GpusLeft,
    /// What is left of the host resource that the task needs most, in thousandths.
    LeftOver,
    /// Live instances of the same job.
    OnNode,
    /// The same, in its zone.
    InZone,
    /// The largest promised part of any of its resources, in thousandths.
    Used,
    /// Nodes that are passed over, from the one whose turn it is.
    Turn,
    /// Live allocations.
    Allocations,
    /// How far it is from filling GPUs that are in use already.
    Packing,
    /// How much less of its GPUs the cluster's mix of tasks could use.
    Fragmentation,
    /// How much of the cluster's GPUs it is expected to lose for others.
    Cost,
    /// GPUs that nobody holds beforehand: of equals the node that is in use most.
    IdleGpus,
}

impl Term {
    /// For records and people.
    pub fn name(self) -> &'static str {
        match self {
            Term::GpuLoad => "gpu_load_milli",
            Term::HostLoad => "host_load_milli",
            Term::GpusLeft => "gpus_left",
            Term::LeftOver => "left_over_milli",
            Term::OnNode => "on_node",
            Term::InZone => "in_zone",
            Term::Used => "used_milli",
            Term::Turn => "passed_over",
            Term::Allocations => "allocations",
            Term::Packing => "packing",
            Term::Fragmentation => "fragmentation",
            Term::Cost => "cost_milli",
            Term::IdleGpus => "idle_gpus",
        }
    }

    /// What it comes to. What depends on other nodes, the turn and the zone, is put in when
    /// the choice is made; here it is 0.
    pub(crate) fn value(self, look: Look<'_>) -> u32 {
        match self {
            Term::GpuLoad => gpu_load::gpu_load_milli(look.host),
            Term::HostLoad => 1000 - host_load::resource_score_milli(look.host),
            Term::GpusLeft => gpus_left::gpus_left(look),
            Term::LeftOver => left_over::left_over_milli(look),
            Term::OnNode => look.on_node,
            Term::InZone | Term::Turn => 0,
            Term::Used => used::dominant_use_milli(look.host),
            Term::Allocations => look.host.tasks,
            Term::Packing => packing::packing(look),
            Term::Fragmentation => fragmentation::fragmentation(look),
            Term::Cost => cost::cost(look),
            Term::IdleGpus => gpus_left::idle_gpus(look.host),
        }
    }
}

/// The terms of a policy in the order in which they decide; after them the node that was
/// registered first. Without GPUs a task is spread by the host's load first, and idle GPUs
/// are left to those who want them.
pub fn terms_of(policy: Policy, task: &TaskSpec) -> &'static [Term] {
    match (policy, task.gpu.is_some()) {
        (Policy::LeastLoaded, true) => &[Term::GpuLoad, Term::HostLoad],
        (Policy::LeastLoaded, false) => &[Term::HostLoad, Term::GpusLeft],
        (Policy::RoundRobin, _) => &[Term::Turn],
        (Policy::BestFit, _) => &[Term::GpusLeft, Term::LeftOver],
        (Policy::Spread, _) => &[Term::OnNode, Term::InZone, Term::Used],
        (Policy::ResourceAware, _) => &[Term::HostLoad],
        (Policy::LeastAllocations, _) => &[Term::Allocations],
        (Policy::GpuPacking, _) => &[Term::Packing],
        (Policy::Fgd, _) => &[Term::Fragmentation],
        (Policy::Berth, _) => &[Term::Cost, Term::IdleGpus],
        (Policy::FirstFit, _) => &[],
    }
}

/// `part` of `whole` in thousandths, at most 1000; 0 of nothing.
pub(crate) fn part_milli(part: u64, whole: u64) -> u32 {
    if whole == 0 {
        return 0;
    }
    let milli = u128::from(part) * 1000 / u128::from(whole);
    u32::try_from(milli).unwrap_or(1000).min(1000)
}

#[cfg(test)]
mod tests;
