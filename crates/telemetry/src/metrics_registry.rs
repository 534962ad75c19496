//! The metrics of a process, rendered as text for Prometheus.

use std::io;
use std::thread;
use std::time::Duration;

use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::log::dropped_log_lines;

const DROPPED_LINES: &str = "berth_log_lines_dropped_total";

/// Bounds for names that end in `_seconds`: from a synced write on a good disk
/// (0.2 ms) to a slow model load.
const SECONDS_BUCKETS: [f64; 17] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0, 60.0, 300.0,
];

/// Bounds for names that end in `_bytes`, powers of four from 256 B to 1 GiB.
const BYTES_BUCKETS: [f64; 12] = [
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
];

/// How often raw samples are folded into their buckets where nobody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The metrics cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum MetricsInitError {
    /// The bounds of the histograms are refused.
    #[error("set up histogram bounds")]
    Bounds(#[source] BuildError),
    /// This process has metrics already.
    #[error("this process has metrics already")]
    Twice,
    /// The system refuses the upkeep thread.
    #[error("start the metrics upkeep")]
    Thread(#[source] io::Error),
}

/// The registry behind the macros of `metrics`.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Makes this process's registry the one that the macros of `metrics` fill,
    /// and starts the thread that keeps its memory bounded between scrapes.
    ///
    /// # Errors
    /// See [`MetricsInitError`].
    pub fn install() -> Result<Self, MetricsInitError> {
        let recorder = recorder()?;
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|_| MetricsInitError::Twice)?;
        let upkeep = handle.clone();
        thread::Builder::new()
            .name("metrics-upkeep".to_owned())
            .spawn(move || {
                loop {
                    thread::sleep(UPKEEP_INTERVAL);
                    upkeep.run_upkeep();
                }
            })
            .map_err(MetricsInitError::Thread)?;
        metrics::describe_counter!(
            DROPPED_LINES,
            "Log lines dropped because standard error was blocked or closed"
        );
        Ok(Self { handle })
    }

    /// All metrics in the text format of Prometheus. Also brings the counter of
    /// dropped log lines up to date.
    #[must_use]
    pub fn render(&self) -> String {
        metrics::counter!(DROPPED_LINES).absolute(dropped_log_lines());
        self.handle.render()
    }
}

fn recorder() -> Result<PrometheusRecorder, MetricsInitError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
        .map_err(MetricsInitError::Bounds)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES_BUCKETS)
        .map_err(MetricsInitError::Bounds)?;
    Ok(builder.build_recorder())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_rendered_with_buckets() {
        let recorder = recorder().unwrap();
        let metrics = Metrics { handle: recorder.handle() };
        let text = metrics::with_local_recorder(&recorder, || {
            metrics::counter!("berth_trials_total", "kind" => "a").increment(3);
            metrics::histogram!("berth_tick_duration_seconds").record(0.002);
            metrics.render()
        });
        for line in [
            "berth_trials_total{kind=\"a\"} 3",
            "berth_tick_duration_seconds_bucket{le=\"0.0025\"} 1",
            "berth_tick_duration_seconds_bucket{le=\"0.001\"} 0",
            "berth_tick_duration_seconds_count 1",
            "berth_log_lines_dropped_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn bounds_rise() {
        assert!(SECONDS_BUCKETS.is_sorted() && BYTES_BUCKETS.is_sorted());
    }
}
