//! Submits of one job a call, against etcd's puts: one client's latency, and
//! the rate of 256.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use berth_client::Client;
use berth_proto::v1::jobs_client::JobsClient;

use super::Bench;
use crate::guard::{self, Acknowledged};
use crate::load::{Measured, closed_loop, connection_of, connections};
use crate::report::{Row, Target};
use crate::series::Series;
use crate::{etcd, jobs};

/// Of a put: about what the peer's own published measurements write.
const VALUE_BYTES: usize = 64;
const CLIENTS: usize = 256;

/// One client, p50.
pub async fn one(bench: &mut Bench) -> anyhow::Result<()> {
    let calls = bench.options.amount(1_000, 200);
    let (mut p50, mut p99) =
        ((Series::default(), Series::default()), (Series::default(), Series::default()));
    let peer = bench.etcd().await?;
    let cluster = bench.cluster().await?;
    for run in 0..bench.options.runs() {
        let ours = submit_load(&cluster.leader_address().await?, run, 1, calls).await?;
        p50.0.push(ours.latencies.ms_at(50.0));
        p99.0.push(ours.latencies.ms_at(99.0));
        if let Some(peer) = &peer {
            let theirs = put_load(&peer.leader_address().await?, run, 1, calls).await?;
            p50.1.push(theirs.latencies.ms_at(50.0));
            p99.1.push(theirs.latencies.ms_at(99.0));
        }
    }
    cluster.stop().await?;
    let beside = |series| peer.as_ref().map(|_| ("etcd put, 3 nodes", series));
    let row = |what: &str, ours, theirs, target| Row {
        what: format!("one client, submit of one job, {what}"),
        unit: "ms",
        ours,
        peer: beside(theirs),
        target,
    };
    bench.add(row("p50", p50.0, p50.1, Target::RatioAtMost(1.2)));
    bench.add(row("p99", p99.0, p99.1, Target::None));
    Ok(())
}

/// 256 clients, calls a second.
pub async fn many(bench: &mut Bench) -> anyhow::Result<()> {
    let calls = bench.options.amount(20_000, 2_000);
    let (mut rate, mut p99) =
        ((Series::default(), Series::default()), (Series::default(), Series::default()));
    let peer = bench.etcd().await?;
    for run in 0..bench.options.runs() {
        // A cluster of its own for each run: what the last run left waiting
        // would be part of this one's work.
        let cluster = bench.cluster().await?;
        let ours = submit_load(&cluster.leader_address().await?, run, CLIENTS, calls).await?;
        cluster.stop().await?;
        rate.0.push(ours.calls_per_second());
        p99.0.push(ours.latencies.ms_at(99.0));
        if let Some(peer) = &peer {
            let theirs = put_load(&peer.leader_address().await?, run, CLIENTS, calls).await?;
            rate.1.push(theirs.calls_per_second());
            p99.1.push(theirs.latencies.ms_at(99.0));
        }
    }
    let beside = |series| peer.as_ref().map(|_| ("etcd put, 3 nodes", series));
    bench.add(Row {
        what: "256 clients, submits of one job each".to_owned(),
        unit: "/s",
        ours: rate.0,
        peer: beside(rate.1),
        target: Target::RatioAtLeast(1.5),
    });
    bench.add(Row {
        what: "256 clients, submits of one job each, p99".to_owned(),
        unit: "ms",
        ours: p99.0,
        peer: beside(p99.1),
        target: Target::None,
    });
    drop(peer);
    guarded(bench, calls).await
}

async fn submit_load(
    address: &str,
    run: u32,
    clients: usize,
    calls: u64,
) -> anyhow::Result<Measured> {
    let channels = connections(address, clients).await?;
    closed_loop(clients, calls, move |client, number| {
        let channel = connection_of(&channels, client);
        async move {
            let request = jobs::submit(jobs::waiting(&format!("s{run}-{number}"), 1));
            let reply = JobsClient::new(channel).submit(request).await.context("submit")?;
            anyhow::ensure!(!reply.into_inner().existed, "the key was not new");
            Ok(())
        }
    })
    .await
}

async fn put_load(address: &str, run: u32, clients: usize, calls: u64) -> anyhow::Result<Measured> {
    let channels = connections(address, clients).await?;
    closed_loop(clients, calls, move |client, number| {
        let channel = connection_of(&channels, client);
        let key = format!("s{run}-{number}").into_bytes();
        async move { etcd::put(channel, key, vec![b'v'; VALUE_BYTES]).await }
    })
    .await
}

async fn guarded(bench: &mut Bench, calls: u64) -> anyhow::Result<()> {
    let mut cluster = bench.cluster().await?;
    let client = cluster.client();
    let acknowledged = Acknowledged::default();
    let progress = Arc::new(AtomicU64::new(0));
    let load = submit_patiently(client.clone(), acknowledged.clone(), progress.clone(), calls);
    guard::kill_during(&mut cluster, &progress, calls, load).await?;
    let verdict = guard::read_back(&client, &acknowledged).await?;
    cluster.stop().await?;
    bench.judge("submits of 256 clients", &verdict);
    Ok(())
}

async fn submit_patiently(
    client: Client,
    acknowledged: Acknowledged,
    progress: Arc<AtomicU64>,
    calls: u64,
) -> anyhow::Result<Measured> {
    closed_loop(CLIENTS, calls, move |_, number| {
        let (client, acknowledged, progress) =
            (client.clone(), acknowledged.clone(), progress.clone());
        async move {
            let request = jobs::submit(jobs::waiting(&format!("guard-{number}"), 1));
            let key = request.key.clone();
            let reply = client.submit(request).await.context("submit through a leader's death")?;
            acknowledged.add(key, reply.job_id);
            progress.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    })
    .await
}
