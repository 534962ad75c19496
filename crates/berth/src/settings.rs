//! From the command line to a loaded configuration, and the process-wide
//! things that follow from it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use berth_config::{FileChoice, Flags, Inputs, Loaded, LogFormat};
use berth_telemetry::{LogHandle, Metrics};

use crate::arguments::ProcessArguments;

/// Settings that nothing may start on; every problem is in the text.
#[derive(Debug)]
pub struct BadSettings(pub String);

impl fmt::Display for BadSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for BadSettings {}

/// Loads the configuration under these flags; warnings go to standard error. Where
/// it came from is returned too, so that it can be read again.
pub fn load(
    config: Option<&Path>,
    process: &ProcessArguments,
    mut flags: Flags,
) -> anyhow::Result<(Loaded, Inputs)> {
    flags.set_if_given("log.level", "--log-level", process.log_level.clone());
    let file = match config {
        Some(path) => FileChoice::Named(path.to_owned()),
        None => FileChoice::IfPresent(PathBuf::from(berth_cli::DEFAULT_CONFIG_FILE)),
    };
    let inputs = Inputs { file, environment: std::env::vars_os().collect(), flags };
    let loaded = berth_config::load(&inputs).map_err(|refused| BadSettings(refused.to_string()))?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    Ok((loaded, inputs))
}

/// Refuses to start with settings missing.
pub fn require(missing: &[berth_config::Problem]) -> Result<(), BadSettings> {
    if missing.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Err(BadSettings(lines.join("\n")))
}

/// Starts logging as configured. Keep the handle to the end of the process.
pub fn start_log(loaded: &Loaded) -> anyhow::Result<LogHandle> {
    let log = &loaded.config.log;
    let format = match log.format.value {
        LogFormat::Text => berth_telemetry::LogFormat::Text,
        LogFormat::Json => berth_telemetry::LogFormat::Json,
    };
    berth_telemetry::init_log(&log_filter(&log.level.value), format).context("start the log")
}

/// What of the log is written at a level. The consensus library warns of every late
/// heartbeat; what matters of that shows in our own lines. Whoever wants it names it.
pub fn log_filter(level: &str) -> String {
    if level.contains("openraft") || level == "off" {
        level.to_owned()
    } else {
        format!("{level},openraft=error")
    }
}

/// The process's metrics, as a text to be had at any time.
pub fn start_metrics() -> anyhow::Result<(Metrics, Arc<dyn Fn() -> String + Send + Sync>)> {
    let metrics = Metrics::install().context("start the metrics")?;
    let handle = metrics.clone();
    Ok((metrics, Arc::new(move || handle.render())))
}
