//! Many no-op instances run through: memory, snapshot and disk of each
//! scheduler must not grow with what has been, only with what is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::{Bench, noop};
use crate::berth::{Cluster, Footprint};
use crate::jobs;

/// Instances of one array; two are in the cluster at a time, so that the next
/// one's are waiting when the first one's end.
const ARRAY: u64 = 2_000;
const ARRAYS_AT_A_TIME: usize = 2;
const SAMPLES: u64 = 10;
const LIMIT: Duration = Duration::from_secs(600);

struct Sample {
    instances: u64,
    seconds: f64,
    schedulers: Vec<Footprint>,
}

pub async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let total = bench.options.long_instances();
    let cluster = bench.cluster().await?;
    let client = cluster.client();
    let began = Instant::now();
    let mut samples = vec![sample(&cluster, 0, began).await?];
    let mut waiting = VecDeque::new();
    let (mut submitted, mut done) = (0, 0);
    let mut due = total.div_ceil(SAMPLES);
    while done < total {
        while submitted < total && waiting.len() < ARRAYS_AT_A_TIME {
            let count = ARRAY.min(total - submitted);
            let request = noop::array(&format!("long-{submitted}"), u32::try_from(count)?);
            let job = client.submit(request).await.context("submit an array")?.job_id;
            waiting.push_back((job, count));
            submitted += count;
        }
        let Some((job, count)) = waiting.pop_front() else { break };
        let shown = jobs::finished(&client, job, LIMIT).await?;
        let succeeded = jobs::succeeded(&shown);
        anyhow::ensure!(succeeded == count, "{succeeded} of {count} instances succeeded");
        done += count;
        if done >= due || done == total {
            let taken = sample(&cluster, done, began).await?;
            // Of an hour's work, what was measured is told as it goes.
            eprint!("{}", row(&taken));
            samples.push(taken);
            due = done + total.div_ceil(SAMPLES);
        }
    }
    cluster.stop().await?;
    bench.report.note(table(&samples));
    Ok(())
}

/// Takes a snapshot first, so that its size is of now.
async fn sample(cluster: &Cluster, instances: u64, began: Instant) -> anyhow::Result<Sample> {
    if instances > 0 {
        cluster.snapshot().await?;
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(Sample { instances, seconds, schedulers: cluster.footprints() })
}

fn table(samples: &[Sample]) -> String {
    let mut text = "\n| instances run | s | memory of each scheduler, MiB | snapshot of each, KiB | data directory of each, MiB |\n|---|---|---|---|---|\n".to_owned();
    text.extend(samples.iter().map(row));
    text
}

fn row(sample: &Sample) -> String {
    let each = |bytes: fn(&Footprint) -> u64, unit: u64| {
        let cells = sample.schedulers.iter().map(|one| (bytes(one) / unit).to_string());
        cells.collect::<Vec<_>>().join(" / ")
    };
    format!(
        "| {} | {:.0} | {} | {} | {} |\n",
        sample.instances,
        sample.seconds,
        each(|one| one.memory_bytes, 1 << 20),
        each(|one| one.snapshot_bytes, 1 << 10),
        each(|one| one.disk_bytes, 1 << 20),
    )
}
