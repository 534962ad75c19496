//! What became of the requests.

use berth_routing::SpanUs;

use super::herd::HerdReport;

/// What an answer has to keep to be good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slo {
    /// The first token, beside the time that reading the prompt takes on an idle replica.
    pub first: SpanUs,
    /// Times the reading of the prompt alone that the first token may take beside, in thousandths;
    /// 0 is the same for every prompt, as MLPerf has it.
    pub reading_milli: u64,
    /// Each token after the first, on average.
    pub each: SpanUs,
}

impl Default for Slo {
    /// MLPerf's for a model of eight billion parameters.
    fn default() -> Slo {
        Slo { first: SpanUs::from_secs(2), reading_milli: 0, each: SpanUs::from_millis(100) }
    }
}

/// Some times of all that were answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Latency {
    pub mean: SpanUs,
    pub p50: SpanUs,
    pub p90: SpanUs,
    pub p99: SpanUs,
}

impl Latency {
    /// Sorts them. All zero where there are none.
    pub fn of(times: &mut [SpanUs]) -> Latency {
        times.sort_unstable();
        let count = times.len() as u64;
        let sum: u128 = times.iter().map(|time| u128::from(time.0)).sum();
        let mean = sum.checked_div(u128::from(count)).unwrap_or(0);
        let at = |percent: u64| {
            let rank = (count * percent).div_ceil(100).max(1) - 1;
            times.get(usize::try_from(rank).unwrap_or(usize::MAX)).copied().unwrap_or_default()
        };
        let mean = SpanUs(u64::try_from(mean).unwrap_or(u64::MAX));
        Latency { mean, p50: at(50), p90: at(90), p99: at(99) }
    }
}

/// The sums of a run. `offered` is `answered` + `refused` + `failed` + `cut`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServeReport {
    pub offered: u64,
    pub answered: u64,
    /// Nobody could be asked.
    pub refused: u64,
    /// The caller got no answer.
    pub failed: u64,
    /// The answer broke off.
    pub cut: u64,
    /// Of those answered, within the objectives.
    pub good: u64,
    /// Sent again to another replica.
    pub retries: u64,
    /// To the first token.
    pub first: Latency,
    /// Between tokens after the first, on average of each answer.
    pub each: Latency,
    /// To the last token.
    pub whole: Latency,
    /// Tokens of prompts that were in the cache of the replica that was asked, in thousandths.
    pub hit_milli: u64,
    /// The work of good answers, of what the replicas could have done from the first arrival to the
    /// last end, in thousandths.
    pub effective_milli: u64,
    /// From the first arrival to the last end.
    pub lasted: SpanUs,
    /// Where the number of replicas follows the load.
    pub herd: Option<HerdReport>,
    /// At most [`SPREAD_MAX`] of the times to the first token, evenly among all that were answered
    /// and in ascending order.
    pub first_spread: Vec<SpanUs>,
}

/// As fine as a drawing of them can show.
pub const SPREAD_MAX: usize = 1_000;

/// Some of many, evenly, the first and the last among them.
pub(super) fn spread(sorted: &[SpanUs]) -> Vec<SpanUs> {
    let Some(last) = sorted.len().checked_sub(1) else { return Vec::new() };
    if sorted.len() <= SPREAD_MAX {
        return sorted.to_vec();
    }
    (0..SPREAD_MAX).map(|index| sorted[index * last / (SPREAD_MAX - 1)]).collect()
}

impl ServeReport {
    /// Requests of which it is known what became.
    pub(super) fn ended(&self) -> u64 {
        self.answered + self.refused + self.failed + self.cut
    }

    /// Good answers of all requests that were offered, in thousandths of a percent.
    pub fn good_per_100_000(&self) -> u64 {
        (self.good * 100_000).checked_div(self.offered).unwrap_or(100_000)
    }
}
