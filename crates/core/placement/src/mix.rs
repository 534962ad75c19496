//! What a cluster is asked for, by kind, and how much of a node's idle GPUs is of no use for
//! it: the fragmentation of Weng et al., "Beware of Fragmentation" (FGD, USENIX ATC 2023),
//! in integers.

use std::collections::BTreeMap;

use berth_model::{GpuRequest, TaskSpec};
use berth_state::ClusterState;

use crate::host::Host;
use crate::kinds::{Kinds, accepts};

/// Kinds of tasks that are kept; what is asked for more seldom is left out, as its weight
/// hardly changes a decision while each kind costs every one of them.
pub const KINDS_MAX: usize = 128;
/// Left out, the most seldom first, as long as so many thousandths of the tasks are kept
/// (section 4.2 of the paper's artifact).
const COVERED_MILLI: u64 = 950;
/// The sum of the weights.
pub const WEIGHTS_TOTAL: u64 = 1 << 16;

/// What tasks of one kind ask for. Host memory is left out: it seldom is what runs out.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MixKind {
    pub cpu_milli: u64,
    pub gpu: Option<GpuRequest>,
}

/// How often each kind was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MixCounts {
    counts: BTreeMap<MixKind, u64>,
    total: u64,
}

/// The kinds that matter, with weights that add up to at most [`WEIGHTS_TOTAL`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mix {
    kinds: Vec<(MixKind, u64)>,
}

impl MixKind {
    pub fn of(task: &TaskSpec) -> MixKind {
        // What a share is given of the memory changes no other's place, nor does the least
        // memory that is asked for: the model says more.
        let gpu = task.gpu.clone().map(|gpu| GpuRequest { memory_min: None, ..gpu });
        MixKind { cpu_milli: task.cpu.0, gpu }
    }
}

impl MixCounts {
    pub fn add(&mut self, task: &TaskSpec, instances: u64) {
        let count = self.counts.entry(MixKind::of(task)).or_default();
        *count = count.saturating_add(instances);
        self.total = self.total.saturating_add(instances);
    }

    /// Everything that was counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// All that the cluster still knows of: what runs, what waits, and what has ended and is
    /// kept. Costs O(jobs).
    pub fn of(view: &ClusterState) -> MixCounts {
        let mut counts = MixCounts::default();
        for job in view.jobs().values() {
            for task in &job.spec.tasks {
                counts.add(task, u64::from(task.count.max(1)));
            }
        }
        counts
    }

    /// The most frequent kinds, as many as cover nearly everything.
    pub fn mix(&self) -> Mix {
        let mut ranked: Vec<(&MixKind, u64)> =
            self.counts.iter().map(|(kind, count)| (kind, *count)).collect();
        ranked.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| other.0.cmp(one.0)));
        let enough = u128::from(self.total) * u128::from(COVERED_MILLI);
        let mut covered: u64 = 0;
        let mut kept = Vec::new();
        for (kind, count) in ranked.into_iter().take(KINDS_MAX) {
            kept.push((kind, count));
            covered = covered.saturating_add(count);
            if u128::from(covered) * 1000 >= enough {
                break;
            }
        }
        let weight = |count: u64| {
            let part = u128::from(count) * u128::from(WEIGHTS_TOTAL) / u128::from(covered.max(1));
            u64::try_from(part).unwrap_or(WEIGHTS_TOTAL)
        };
        Mix { kinds: kept.into_iter().map(|(kind, count)| (kind.clone(), weight(count))).collect() }
    }
}

impl Mix {
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    pub fn kinds(&self) -> &[(MixKind, u64)] {
        &self.kinds
    }
}

/// A mix beside the kinds of devices that a cluster has: what fits which is looked up.
#[derive(Clone, Debug, Default)]
pub(crate) struct MixTable {
    rows: Vec<MixRow>,
}

#[derive(Clone, Debug)]
struct MixRow {
    cpu_milli: u64,
    weight: u64,
    gpu: Option<MixGpu>,
}

#[derive(Clone, Debug)]
struct MixGpu {
    count: u32,
    share: u32,
    /// By kind of device.
    accepted: Vec<bool>,
}

/// What is idle of a node, as fragmentation looks at it.
#[derive(Clone, Debug)]
pub(crate) struct Idle {
    pub cpu_milli: u64,
    /// Of each device: its kind and what is left of it in thousandths, nothing of one that
    /// takes no work.
    pub devices: Vec<(usize, u32)>,
}

impl Idle {
    pub fn of(host: &Host) -> Idle {
        let devices = host.spots.iter().map(|spot| {
            let left = if spot.takes_work { spot.share_free } else { 0 };
            (spot.kind, left)
        });
        Idle { cpu_milli: host.cpu_free, devices: devices.collect() }
    }
}

impl MixTable {
    pub fn new(mix: &Mix, kinds: &Kinds) -> MixTable {
        let row = |(kind, weight): &(MixKind, u64)| MixRow {
            cpu_milli: kind.cpu_milli,
            weight: *weight,
            gpu: kind.gpu.as_ref().map(|gpu| MixGpu {
                count: gpu.count,
                share: gpu.share.0,
                accepted: kinds.iter().map(|device| accepts(gpu, device)).collect(),
            }),
        };
        MixTable { rows: mix.kinds.iter().map(row).collect() }
    }

    /// The thousandths of idle GPUs that the mix can be expected not to use, times
    /// [`WEIGHTS_TOTAL`]. Costs O(kinds of tasks × devices).
    pub fn fragmentation(&self, idle: &Idle) -> u64 {
        let all: u64 = idle.devices.iter().map(|(_, left)| u64::from(*left)).sum();
        if all == 0 {
            return 0;
        }
        self.rows.iter().map(|row| row.weight * row.useless(idle, all)).sum()
    }
}

impl MixRow {
    /// Of `all` that is idle, what a task of this kind could not use.
    fn useless(&self, idle: &Idle, all: u64) -> u64 {
        let Some(gpu) = self.gpu.as_ref().filter(|_| idle.cpu_milli >= self.cpu_milli) else {
            return all;
        };
        let (mut fitting, mut slivers) = (0, 0);
        for (kind, left) in &idle.devices {
            if gpu.accepted.get(*kind) != Some(&true) {
                slivers += u64::from(*left);
            } else if *left >= gpu.share {
                fitting += 1;
            } else {
                slivers += u64::from(*left);
            }
        }
        if fitting < gpu.count { all } else { slivers }
    }
}

#[cfg(test)]
mod tests;
