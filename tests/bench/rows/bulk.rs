//! Distinct jobs, a thousand a call, each with its own command and key.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, bail};
use berth_client::Client;
use berth_proto::v1;
use berth_proto::v1::jobs_client::JobsClient;
use berth_proto::v1::submit_result::Result as Answer;

use super::Bench;
use crate::guard::{self, Acknowledged};
use crate::jobs;
use crate::load::{closed_loop, connection_of, connections};
use crate::report::{Row, Target};
use crate::series::Series;

const JOBS_IN_CALL: u64 = 1_000;
/// Calls at a time: while one is written to the log the next is read.
const CALLERS: usize = 4;
/// How often a caller repeats what was refused by a leader that was ending.
const ROUNDS_MAX: u32 = 100;

pub async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let calls = bench.options.amount(40, 8);
    let (mut rate, mut p50) = (Series::default(), Series::default());
    for run in 0..bench.options.runs() {
        let cluster = bench.cluster().await?;
        let channels = connections(&cluster.leader_address().await?, CALLERS).await?;
        // The jobs are made before the clock starts: a client's work is not the
        // cluster's.
        let calls_made: Arc<[Vec<v1::SubmitRequest>]> =
            (0..calls).map(|call| requests(&format!("bulk{run}"), call)).collect();
        let measured = closed_loop(CALLERS, calls, move |client, number| {
            let channel = connection_of(&channels, client);
            let submits = calls_made[usize::try_from(number).unwrap_or(usize::MAX)].clone();
            async move {
                let request = v1::SubmitManyRequest { submits };
                let mut jobs = JobsClient::new(channel).max_decoding_message_size(64 << 20);
                let reply = jobs.submit_many(request).await.context("submit many")?;
                accepted(reply.into_inner())
            }
        })
        .await?;
        cluster.stop().await?;
        #[expect(clippy::cast_precision_loss, reason = "a thousand")]
        rate.push(measured.calls_per_second() * JOBS_IN_CALL as f64);
        p50.push(measured.latencies.ms_at(50.0));
    }
    bench.add(Row {
        what: format!("bulk submit, 1,000 distinct jobs a call, {CALLERS} callers"),
        unit: "jobs/s",
        ours: rate,
        peer: None,
        target: Target::AtLeast(60_000.0),
    });
    bench.add(Row {
        what: "bulk submit, one call of 1,000, p50".to_owned(),
        unit: "ms",
        ours: p50,
        peer: None,
        target: Target::None,
    });
    guarded(bench, calls).await
}

fn requests(prefix: &str, call: u64) -> Vec<v1::SubmitRequest> {
    let first = call * JOBS_IN_CALL;
    let names = (first..first + JOBS_IN_CALL).map(|number| format!("{prefix}-{number}"));
    names.map(|name| jobs::submit(jobs::waiting(&name, 1))).collect()
}

/// Every job of the call was accepted.
fn accepted(reply: v1::SubmitManyReply) -> anyhow::Result<()> {
    for result in reply.results {
        match result.result {
            Some(Answer::Accepted(_)) => {}
            Some(Answer::Refused(problem)) => bail!("refused: {}", problem.message),
            None => bail!("a submit has no answer"),
        }
    }
    Ok(())
}

async fn guarded(bench: &mut Bench, calls: u64) -> anyhow::Result<()> {
    let mut cluster = bench.cluster().await?;
    let client = cluster.client();
    let acknowledged = Acknowledged::default();
    let progress = Arc::new(AtomicU64::new(0));
    let (asking, acked, counted) = (client.clone(), acknowledged.clone(), progress.clone());
    let load = closed_loop(CALLERS, calls, move |_, number| {
        let (client, acknowledged, progress) = (asking.clone(), acked.clone(), counted.clone());
        async move {
            submit_all(&client, requests("guard", number), &acknowledged).await?;
            progress.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    });
    guard::kill_during(&mut cluster, &progress, calls, load).await?;
    let verdict = guard::read_back(&client, &acknowledged).await?;
    cluster.stop().await?;
    bench.judge("bulk submit", &verdict);
    Ok(())
}

/// Repeats, with the same keys, what was not accepted.
async fn submit_all(
    client: &Client,
    mut left: Vec<v1::SubmitRequest>,
    acknowledged: &Acknowledged,
) -> anyhow::Result<()> {
    for _ in 0..ROUNDS_MAX {
        let reply = client.submit_many(left.clone()).await.context("submit many")?;
        let mut again = Vec::new();
        for (request, result) in left.into_iter().zip(reply.results) {
            match result.result {
                Some(Answer::Accepted(reply)) => acknowledged.add(request.key, reply.job_id),
                Some(Answer::Refused(_)) | None => again.push(request),
            }
        }
        if again.is_empty() {
            return Ok(());
        }
        left = again;
    }
    bail!("{} jobs were refused {ROUNDS_MAX} times", left.len())
}
