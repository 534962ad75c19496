//! What is measured of a service, and its mean over a while.

use std::collections::{BTreeMap, VecDeque};

use berth_model::{DurationMs, ScalingMetric, StateMs};

/// One metric, summed over all replicas.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Measure {
    /// In the metric's own unit.
    pub total: f64,
    /// Replicas that are ready and do not tell it.
    pub missing: u32,
}

/// What there is to know of a service at a moment.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Measured {
    /// A metric that nobody tells is absent.
    pub metrics: BTreeMap<ScalingMetric, Measure>,
    /// Something is under way, waits, or was asked since it was measured last.
    pub busy: bool,
}

/// Measures of the newest while, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(VecDeque<(StateMs, Measured)>);

impl Samples {
    pub(crate) fn push(&mut self, now: StateMs, measured: Measured, keep: DurationMs) {
        while self.0.front().is_some_and(|(at, _)| now.since(*at) >= keep) {
            self.0.pop_front();
        }
        self.0.push_back((now, measured));
    }

    /// The mean of those that tell the metric within the last `span`; `None` where none does.
    /// `missing` is that of the newest.
    pub(crate) fn mean(
        &self,
        metric: ScalingMetric,
        now: StateMs,
        span: DurationMs,
    ) -> Option<Measure> {
        let recent = self.0.iter().rev().take_while(|(at, _)| now.since(*at) < span);
        let told = recent.filter_map(|(_, measured)| measured.metrics.get(&metric));
        let (mut sum, mut count, mut missing) = (0.0, 0_u32, None);
        for measure in told {
            missing.get_or_insert(measure.missing);
            sum += measure.total.max(0.0);
            count += 1;
        }
        let missing = missing?;
        Some(Measure { total: sum / f64::from(count), missing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: ScalingMetric = ScalingMetric::Queue;

    fn of(total: f64, missing: u32) -> Measured {
        let metrics = BTreeMap::from([(QUEUE, Measure { total, missing })]);
        Measured { metrics, busy: true }
    }

    #[test]
    fn the_mean_is_of_those_within_the_span_that_tell() {
        let mut samples = Samples::default();
        let keep = DurationMs(3_000);
        assert_eq!(samples.mean(QUEUE, StateMs(0), keep), None);
        samples.push(StateMs(0), of(100.0, 0), keep);
        samples.push(StateMs(1_000), of(2.0, 0), keep);
        samples.push(StateMs(2_000), Measured::default(), keep);
        samples.push(StateMs(3_000), of(4.0, 1), keep);
        // The first is as old as the span, and gone.
        let found = samples.mean(QUEUE, StateMs(3_000), keep);
        assert_eq!(found, Some(Measure { total: 3.0, missing: 1 }));
        let found = samples.mean(QUEUE, StateMs(3_000), DurationMs(2_000));
        assert_eq!(found, Some(Measure { total: 4.0, missing: 1 }));
        assert_eq!(samples.mean(ScalingMetric::Gpu, StateMs(3_000), keep), None);
        samples.push(StateMs(9_000), of(-5.0, 0), keep);
        let found = samples.mean(QUEUE, StateMs(9_000), keep);
        assert_eq!(found, Some(Measure { total: 0.0, missing: 0 }), "nothing is below zero");
    }
}
