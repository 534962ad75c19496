//! What the leader hears of a gateway: by which view it routes, and which replicas that it asks no
//! more still answer it. They end when no gateway has anything under way there.

use std::time::{Duration, Instant};

use berth_client::Client;
use berth_gateway::Gateway;
use berth_proto::v1;
use tokio::sync::watch;

use super::uses;

/// A leader takes a gateway that is silent for three of these to be gone.
const EVERY: Duration = Duration::from_secs(1);
/// Whether there is something new to tell is looked at so often.
const LOOK: Duration = Duration::from_millis(100);
/// A leader that is busy or gone hears the next one.
const LIMIT: Duration = Duration::from_secs(1);

/// For ever. `routed` is the index of the view that the gateway routes by.
pub async fn keep_telling(client: Client, gateway: Gateway, routed: watch::Receiver<u64>) {
    let mut last: Option<(u64, Vec<String>)> = None;
    let mut told_at: Option<Instant> = None;
    loop {
        let busy = gateway.busy().iter().map(ToString::to_string).collect();
        let now = (*routed.borrow(), busy);
        let is_due = told_at.is_none_or(|at| at.elapsed() >= EVERY);
        if is_due || last.as_ref().is_some_and(|last| *last != now) {
            told_at = Some(Instant::now());
            let (index, busy) = now.clone();
            let uses = is_due.then(|| uses::of(&gateway));
            let report = v1::GatewayReport { gateway: gateway.id().to_owned(), index, busy, uses };
            let answer = tokio::time::timeout(LIMIT, client.report_gateway(report)).await;
            last = match answer {
                Ok(Ok(reply)) => {
                    gateway.set_gateways(reply.gateways);
                    Some(now)
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the leader did not hear what is under way");
                    None
                }
                Err(_) => None,
            };
            metrics::counter!("berth_gateway_reports_total", "heard" => last.is_some().to_string())
                .increment(1);
        }
        tokio::time::sleep(LOOK).await;
    }
}
