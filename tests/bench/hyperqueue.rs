//! HyperQueue as its wheel brings it: server, worker and Python in one process.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::series::Latencies;

/// Nothing that it is asked takes longer.
const LIMIT: Duration = Duration::from_secs(300);

/// A running server with one worker; it ends with this value.
pub struct HyperQueue {
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl HyperQueue {
    /// Starts it with a worker of `cores` cores.
    pub async fn start(
        python: &Path,
        script: &Path,
        folder: &Path,
        cores: u32,
    ) -> anyhow::Result<HyperQueue> {
        if folder.exists() {
            std::fs::remove_dir_all(folder).context("remove the last HyperQueue's data")?;
        }
        std::fs::create_dir_all(folder).context("make HyperQueue's folder")?;
        let log = std::fs::File::create(folder.join("log")).context("open a log")?;
        let mut process = Command::new(python)
            .arg(script)
            .arg(folder.join("server"))
            .arg(cores.to_string())
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("start HyperQueue")?;
        let orders = process.stdin.take().context("its input is piped")?;
        let output = process.stdout.take().context("its output is piped")?;
        let answers = BufReader::new(output).lines();
        let mut started = HyperQueue { orders, answers, _process: process };
        let ready = started.answer().await?;
        ensure!(ready["ready"] == true, "HyperQueue began with {ready}");
        Ok(started)
    }

    /// From submit to a worker's first instruction, for `jobs` jobs one by one.
    pub async fn start_latencies(
        &mut self,
        worker: &Path,
        folder: &Path,
        jobs: u64,
        pause: (Duration, Duration),
    ) -> anyhow::Result<Latencies> {
        let pause = [pause.0.as_secs_f64(), pause.1.as_secs_f64()];
        let order = json!({"do": "start", "worker": worker, "folder": folder, "jobs": jobs, "pause_s": pause});
        let answer = self.ask(&order).await?;
        let mut latencies = Latencies::new()?;
        for latency in answer["latencies_ns"].as_array().context("no latencies")? {
            latencies.record(Duration::from_nanos(latency.as_u64().context("not a latency")?));
        }
        Ok(latencies)
    }

    /// How long `tasks` tasks that do nothing take, as one job.
    pub async fn noop(
        &mut self,
        worker: &Path,
        folder: &Path,
        tasks: u64,
    ) -> anyhow::Result<Duration> {
        let order = json!({"do": "noop", "worker": worker, "folder": folder, "tasks": tasks});
        let answer = self.ask(&order).await?;
        Ok(Duration::from_secs_f64(answer["seconds"].as_f64().context("no seconds")?))
    }

    async fn ask(&mut self, order: &Value) -> anyhow::Result<Value> {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.context("ask HyperQueue")?;
        self.answer().await
    }

    async fn answer(&mut self) -> anyhow::Result<Value> {
        let line = tokio::time::timeout(LIMIT, self.answers.next_line()).await;
        let line = line.context("HyperQueue does not answer")??;
        let line = line.context("HyperQueue ended; its log says why")?;
        serde_json::from_str(&line).context("read HyperQueue's answer")
    }
}
