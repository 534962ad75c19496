//! From submit to the worker's first instruction on an idle cluster, against
//! the same of HyperQueue with the same worker.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::Bench;
use crate::berth::Cluster;
use crate::report::{Row, Target};
use crate::series::{Latencies, Series};
use crate::{jobs, stamp};

/// A lone job that is not running after this is a failure.
const LIMIT: Duration = Duration::from_secs(30);
/// A random pause between jobs, so that nothing falls in step with a timer.
const PAUSE: (Duration, Duration) = (Duration::from_millis(30), Duration::from_millis(130));

pub async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let count = bench.options.amount(100, 20);
    let folder = bench.stamps()?;
    let worker = std::env::current_exe().context("find this program")?;
    let (mut p50, mut p99) =
        ((Series::default(), Series::default()), (Series::default(), Series::default()));
    let mut peer = bench.hyperqueue().await?;
    let cluster = bench.cluster().await?;
    for run in 0..bench.options.runs() {
        let ours = start_latencies(&cluster, &worker, &folder, run, count).await?;
        p50.0.push(ours.ms_at(50.0));
        p99.0.push(ours.ms_at(99.0));
        if let Some(peer) = &mut peer {
            let theirs = peer.start_latencies(&worker, &folder, count, PAUSE).await?;
            p50.1.push(theirs.ms_at(50.0));
            p99.1.push(theirs.ms_at(99.0));
        }
    }
    cluster.stop().await?;
    let beside = |series| peer.as_ref().map(|_| ("HyperQueue", series));
    let row = |what: &str, ours, theirs| Row {
        what: format!("submit to the worker's first instruction, idle, {what}"),
        unit: "ms",
        ours,
        peer: beside(theirs),
        target: Target::RatioAtMost(1.0),
    };
    bench.add(row("p50", p50.0, p50.1));
    bench.add(row("p99", p99.0, p99.1));
    Ok(())
}

async fn start_latencies(
    cluster: &Cluster,
    worker: &Path,
    folder: &Path,
    run: u32,
    count: u64,
) -> anyhow::Result<Latencies> {
    let client = cluster.client();
    let mut latencies = Latencies::new()?;
    for number in 0..count {
        let name = format!("start{run}-{number}");
        let file = folder.join(&name);
        let words =
            [worker.display().to_string(), stamp::WORD.to_owned(), file.display().to_string()];
        let request = jobs::submit(jobs::batch(&name, 1, words.to_vec()));
        tokio::time::sleep(pause()).await;
        let began = stamp::now_ns();
        let reply = client.submit(request).await.context("submit a worker")?;
        let started = stamp::read(&file, LIMIT).await.context("the worker did not start")?;
        let took = started.checked_sub(began).context("a worker started before its submit")?;
        let nanoseconds = u64::try_from(took)?;
        latencies.record(Duration::from_nanos(nanoseconds));
        jobs::finished(&client, reply.job_id, LIMIT).await?;
    }
    Ok(latencies)
}

/// Drawn from the clock's last digits, which nobody chooses.
fn pause() -> Duration {
    let width = (PAUSE.1 - PAUSE.0).as_nanos();
    let drawn = u64::try_from(stamp::now_ns() * 7_919 % width).unwrap_or(0);
    PAUSE.0 + Duration::from_nanos(drawn)
}
