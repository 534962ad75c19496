//! How much of a node's idle GPUs is of no use for what a cluster is asked for: the
//! fragmentation of Weng et al., "Beware of Fragmentation" (FGD, USENIX ATC 2023), in integers.

use crate::host::Host;
use crate::kinds::Kinds;
use crate::mix::{Mix, MixKind};

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
                accepted: kinds.suiting(gpu),
            }),
        };
        MixTable { rows: mix.kinds().iter().map(row).collect() }
    }

    /// The thousandths of idle GPUs that the mix can be expected not to use, times
    /// [`WEIGHTS_TOTAL`](crate::mix::WEIGHTS_TOTAL)(crate::mix::WEIGHTS_TOTAL). Costs O(kinds of tasks × devices).
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
