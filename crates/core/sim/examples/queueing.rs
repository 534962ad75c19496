//! Prints how long jobs are queued under each policy on generated lists, as parts of what
//! backfill gives: seven distributions of durations, from all alike to heavy-tailed, at three
//! loads, two lists each. `cargo run --release --example queueing -p berth-sim -- [SEED]`.
#![expect(clippy::print_stdout, reason = "its answer is what it prints")]

use std::collections::BTreeSet;

use berth_model::{DurationMs, StateMs};
use berth_sim::Random;
use berth_sim::jobs::{self, JobsOptions, QueuePart, QueuePolicy, TraceJob};

const GPUS: u32 = 64;
const JOBS: usize = 1_500;
const LISTS: u64 = 2;
const SIZES: [u32; 9] = [1, 1, 1, 1, 2, 4, 8, 8, 16];
const LOADS: [f64; 3] = [0.7, 0.9, 1.5];

/// How long jobs take, in seconds.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// One hour, all.
    Constant,
    Exponential,
    Uniform,
    /// Heavy-tailed, up to eleven days.
    Pareto,
    /// Ten minutes or four hours.
    Bimodal,
    /// Of three classes, each a fifth around its own length.
    Classes,
    /// From half to one and a half of eleven hours.
    Long,
}

const SHAPES: [Shape; 7] = [
    Shape::Constant,
    Shape::Exponential,
    Shape::Uniform,
    Shape::Pareto,
    Shape::Bimodal,
    Shape::Classes,
    Shape::Long,
];

fn main() {
    let seed = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(42);
    let lists = lists(&mut Random::new(seed));
    let none = BTreeSet::new();
    let backfill = waits(&lists, QueuePolicy::Backfill, &none);
    for policy in QueuePolicy::ALL {
        compare(policy.name(), &lists, &backfill, &waits(&lists, policy, &none));
    }
    for part in QueuePart::ALL {
        let found = waits(&lists, QueuePolicy::Berth, &BTreeSet::from([part]));
        compare(&format!("berth without {}", part.name()), &lists, &backfill, &found);
    }
}

fn lists(random: &mut Random) -> Vec<(String, Vec<TraceJob>)> {
    let mut lists = Vec::new();
    for load in LOADS {
        for shape in SHAPES {
            for _ in 0..LISTS {
                lists.push((format!("{shape:?} at {load}"), list(random, shape, load)));
            }
        }
    }
    lists
}

/// Submitted at random times, as many as make up the load.
fn list(random: &mut Random, shape: Shape, load: f64) -> Vec<TraceJob> {
    let mut jobs: Vec<TraceJob> = (0..JOBS).map(|_| job(random, shape)).collect();
    let work_ms: f64 = jobs.iter().map(|job| job.duration.0 as f64 * f64::from(job.gpus)).sum();
    let span_ms = (work_ms / load / f64::from(GPUS)) as usize;
    for job in &mut jobs {
        job.submitted = StateMs(random.below(span_ms) as u64);
    }
    jobs
}

fn job(random: &mut Random, shape: Shape) -> TraceJob {
    let part = (random.below(1 << 30) + 1) as f64 / f64::from(1 << 30);
    let class = random.below(3);
    let (class, seconds) = match shape {
        Shape::Constant => (0, 3_600.0),
        Shape::Exponential => (0, -3_600.0 * part.ln()),
        Shape::Uniform => (0, 7_200.0 * part),
        Shape::Pareto => (0, (300.0 * part.powf(-1.0 / 1.1)).min(1e6)),
        Shape::Bimodal => (0, if part < 0.5 { 600.0 } else { 14_400.0 }),
        Shape::Classes => (class, [300.0, 3_600.0, 20_000.0][class] * (0.8 + 0.4 * part)),
        Shape::Long => (0, 40_000.0 * (0.5 + part)),
    };
    TraceJob {
        submitted: StateMs(0),
        duration: DurationMs((seconds * 1000.0) as u64 + 1),
        gpus: SIZES[random.below(SIZES.len())],
        class: u32::try_from(class).unwrap_or(0),
    }
}

/// The mean queueing of each list.
fn waits(
    lists: &[(String, Vec<TraceJob>)],
    policy: QueuePolicy,
    without: &BTreeSet<QueuePart>,
) -> Vec<f64> {
    let restart = DurationMs::from_secs(30);
    let options = JobsOptions { gpus: GPUS, policy, without: without.clone(), restart };
    let mean = |(name, list): &(String, Vec<TraceJob>)| match jobs::run(list, &options) {
        Ok(report) => report.queueing.mean_ms as f64,
        Err(error) => panic!("{name}: {error}"),
    };
    lists.iter().map(mean).collect()
}

fn compare(name: &str, lists: &[(String, Vec<TraceJob>)], backfill: &[f64], found: &[f64]) {
    let ratios: Vec<f64> =
        found.iter().zip(backfill).map(|(found, backfill)| found / backfill).collect();
    let mean = (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
    let worst = ratios.iter().zip(lists).max_by(|one, other| one.0.total_cmp(other.0));
    let (worst, list) = worst.map_or((0.0, ""), |(ratio, (list, _))| (*ratio, list.as_str()));
    println!("{name}: {mean:.2} in the geometric mean, at worst {worst:.2} ({list})");
}
