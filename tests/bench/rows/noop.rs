//! Real processes that do nothing, from submit to the last one's end, against
//! HyperQueue's with the same number of slots.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use berth_client::Client;
use berth_proto::v1;

use super::Bench;
use crate::guard::{self, Acknowledged};
use crate::jobs;
use crate::report::{Row, Target};
use crate::series::Series;

const LIMIT: Duration = Duration::from_secs(300);

pub async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let instances = u32::try_from(bench.options.amount(3_000, 500))?;
    let worker = std::env::current_exe().context("find this program")?;
    let folder = bench.stamps()?;
    let (mut ours, mut theirs) = (Series::default(), Series::default());
    let mut peer = bench.hyperqueue().await?;
    let cluster = bench.cluster().await?;
    let client = cluster.client();
    for run in 0..bench.options.runs() {
        let request = array(&format!("noop{run}"), instances);
        let began = Instant::now();
        let job = client.submit(request).await.context("submit the array")?.job_id;
        let shown = jobs::finished(&client, job, LIMIT).await?;
        ours.push(f64::from(instances) / began.elapsed().as_secs_f64());
        all_succeeded(&shown, instances)?;
        if let Some(peer) = &mut peer {
            let took = peer.noop(&worker, &folder, u64::from(instances)).await?;
            theirs.push(f64::from(instances) / took.as_secs_f64());
        }
    }
    cluster.stop().await?;
    bench.add(Row {
        what: "real no-op instances end to end".to_owned(),
        unit: "/s",
        ours,
        peer: peer.as_ref().map(|_| ("HyperQueue", theirs)),
        target: Target::AtLeast(700.0),
    });
    drop(peer);
    guarded(bench, instances).await
}

pub fn array(name: &str, instances: u32) -> v1::SubmitRequest {
    jobs::submit(jobs::batch(name, instances, vec!["/bin/true".to_owned()]))
}

fn all_succeeded(job: &v1::Job, instances: u32) -> anyhow::Result<()> {
    let count = jobs::succeeded(job);
    let state = &job.state;
    anyhow::ensure!(
        state == "succeeded" && count == u64::from(instances),
        "job {} is `{state}` with {count} of {instances} succeeded",
        job.id
    );
    Ok(())
}

/// The job that was acknowledged must be there after the kill and come to its
/// end with every instance.
async fn guarded(bench: &mut Bench, instances: u32) -> anyhow::Result<()> {
    let mut cluster = bench.cluster().await?;
    let client = cluster.client();
    let acknowledged = Acknowledged::default();
    let progress = Arc::new(AtomicU64::new(0));
    let load = run_through(client.clone(), acknowledged.clone(), progress.clone(), instances);
    let shown = guard::kill_during(&mut cluster, &progress, u64::from(instances), load).await?;
    let mut verdict = guard::read_back(&client, &acknowledged).await?;
    if let Err(error) = all_succeeded(&shown, instances) {
        verdict.lost.push(format!("{error:#}"));
    }
    cluster.stop().await?;
    bench.judge("no-op instances", &verdict);
    Ok(())
}

async fn run_through(
    client: Client,
    acknowledged: Acknowledged,
    progress: Arc<AtomicU64>,
    instances: u32,
) -> anyhow::Result<v1::Job> {
    let request = array("guard", instances);
    let key = request.key.clone();
    let job = client.submit(request).await.context("submit the array")?.job_id;
    acknowledged.add(key, job);
    let watched = async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        loop {
            pause.tick().await;
            if let Ok(shown) = client.get_job(jobs::get(job)).await {
                progress.store(jobs::succeeded(&shown), Ordering::Relaxed);
                if shown.finished_at_ms.is_some() {
                    return shown;
                }
            }
        }
    };
    tokio::time::timeout(LIMIT, watched).await.context("the array did not end after the kill")
}
