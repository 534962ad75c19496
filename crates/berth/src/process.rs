//! What every daemon does around its work: its log, its metrics, a runtime, and settings that are
//! read again when somebody asks for it.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use berth_config::{Inputs, Loaded};
use berth_telemetry::{LogHandle, Metrics};
use tokio::runtime::Runtime;

use crate::reload::Reload;
use crate::settings;

/// What still runs when the work has ended is given so long, and so is what was logged.
const LAST: Duration = Duration::from_secs(1);

pub struct Process {
    pub metrics: Metrics,
    /// The same as a text, to be had at any time.
    pub metrics_text: Arc<dyn Fn() -> String + Send + Sync>,
    log: LogHandle,
    runtime: Runtime,
}

impl Process {
    /// Of the daemon whose settings are in `section`.
    pub fn start(section: &'static str, loaded: Loaded, inputs: Inputs) -> anyhow::Result<Process> {
        let log = settings::start_log(&loaded)?;
        let reload = Reload { section, inputs, in_force: loaded.rows, filter: log.filter() };
        let (metrics, metrics_text) = settings::start_metrics()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        reload.listen(&runtime)?;
        Ok(Process { metrics, metrics_text, log, runtime })
    }

    /// Works until the work has ended.
    pub fn run(self, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
        let ended = self.runtime.block_on(work);
        self.runtime.shutdown_timeout(LAST);
        self.log.flush(LAST);
        ended.map(|()| ExitCode::SUCCESS)
    }
}
