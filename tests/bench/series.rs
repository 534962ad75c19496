//! The figures of several runs.

use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;

/// One figure for each run, in the order of the runs.
#[derive(Clone, Debug, Default)]
pub struct Series(pub Vec<f64>);

impl Series {
    pub fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    pub fn min(&self) -> Option<f64> {
        self.sorted().first().copied()
    }

    pub fn max(&self) -> Option<f64> {
        self.sorted().last().copied()
    }

    /// Of an even number of runs, the mean of the two in the middle.
    pub fn median(&self) -> Option<f64> {
        let sorted = self.sorted();
        let upper = *sorted.get(sorted.len() / 2)?;
        if sorted.len() % 2 == 1 {
            return Some(upper);
        }
        let lower = *sorted.get(sorted.len() / 2 - 1)?;
        Some(f64::midpoint(lower, upper))
    }

    /// This over `other`, run by run.
    pub fn over(&self, other: &Series) -> Series {
        let pairs = self.0.iter().zip(&other.0);
        Series(pairs.map(|(ours, theirs)| ours / theirs).collect())
    }
}

/// Latencies of one run, in microseconds to three digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// Up to ten minutes, which no call takes.
    pub fn new() -> anyhow::Result<Latencies> {
        let histogram = Histogram::new_with_bounds(1, 600_000_000, 3);
        Ok(Latencies(histogram.context("make a histogram")?))
    }

    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    pub fn merge(&mut self, other: &Latencies) -> anyhow::Result<()> {
        self.0.add(&other.0).context("merge histograms")
    }

    /// Milliseconds that `percent` of the calls took at most.
    pub fn ms_at(&self, percent: f64) -> f64 {
        Duration::from_micros(self.0.value_at_percentile(percent)).as_secs_f64() * 1e3
    }
}
