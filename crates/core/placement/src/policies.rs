//! Which node is preferred among those that fit. A score is a struct whose
//! derived order is the policy: the smallest wins, and every one ends in the
//! node's id, so that no two nodes ever tie.

use berth_model::{AllocationId, NodeId, Policy, TaskSpec};
use berth_state::ScoreParts;

use crate::terms::{
    Standing, dominant_use_milli, gpu_load_milli, gpus_left, left_over_milli, resource_score_milli,
};

/// A node's rank for one request; only scores of one variant are compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Score {
    LeastLoadedGpu(LeastLoadedGpu),
    LeastLoadedHost(LeastLoadedHost),
    RoundRobin(RoundRobin),
    BestFit(BestFit),
    Spread(Spread),
}

/// `least-loaded` for a task with GPUs: the idlest GPUs, then the freest host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LeastLoadedGpu {
    pub gpu_load_milli: u32,
    /// 1000 less the resource score.
    pub host_load_milli: u32,
    pub node: NodeId,
}

/// `least-loaded` for a task without GPUs: the freest host, then idle GPUs last
/// so that they stay for those who want them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LeastLoadedHost {
    pub host_load_milli: u32,
    pub gpus_left: u32,
    pub node: NodeId,
}

/// `round-robin`: the fitting node that comes soonest after whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RoundRobin {
    /// Nodes that had to be passed over.
    pub passed_over: u32,
    pub node: NodeId,
}

/// `best-fit`: the node that the work leaves fullest, GPUs before the host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BestFit {
    pub gpus_left: u32,
    pub left_over_milli: u32,
    pub node: NodeId,
}

/// `spread`: the node with the fewest live instances of the job, then the zone
/// with the fewest, then the emptiest node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Spread {
    pub on_node: u32,
    pub in_zone: u32,
    pub used_milli: u32,
    pub node: NodeId,
}

/// What a score needs to know beside the node itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Live instances of the job on this node, this plan's included.
    pub on_node: u32,
    /// And in its zone.
    pub in_zone: u32,
    /// Suitable nodes between the one whose turn it is and this one.
    pub passed_over: u32,
}

impl Surroundings {
    /// For policies that look at nothing but the node.
    pub const NONE: Surroundings = Surroundings { on_node: 0, in_zone: 0, passed_over: 0 };
}

/// The score of a node under a policy. Pure; costs O(devices of the node).
pub fn score(
    policy: Policy,
    task: &TaskSpec,
    node: NodeId,
    standing: Standing<'_>,
    around: Surroundings,
) -> Score {
    match policy {
        Policy::LeastLoaded => {
            let host_load_milli = 1000 - resource_score_milli(standing);
            if task.gpu.is_some() {
                let gpu_load_milli = gpu_load_milli(standing);
                Score::LeastLoadedGpu(LeastLoadedGpu { gpu_load_milli, host_load_milli, node })
            } else {
                let gpus_left = gpus_left(standing, task);
                Score::LeastLoadedHost(LeastLoadedHost { host_load_milli, gpus_left, node })
            }
        }
        Policy::RoundRobin => {
            Score::RoundRobin(RoundRobin { passed_over: around.passed_over, node })
        }
        Policy::BestFit => Score::BestFit(BestFit {
            gpus_left: gpus_left(standing, task),
            left_over_milli: left_over_milli(standing, task),
            node,
        }),
        Policy::Spread => Score::Spread(Spread {
            on_node: around.on_node,
            in_zone: around.in_zone,
            used_milli: dominant_use_milli(standing),
            node,
        }),
    }
}

/// Whose turn it is, as a position among `ring_len` suitable nodes in the order
/// of their ids. Derived from what is placed, so that nothing has to be
/// remembered: consecutive instances, and consecutive jobs of one instance, go
/// to consecutive nodes, and another attempt moves on. 0 for an empty ring.
pub fn turn(allocation: AllocationId, ring_len: usize) -> usize {
    let AllocationId { job, task, instance, attempt } = allocation;
    let count = job
        .0
        .wrapping_add(u64::from(task.0))
        .wrapping_add(u64::from(instance.0))
        .wrapping_add(u64::from(attempt.0.saturating_sub(1)));
    let length = u64::try_from(ring_len).unwrap_or(u64::MAX).max(1);
    usize::try_from(count % length).unwrap_or(0)
}

impl Score {
    pub fn node(&self) -> NodeId {
        match self {
            Score::LeastLoadedGpu(score) => score.node,
            Score::LeastLoadedHost(score) => score.node,
            Score::RoundRobin(score) => score.node,
            Score::BestFit(score) => score.node,
            Score::Spread(score) => score.node,
        }
    }

    /// The parts by name, in the order in which they decide.
    pub fn parts(&self, view_index: u64) -> ScoreParts {
        let (policy, parts): (Policy, &[(&str, u32)]) = match self {
            Score::LeastLoadedGpu(score) => (
                Policy::LeastLoaded,
                &[
                    ("gpu_load_milli", score.gpu_load_milli),
                    ("host_load_milli", score.host_load_milli),
                ],
            ),
            Score::LeastLoadedHost(score) => (
                Policy::LeastLoaded,
                &[("host_load_milli", score.host_load_milli), ("gpus_left", score.gpus_left)],
            ),
            Score::RoundRobin(score) => (Policy::RoundRobin, &[("passed_over", score.passed_over)]),
            Score::BestFit(score) => (
                Policy::BestFit,
                &[("gpus_left", score.gpus_left), ("left_over_milli", score.left_over_milli)],
            ),
            Score::Spread(score) => (
                Policy::Spread,
                &[
                    ("on_node", score.on_node),
                    ("in_zone", score.in_zone),
                    ("used_milli", score.used_milli),
                ],
            ),
        };
        ScoreParts {
            policy: policy.name().to_owned(),
            parts: parts
                .iter()
                .map(|(name, value)| ((*name).to_owned(), i64::from(*value)))
                .collect(),
            view_index,
        }
    }
}
