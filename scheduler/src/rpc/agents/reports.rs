//! What agents observe, into the log: only what the state does not know yet.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_model::{AllocationId, NodeId};
use berth_proto::v1;
use berth_proto::v1::scheduler_message::Message as ToAgent;
use berth_state::{Command, Observation, Observed};
use berth_wire::agent::observation_from_proto;
use tokio::sync::mpsc;
use tonic::Status;
use tracing::{debug, warn};

use super::{Out, message};
use crate::leader::Leader;

/// Observations in one command, so that it fits an entry: a failed one carries
/// up to 4 KiB of standard error.
const OBSERVATION_BYTES_MAX: usize = 40 << 10;
/// Orphans forgotten in one command, so that it fits a log entry; more are
/// forgotten when the agent comes the next time.
const ORPHANS_FORGOTTEN_MAX: usize = 1024;

/// Records the reports of one session, in the order in which they came: the
/// second report of an allocation must not overtake the first. Runs beside the
/// session, so that heartbeats do not wait for the log. Reports that came in
/// the meantime are recorded together.
pub(super) async fn record_reports(
    leader: Arc<Leader>,
    node: NodeId,
    mut reports: mpsc::Receiver<v1::Report>,
    out: Out,
) {
    let mut named = Some(BTreeSet::<AllocationId>::new());
    while let Some(first) = reports.recv().await {
        let mut sequences = vec![first.sequence];
        let mut complete = first.complete;
        let mut observations = first.observations;
        while let Ok(more) = reports.try_recv() {
            sequences.push(more.sequence);
            complete |= more.complete;
            observations.extend(more.observations);
        }
        if let Some(named) = &mut named {
            let ids = observations.iter().filter_map(|one| one.allocation_id.parse().ok());
            named.extend(ids.collect::<Vec<AllocationId>>());
        }
        let gone = named.take_if(|_| complete).and_then(|named| gone(&leader, node, &named));
        let observed = chunks(news(&leader, node, observations)).into_iter();
        let observed = observed.map(|observations| Command::Observe { node, observations });
        for command in observed.chain(gone) {
            if let Err(error) = leader.propose(command).await {
                // The agent says each thing once in a session, and may have
                // nothing more to say in this one: only a new session, to the
                // next leader if need be, makes it say this again.
                debug!(%error, "report not recorded");
                let again = Status::aborted("the report was not recorded; begin a new session");
                let _ = out.send(Err(again)).await;
                return;
            }
        }
        for sequence in sequences {
            let ack = ToAgent::ReportAck(v1::ReportAck { sequence });
            if out.send(Ok(message(ack))).await.is_err() {
                return;
            }
        }
    }
}

/// The orphans, and what was given up, of which an agent that has said everything says nothing.
fn gone(leader: &Leader, node: NodeId, named: &BTreeSet<AllocationId>) -> Option<Command> {
    let view = leader.published.view();
    let row = view.nodes().get(&node)?;
    let known = row.orphans.keys().chain(row.away.keys());
    let orphans = known.filter(|id| !named.contains(id));
    let orphans: Vec<AllocationId> = orphans.take(ORPHANS_FORGOTTEN_MAX).copied().collect();
    let session = row.session;
    (!orphans.is_empty()).then_some(Command::ForgetOrphans { node, session, orphans })
}

/// The observations that the state does not know yet.
fn news(leader: &Leader, node: NodeId, observations: Vec<v1::Observation>) -> Vec<Observation> {
    let view = leader.published.view();
    let mut news = Vec::new();
    // Behind another one about the same allocation, what is news depends on
    // that one; apply ignores what changes nothing.
    let mut spoken_of = BTreeSet::new();
    for observation in observations {
        let id = observation.allocation_id.clone();
        match observation_from_proto(observation) {
            Ok(observation) => {
                let first = spoken_of.insert(observation.allocation);
                if !first || view.is_news(node, &observation) {
                    news.push(observation);
                }
            }
            Err(violations) => {
                warn!(allocation = %id, ?violations, "impossible observation refused");
            }
        }
    }
    news
}

fn chunks(observations: Vec<Observation>) -> Vec<Vec<Observation>> {
    let mut chunks: Vec<Vec<Observation>> = Vec::new();
    let mut bytes = usize::MAX;
    for observation in observations {
        let size = match &observation.observed {
            Observed::Ended(report) => 128 + report.stderr_tail.len() + report.reason.len(),
            Observed::Unhealthy { detail } => 64 + detail.len(),
            Observed::Starting(_)
            | Observed::Running { .. }
            | Observed::Stopping
            | Observed::Unkillable => 64,
        };
        match chunks.last_mut() {
            Some(chunk) if bytes + size <= OBSERVATION_BYTES_MAX => {
                chunk.push(observation);
                bytes += size;
            }
            Some(_) | None => {
                chunks.push(vec![observation]);
                bytes = size;
            }
        }
    }
    chunks
}
