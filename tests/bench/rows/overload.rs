//! Far more submits than the log can take, from callers that come back as soon as
//! they are told to: what is still done, how soon the rest is refused, and
//! whether agents suffer. Schedulers have one half of the processors, callers and agents the
//! other; how soon a refusal comes is asked by one caller that has nothing else to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use berth_proto::v1;
use berth_proto::v1::jobs_client::JobsClient;
use prost::Message as _;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, JoinSet};
use tonic::Code;

use super::Bench;
use super::agents::{all_up, nodes};
use crate::berth::Cluster;
use crate::guard::{self, Acknowledged};
use crate::jobs;
use crate::load::{closed_loop, connection_of, connections};
use crate::processors::Halves;
use crate::report::{Row, Target};
use crate::series::{Latencies, Series};
use berth_tests::fleet::Fleet;

/// Callers at which the rate no longer rises.
const PEAK_CALLERS: usize = 256;
/// Beside the load.
const AGENTS: usize = 200;
/// Each has a call out at any time; more of them than there is room for.
const CALLERS: usize = 12_000;
const CALLERS_ON_CONNECTION: usize = 200;
const PROBE_EVERY: Duration = Duration::from_millis(20);

/// A runtime of one thread, which ends with whoever holds it, also where that is an error: from
/// within another runtime it cannot be waited for.
struct Thread(Option<Runtime>);

impl Thread {
    fn start() -> anyhow::Result<Thread> {
        let mut thread = Builder::new_multi_thread();
        let runtime = thread.worker_threads(1).enable_all().build();
        Ok(Thread(Some(runtime.context("start the flood's thread")?)))
    }

    fn spawn<F: Future<Output: Send + 'static> + Send + 'static>(
        &self,
        work: F,
    ) -> JoinHandle<F::Output> {
        match &self.0 {
            Some(runtime) => runtime.spawn(work),
            None => tokio::spawn(work),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    number: AtomicU64,
}

pub async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let lasts = Duration::from_secs(bench.options.amount(60, 10));
    let calls = bench.options.amount(60_000, 6_000);
    let (mut goodput, mut refusals) = (Series::default(), Series::default());
    let (mut offered, mut missed) = (Series::default(), 0);
    let mut late = Series::default();
    let mut lost = Vec::new();
    let halves = Halves::of_this_process()?;
    let apart = halves.as_ref().map_or("share", |_| "do not share");
    bench.report.note(format!("- overload: schedulers and callers {apart} processors"));
    let servers = halves.as_ref().map(|halves| halves.servers.clone());
    halves.as_ref().map_or(Ok(()), Halves::move_to_callers)?;
    for _ in 0..bench.options.runs().min(3) {
        let cluster = bench.bare_cluster_on(servers.clone()).await?;
        let fleet = Fleet::start(AGENTS, &cluster.servers(), &bench.folder("fleet"))?;
        all_up(&fleet, AGENTS, Duration::from_secs(60)).await?;
        let leader = cluster.leader_address().await?;

        let peak = peak(&leader, calls).await?;
        let acknowledged = Acknowledged::default();
        let counts = Arc::new(Counts::default());
        let began = Instant::now();
        // On a thread of its own: what agents and the probe see is not to be how
        // busy their own threads are.
        let flooding = Thread::start()?;
        let load = flooding.spawn(flood(leader.clone(), counts.clone(), acknowledged.clone()));
        let probe = tokio::spawn(probe(leader, counts.clone()));
        missed += watch(&cluster, lasts).await;
        counts.stop.store(true, Ordering::Relaxed);
        let took = began.elapsed().as_secs_f64();
        load.await.context("the load ended early")??;
        drop(flooding);
        let (refusal, answer) = probe.await.context("the probe ended early")??;

        let done = as_float(counts.acknowledged.load(Ordering::Relaxed)) / took;
        let refused = counts.refused.load(Ordering::Relaxed);
        goodput.push(done / peak);
        offered.push((done + as_float(refused) / took) / peak);
        ensure!(refused > 0, "nothing was refused: this was no overload");
        refusals.push(refusal.ms_at(99.0));
        late.push(answer.ms_at(99.0));
        let verdict = guard::read_back(&cluster.client(), &acknowledged).await?;
        lost.extend(verdict.lost);
        drop(fleet);
        cluster.stop().await?;
    }
    halves.as_ref().map_or(Ok(()), Halves::move_back)?;
    let row = |what: &str, unit, ours, target| Row {
        what: format!("{CALLERS} callers for {} s: {what}", lasts.as_secs()),
        unit,
        ours,
        peer: None,
        target,
    };
    bench.add(row("calls made", "× peak", offered, Target::None));
    bench.add(row("submits acknowledged", "× peak", goodput, Target::AtLeast(0.8)));
    bench.add(row("a refusal, p99", "ms", refusals, Target::AtMost(50.0)));
    bench.add(row("an acknowledgement, p99", "ms", late, Target::None));
    bench.report.note(format!("- overload: {missed} of {AGENTS} agents were missed meanwhile"));
    if !lost.is_empty() {
        let some: Vec<_> = lost.iter().take(5).collect();
        bench.report.void.push(format!("overload: acknowledged and lost, such as {some:?}"));
    }
    ensure!(missed == 0, "{missed} agents were taken for lost, which they were not");
    Ok(())
}

/// How many agents were missed at once, in that time.
async fn watch(cluster: &Cluster, lasts: Duration) -> usize {
    let (client, began) = (cluster.client(), Instant::now());
    let mut pause = tokio::time::interval(Duration::from_millis(500));
    let mut seen = 0;
    while began.elapsed() < lasts {
        pause.tick().await;
        // A read may be late under such a load; agents may not.
        if let Ok(nodes) = nodes(&client).await {
            seen = seen.max(nodes.iter().filter(|node| node.state != "ready").count());
        }
    }
    seen
}

/// Submits per second that are done when nobody is refused.
async fn peak(leader: &str, calls: u64) -> anyhow::Result<f64> {
    let channels = connections(leader, PEAK_CALLERS).await?;
    let measured = closed_loop(PEAK_CALLERS, calls, move |client, number| {
        let channel = connection_of(&channels, client);
        async move {
            let request = jobs::submit(jobs::waiting(&format!("peak-{number}"), 1));
            JobsClient::new(channel).submit(request).await.context("submit")?;
            Ok(())
        }
    });
    Ok(measured.await?.calls_per_second())
}

/// One caller that submits every now and then, whether or not it has been answered before: how long
/// refusals and acknowledgements took.
async fn probe(address: String, counts: Arc<Counts>) -> anyhow::Result<(Latencies, Latencies)> {
    let client = JobsClient::new(connections(&address, 1).await?[0].clone());
    let (mut refusal, mut answer) = (Latencies::new()?, Latencies::new()?);
    let mut pause = tokio::time::interval(PROBE_EVERY);
    let mut calls = JoinSet::new();
    for number in 0.. {
        pause.tick().await;
        if counts.stop.load(Ordering::Relaxed) {
            break;
        }
        let request = jobs::submit(jobs::waiting(&format!("probe-{number}"), 1));
        let mut client = client.clone();
        calls.spawn(async move {
            let asked = Instant::now();
            let answer = client.submit(request).await;
            (asked.elapsed(), answer.map(drop))
        });
    }
    for (took, outcome) in calls.join_all().await {
        match outcome {
            Ok(()) => answer.record(took),
            Err(refused) if refused.code() == Code::ResourceExhausted => refusal.record(took),
            Err(error) => bail!("neither done nor refused: {error}"),
        }
    }
    Ok((refusal, answer))
}

/// Calls until it is told to stop.
async fn flood(
    address: String,
    counts: Arc<Counts>,
    acknowledged: Acknowledged,
) -> anyhow::Result<()> {
    let channels = connections(&address, CALLERS / CALLERS_ON_CONNECTION * 16).await?;
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let client = JobsClient::new(connection_of(&channels, caller));
            tokio::spawn(call(client, counts.clone(), acknowledged.clone()))
        })
        .collect();
    for caller in callers {
        caller.await.context("a caller ended early")??;
    }
    Ok(())
}

async fn call(
    mut client: JobsClient<tonic::transport::Channel>,
    counts: Arc<Counts>,
    acknowledged: Acknowledged,
) -> anyhow::Result<()> {
    while !counts.stop.load(Ordering::Relaxed) {
        let number = counts.number.fetch_add(1, Ordering::Relaxed);
        let request: v1::SubmitRequest = jobs::submit(jobs::waiting(&format!("flood-{number}"), 1));
        let key = request.key.clone();
        match client.submit(request).await {
            Ok(reply) => {
                counts.acknowledged.fetch_add(1, Ordering::Relaxed);
                acknowledged.add(key, reply.into_inner().job_id);
            }
            Err(refused) if refused.code() == Code::ResourceExhausted => {
                counts.refused.fetch_add(1, Ordering::Relaxed);
                let detail = v1::ErrorDetail::decode(refused.details()).unwrap_or_default();
                let wait = detail.retry_after_ms.context("a refusal says when to come back")?;
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            Err(error) => bail!("neither done nor refused: {error}"),
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 calls")]
fn as_float(count: u64) -> f64 {
    count as f64
}
