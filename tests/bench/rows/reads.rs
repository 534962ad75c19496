//! Linearizable reads of single jobs by 64 clients, against etcd's of single
//! keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use berth_client::{Client, ClientError};
use berth_proto::v1::jobs_client::JobsClient;

use super::Bench;
use crate::berth::Cluster;
use crate::etcd::{self, Etcd};
use crate::guard::{self, Verdict};
use crate::jobs;
use crate::load::{closed_loop, connection_of, connections};
use crate::report::{Row, Target};
use crate::series::Series;

const CLIENTS: usize = 64;
/// Jobs and keys that are read in turn.
const OBJECTS: u64 = 200;

pub async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let calls = bench.options.amount(40_000, 4_000);
    let (mut rate, mut p99) =
        ((Series::default(), Series::default()), (Series::default(), Series::default()));
    let peer = bench.etcd().await?;
    if let Some(peer) = &peer {
        fill_etcd(peer).await?;
    }
    let mut cluster = bench.cluster().await?;
    let ids: Arc<[u64]> = fill(&cluster.client()).await?.into();
    for _ in 0..bench.options.runs() {
        let channels = connections(&cluster.leader_address().await?, CLIENTS).await?;
        let read = ids.clone();
        let ours = closed_loop(CLIENTS, calls, move |client, number| {
            let (channel, id) = (connection_of(&channels, client), id_of(&read, number));
            async move {
                let job =
                    JobsClient::new(channel).get(jobs::get(id)).await.context("read a job")?;
                anyhow::ensure!(job.into_inner().id == id, "another job was read");
                Ok(())
            }
        })
        .await?;
        rate.0.push(ours.calls_per_second());
        p99.0.push(ours.latencies.ms_at(99.0));
        if let Some(peer) = &peer {
            let channels = connections(&peer.leader_address().await?, CLIENTS).await?;
            let theirs = closed_loop(CLIENTS, calls, move |client, number| {
                etcd::read(connection_of(&channels, client), key(number))
            })
            .await?;
            rate.1.push(theirs.calls_per_second());
            p99.1.push(theirs.latencies.ms_at(99.0));
        }
    }
    let beside = |series| peer.as_ref().map(|_| ("etcd range, 3 nodes", series));
    bench.add(Row {
        what: "linearizable reads, 64 clients".to_owned(),
        unit: "/s",
        ours: rate.0,
        peer: beside(rate.1),
        target: Target::RatioAtLeast(2.0),
    });
    bench.add(Row {
        what: "linearizable reads, 64 clients, p99".to_owned(),
        unit: "ms",
        ours: p99.0,
        peer: beside(p99.1),
        target: Target::None,
    });
    drop(peer);
    let verdict = guarded(&mut cluster, ids, calls).await?;
    cluster.stop().await?;
    bench.judge("linearizable reads", &verdict);
    Ok(())
}

fn id_of(ids: &[u64], number: u64) -> u64 {
    ids[usize::try_from(number % OBJECTS).unwrap_or(0)]
}

fn key(number: u64) -> Vec<u8> {
    format!("r-{}", number % OBJECTS).into_bytes()
}

async fn fill(client: &Client) -> anyhow::Result<Vec<u64>> {
    let mut ids = Vec::new();
    for number in 0..OBJECTS {
        let request = jobs::submit(jobs::waiting(&format!("r-{number}"), 1));
        ids.push(client.submit(request).await.context("submit what is read")?.job_id);
    }
    Ok(ids)
}

async fn fill_etcd(peer: &Etcd) -> anyhow::Result<()> {
    let channels = connections(&peer.leader_address().await?, 1).await?;
    for number in 0..OBJECTS {
        etcd::put(channels[0].clone(), key(number), vec![b'v'; 64]).await?;
    }
    Ok(())
}

/// Reads while the leader dies: what was acknowledged before is never missing.
async fn guarded(cluster: &mut Cluster, ids: Arc<[u64]>, calls: u64) -> anyhow::Result<Verdict> {
    let client = cluster.client();
    let progress = Arc::new(AtomicU64::new(0));
    let missing = Arc::new(AtomicU64::new(0));
    let (read, counted, missed) = (ids.clone(), progress.clone(), missing.clone());
    let load = closed_loop(CLIENTS, calls, move |_, number| {
        let (client, id) = (client.clone(), id_of(&read, number));
        let (progress, missing) = (counted.clone(), missed.clone());
        async move {
            match client.get_job(jobs::get(id)).await {
                Ok(job) if job.id == id => {}
                Ok(_) => {
                    missing.fetch_add(1, Ordering::Relaxed);
                }
                Err(ClientError::Refused(refusal)) if refusal.code == tonic::Code::NotFound => {
                    missing.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => return Err(error).context("read through a leader's death"),
            }
            progress.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    });
    guard::kill_during(cluster, &progress, calls, load).await?;
    let missing = missing.load(Ordering::Relaxed);
    let lost = if missing == 0 { Vec::new() } else { vec![format!("{missing} reads")] };
    Ok(Verdict { acknowledged: ids.len(), lost })
}
