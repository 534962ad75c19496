//! An array of 10,000 instances: how long until it is accepted.

use anyhow::Context as _;
use berth_proto::v1::jobs_client::JobsClient;

use super::Bench;
use crate::jobs;
use crate::load::{closed_loop, connection_of, connections};
use crate::report::{Row, Target};
use crate::series::Series;

const INSTANCES: u32 = 10_000;

pub async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let arrays = bench.options.amount(50, 10);
    let (mut p50, mut worst) = (Series::default(), Series::default());
    let cluster = bench.cluster().await?;
    for run in 0..bench.options.runs() {
        let channels = connections(&cluster.leader_address().await?, 1).await?;
        let measured = closed_loop(1, arrays, move |client, number| {
            let channel = connection_of(&channels, client);
            async move {
                let request = jobs::submit(jobs::waiting(&format!("a{run}-{number}"), INSTANCES));
                JobsClient::new(channel).submit(request).await.context("submit an array")?;
                Ok(())
            }
        })
        .await?;
        p50.push(measured.latencies.ms_at(50.0));
        worst.push(measured.latencies.ms_at(100.0));
    }
    cluster.stop().await?;
    let row = |what: &str, ours, target| Row {
        what: format!("array of 10,000 instances accepted, {what}"),
        unit: "ms",
        ours,
        peer: None,
        target,
    };
    bench.add(row("p50", p50, Target::AtMost(10.0)));
    bench.add(row("slowest of a run", worst, Target::None));
    Ok(())
}
