//! The protocol in which Weng et al. compare placement policies over the traces of a
//! production cluster ("Beware of Fragmentation", USENIX ATC 2023, section 6 and the artifact
//! that belongs to it): a list of tasks is shuffled, lengthened by draws from itself until it
//! asks for 1.3 times the cluster's GPUs, and offered one by one.

use crate::place::{Arrival, NodeShape, Totals};
use crate::random::Random;

/// How much is asked for in the end, in thousandths of the cluster's GPUs.
const ARRIVED_MAX_MILLI: u64 = 1300;

/// The seeds of the published runs.
pub const SEEDS: std::ops::RangeInclusive<u64> = 42..=51;

/// One run: the machines in the order in which equals are taken, and what arrives.
#[derive(Clone, Debug)]
pub struct Workload {
    pub machines: Vec<NodeShape>,
    pub arrivals: Vec<Arrival>,
}

impl Workload {
    /// Shuffles and lengthens, or shortens, a list. The same seed gives the same run; it is
    /// another stream of numbers than the artifact's, so that only means over seeds compare.
    pub fn new(machines: &[NodeShape], tasks: &[Arrival], seed: u64) -> Workload {
        let mut random = Random::new(seed);
        let mut machines = machines.to_vec();
        let capacity: u64 = machines.iter().map(|machine| u64::from(machine.gpus) * 1000).sum();
        let target = capacity * ARRIVED_MAX_MILLI / 1000;
        let mut arrivals = tasks.to_vec();
        arrivals.sort_by(|one, other| one.name.cmp(&other.name));
        random.shuffle(&mut arrivals);
        let mut asked: u64 = arrivals.iter().map(Arrival::gpu_milli).sum();
        while asked > target && !arrivals.is_empty() {
            let gone = arrivals.remove(random.below(arrivals.len()));
            asked -= gone.gpu_milli();
        }
        let asks_anything = tasks.iter().any(|task| task.gpu_milli() > 0);
        while asks_anything && asked < target {
            let drawn = &tasks[random.below(tasks.len())];
            // As in the artifact, which looks at one of the GPUs that the last one asks for.
            let of_one = if drawn.gpus > 0 { u64::from(drawn.share.0) } else { 0 };
            if asked + of_one > target {
                break;
            }
            asked += drawn.gpu_milli();
            arrivals.push(drawn.clone());
        }
        random.shuffle(&mut machines);
        Workload { machines, arrivals }
    }
}

/// How full the cluster was while so much had been asked for: the mean over all moments at
/// which what had arrived, rounded to a percent of the cluster's GPUs, was each figure.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    /// By percent that had arrived: the sum of the allocated percents, and of how many.
    points: Vec<(f64, u32)>,
}

impl Curve {
    /// Takes in how things stand after an arrival.
    pub fn note(&mut self, totals: Totals) {
        let percent = |milli: u64| milli as f64 * 100.0 / totals.capacity_milli.max(1) as f64;
        let at = percent(totals.arrived_milli).round() as usize;
        if at >= self.points.len() {
            self.points.resize(at + 1, (0.0, 0));
        }
        let point = &mut self.points[at];
        point.0 += percent(totals.allocated_milli);
        point.1 += 1;
    }

    /// The percent of the GPUs that was allocated when so many percent had arrived; of the
    /// last arrivals before it where none fell on it.
    pub fn allocated_at(&self, arrived_percent: usize) -> Option<f64> {
        let until = self.points.get(..=arrived_percent).unwrap_or(&self.points);
        let last = until.iter().rev().find(|(_, count)| *count > 0)?;
        Some(last.0 / f64::from(last.1))
    }
}

/// What is known of a workload: percent of the GPUs that are allocated, means over ten seeds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Published {
    pub workload: &'static str,
    /// FGD when 100 % had arrived, and at the end (result files of the paper's artifact).
    pub fgd_at_100: f64,
    pub fgd_at_130: f64,
    /// What best-fit decreasing of everything that had arrived up to 100 % reaches where only
    /// GPUs count: a practical ceiling for whoever refuses nothing that fits, at 100 %.
    pub ceiling: f64,
}

const fn row(workload: &'static str, fgd_at_100: f64, fgd_at_130: f64, ceiling: f64) -> Published {
    Published { workload, fgd_at_100, fgd_at_130, ceiling }
}

/// All workloads of the publication.
pub const PUBLISHED: [Published; 17] = [
    row("default", 95.23, 95.39, 96.3),
    row("cpu050", 95.0, 95.21, 96.3),
    row("cpu100", 95.21, 95.35, 96.3),
    row("cpu200", 94.82, 95.05, 96.3),
    row("cpu250", 93.2, 93.41, 96.3),
    row("gpushare40", 93.96, 94.15, 94.9),
    row("gpushare60", 91.25, 91.4, 92.1),
    row("gpushare80", 89.08, 89.3, 89.9),
    row("gpushare100", 86.64, 86.9, 87.0),
    row("gpuspec10", 94.66, 94.95, 96.3),
    row("gpuspec20", 94.66, 94.84, 96.3),
    row("gpuspec25", 93.91, 94.74, 96.3),
    row("gpuspec33", 87.84, 94.55, 96.3),
    row("multigpu20", 95.53, 95.65, 96.9),
    row("multigpu30", 96.36, 96.46, 97.3),
    row("multigpu40", 96.91, 96.99, 97.6),
    row("multigpu50", 97.09, 97.18, 98.0),
];

/// What is known of a workload by its name.
pub fn published(workload: &str) -> Option<Published> {
    PUBLISHED.into_iter().find(|row| row.workload == workload)
}

#[cfg(test)]
mod tests;
