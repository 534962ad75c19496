//! What a cluster is asked for: counted by kind, and what policies reckon with it. It is
//! learnt from what has been submitted, and knows nothing of nodes.

use std::collections::BTreeMap;

use berth_model::{CpuMilli, GpuRequest, TaskSpec};
use berth_state::ClusterState;
use berth_state::decision::Asked;

use crate::waste::Waste;

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

/// What policies reckon with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mix {
    /// The kinds that matter, with weights that add up to at most [`WEIGHTS_TOTAL`].
    kinds: Vec<(MixKind, u64)>,
    /// What all of it was reckoned from.
    counts: MixCounts,
    /// What a GPU's remnants are worth.
    pub(crate) waste: Waste,
    /// Of all tasks with GPUs together: thousandths of cores for each whole GPU; `None` as
    /// long as nothing has asked for any.
    pub(crate) cpu_milli_per_gpu: Option<u64>,
    /// Thousandths of GPUs that were asked for.
    pub(crate) gpu_milli: u64,
    /// Thousandths of cores that were asked for, with GPUs or without.
    pub(crate) cpu_milli: u64,
    /// Of these, those that may only be of certain models.
    pub(crate) of_models: BTreeMap<Vec<String>, u64>,
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
        self.add_kind(MixKind::of(task), instances);
    }

    fn add_kind(&mut self, kind: MixKind, instances: u64) {
        let count = self.counts.entry(kind).or_default();
        *count = count.saturating_add(instances);
        self.total = self.total.saturating_add(instances);
    }

    /// Counts what was written down of a mix.
    pub fn of_asked(asked: &[Asked]) -> MixCounts {
        let mut counts = MixCounts::default();
        for one in asked {
            let kind = MixKind { cpu_milli: one.cpu.0, gpu: one.gpu.clone() };
            counts.add_kind(kind, one.instances);
        }
        counts
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
        let kinds = kept.into_iter().map(|(kind, count)| (kind.clone(), weight(count))).collect();
        let mut mix = Mix { kinds, counts: self.clone(), ..Mix::default() };
        self.add_gpus(&mut mix);
        mix
    }

    fn add_gpus(&self, mix: &mut Mix) {
        let mut shares: BTreeMap<u32, u64> = BTreeMap::new();
        let (mut cpu_milli, mut cpu_of_all): (u128, u128) = (0, 0);
        for (kind, count) in &self.counts {
            cpu_of_all += u128::from(kind.cpu_milli) * u128::from(*count);
            let Some(gpu) = &kind.gpu else { continue };
            let gpus = u64::from(gpu.count).saturating_mul(*count);
            let milli = gpus.saturating_mul(u64::from(gpu.share.0));
            let of_share = shares.entry(gpu.share.0).or_default();
            *of_share = of_share.saturating_add(gpus);
            cpu_milli += u128::from(kind.cpu_milli) * u128::from(*count);
            mix.gpu_milli = mix.gpu_milli.saturating_add(milli);
            if !gpu.models.is_empty() {
                let of_models = mix.of_models.entry(gpu.models.clone()).or_default();
                *of_models = of_models.saturating_add(milli);
            }
        }
        mix.waste = Waste::new(&shares);
        mix.cpu_milli = u64::try_from(cpu_of_all).unwrap_or(u64::MAX);
        let per_gpu = (cpu_milli * 1000).checked_div(u128::from(mix.gpu_milli));
        mix.cpu_milli_per_gpu = per_gpu.map(|milli| u64::try_from(milli).unwrap_or(u64::MAX));
    }
}

impl Mix {
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    pub fn kinds(&self) -> &[(MixKind, u64)] {
        &self.kinds
    }

    /// What it was reckoned from, in the order of the kinds.
    pub fn asked(&self) -> Vec<Asked> {
        let asked = |(kind, instances): (&MixKind, &u64)| Asked {
            cpu: CpuMilli(kind.cpu_milli),
            gpu: kind.gpu.clone(),
            instances: *instances,
        };
        self.counts.counts.iter().map(asked).collect()
    }
}

#[cfg(test)]
mod tests;
