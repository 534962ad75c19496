//! From the death of the leader to the next acknowledged submit.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use berth_client::Client;

use super::Bench;
use crate::guard::{self, Acknowledged};
use crate::jobs;
use crate::report::{Row, Target};
use crate::series::Series;

const LIMIT: Duration = Duration::from_secs(30);

pub async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let trials = bench.options.amount(30, 3);
    let mut gaps = Series::default();
    let mut cluster = bench.cluster().await?;
    let acknowledged = Acknowledged::default();
    for trial in 0..trials {
        // A client that has been talking to the leader, as one would have.
        let client = cluster.client();
        submit(&client, &format!("before-{trial}"), &acknowledged).await?;
        let leader = cluster.leader().await?;
        cluster.kill(leader).await?;
        let killed = Instant::now();
        submit(&client, &format!("after-{trial}"), &acknowledged).await?;
        gaps.push(killed.elapsed().as_secs_f64() * 1e3);
        cluster.restart(leader)?;
        cluster.settled().await?;
    }
    let verdict = guard::read_back(&cluster.client(), &acknowledged).await?;
    cluster.stop().await?;
    let row = |what: &str, target| Row {
        what: format!("leader killed -9 to the next acknowledged submit, {trials} trials, {what}"),
        unit: "ms",
        ours: gaps.clone(),
        peer: None,
        target,
    };
    bench.add(row("median", Target::AtMost(600.0)));
    bench.add(row("worst", Target::WorstAtMost(1_000.0)));
    bench.judge("the leader's death", &verdict);
    Ok(())
}

/// Submits until there is an acknowledgement.
async fn submit(client: &Client, name: &str, acknowledged: &Acknowledged) -> anyhow::Result<()> {
    let request = jobs::submit(jobs::waiting(name, 1));
    let began = Instant::now();
    loop {
        match client.submit(request.clone()).await {
            Ok(reply) => {
                acknowledged.add(request.key, reply.job_id);
                return Ok(());
            }
            Err(error) if began.elapsed() > LIMIT => {
                return Err(error).context("no leader came back");
            }
            Err(_) => {}
        }
    }
}
