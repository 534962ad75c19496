//! What very many agents cost a leader, how soon they are back when it dies, and
//! what a cluster with much behind it keeps in memory.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use berth_client::Client;
use berth_proto::v1;

use super::Bench;
use crate::berth::{Cluster, until};
use crate::jobs;
use crate::report::{Row, Target};
use crate::series::Series;
use berth_tests::fleet::Fleet;

/// In which processor time is counted.
const WINDOW: Duration = Duration::from_secs(20);
const CONNECT_LIMIT: Duration = Duration::from_secs(120);
/// Nobody is missed for longer than this after the leader's death: a node is
/// called disconnected after three heartbeats, and down after five.
const WATCH: Duration = Duration::from_secs(20);

pub async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let count = usize::try_from(bench.options.amount(5_000, 500))?;
    let (mut cores, mut back) = (Series::default(), Series::default());
    let mut missed = 0;
    for _ in 0..bench.options.runs() {
        let mut cluster = bench.bare_cluster().await?;
        let fleet = Fleet::start(count, &cluster.servers(), &bench.folder("fleet"))?;
        all_up(&fleet, count, CONNECT_LIMIT).await.context("the first time")?;
        cores.push(cores_of_leader(&cluster).await?);

        let leader = cluster.leader().await?;
        cluster.kill(leader).await?;
        let killed = Instant::now();
        // They notice, and come back.
        until("the agents to notice", || async { (fleet.up() < count / 2).then_some(()) }).await?;
        all_up(&fleet, count, CONNECT_LIMIT).await.context("after the leader's death")?;
        back.push(killed.elapsed().as_secs_f64());
        missed += missed_nodes(&cluster, count, killed).await?;
        drop(fleet);
        cluster.stop().await?;
    }
    bench.add(Row {
        what: format!("{count} agents that beat every second: processor time of the leader"),
        unit: "cores",
        ours: cores,
        peer: None,
        target: Target::WorstAtMost(1.0),
    });
    bench.add(Row {
        what: format!("leader killed -9 to the session of the last of {count} agents"),
        unit: "s",
        ours: back,
        peer: None,
        target: Target::WorstAtMost(10.0),
    });
    bench.report.note(format!("- {count} agents: {missed} were missed after the leader's death"));
    ensure!(missed == 0, "{missed} agents were taken for lost, which they were not");
    Ok(())
}

pub async fn all_up(fleet: &Fleet, count: usize, limit: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    while fleet.up() < count {
        pause.tick().await;
        let up = fleet.up();
        ensure!(began.elapsed() < limit, "{up} of {count} agents had a session in {limit:?}");
    }
    Ok(())
}

/// How many cores the leader keeps busy.
async fn cores_of_leader(cluster: &Cluster) -> anyhow::Result<f64> {
    let leader = cluster.leader().await?;
    let (before, began) = (cluster.processor_time(leader)?, Instant::now());
    tokio::time::sleep(WINDOW).await;
    let spent = cluster.processor_time(leader)?.saturating_sub(before);
    Ok(spent.as_secs_f64() / began.elapsed().as_secs_f64())
}

/// Nodes that were anything but ready at any look.
async fn missed_nodes(cluster: &Cluster, count: usize, since: Instant) -> anyhow::Result<usize> {
    let client = cluster.client();
    let mut missed = std::collections::BTreeSet::new();
    let mut pause = tokio::time::interval(Duration::from_millis(500));
    while since.elapsed() < WATCH {
        pause.tick().await;
        let nodes = nodes(&client).await?;
        ensure!(nodes.len() == count, "{} of {count} nodes are known", nodes.len());
        let lost = nodes.into_iter().filter(|node| node.state != "ready");
        missed.extend(lost.map(|node| node.id));
    }
    Ok(missed.len())
}

pub async fn nodes(client: &Client) -> anyhow::Result<Vec<v1::Node>> {
    let reply = client.list_nodes(v1::ListNodesRequest { consistency: 0 }).await;
    Ok(reply.context("list the nodes")?.nodes)
}

/// Instances of one job, and jobs of one namespace: as many as it keeps.
const INSTANCES: u64 = 1_000;
const JOBS_IN_NAMESPACE: u64 = 20;

/// Memory with many agents and as many finished instances as are ever kept.
pub async fn memory(bench: &mut Bench) -> anyhow::Result<()> {
    let count = usize::try_from(bench.options.amount(1_000, 100))?;
    let finished = bench.options.amount(100_000, 10_000);
    let mut memory = Series::default();
    for _ in 0..bench.options.runs().min(2) {
        let cluster = bench.bare_cluster().await?;
        let fleet = Fleet::start(count, &cluster.servers(), &bench.folder("fleet"))?;
        all_up(&fleet, count, CONNECT_LIMIT).await?;
        let client = cluster.client();
        for number in 0..finished / INSTANCES {
            let namespace = format!("tenant-{}", number / JOBS_IN_NAMESPACE);
            let spec = jobs::batch(&format!("job-{number}"), 1_000, vec!["true".to_owned()]);
            let spec = v1::JobSpec { namespace: namespace.clone(), ..spec };
            let reply = client.submit(jobs::submit(spec)).await.context("submit an array")?;
            let job = v1::JobRef { namespace, job: reply.job_id.to_string() };
            until("an array to end", || async {
                let asked = v1::GetJobRequest { job: Some(job.clone()), ..Default::default() };
                let shown = client.get_job(asked).await.ok()?;
                (jobs::succeeded(&shown) == INSTANCES).then_some(())
            })
            .await?;
        }
        cluster.settled().await?;
        let largest = cluster.footprints().into_iter().map(|one| one.memory_bytes).max();
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 bytes")]
        memory.push(largest.unwrap_or(0) as f64 / f64::from(1 << 20));
        drop(fleet);
        cluster.stop().await?;
    }
    bench.add(Row {
        what: format!("{count} agents and {finished} finished instances: largest scheduler"),
        unit: "MiB",
        ours: memory,
        peer: None,
        target: Target::WorstAtMost(512.0),
    });
    Ok(())
}
