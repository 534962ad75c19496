//! A node of a restored cluster says what is on it, before anything is asked
//! of it and before anything is placed there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use berth_model::AllocationId;
use berth_proto::v1;
use berth_proto::v1::agent_message::Message as FromAgent;
use berth_proto::v1::scheduler_message::Message as ToAgent;
use berth_state::{Command, Stock, Unknown};
use berth_wire::agent::{Hello, StockTold, stock_from_proto};
use bytes::Bytes;
use futures::StreamExt as _;
use tonic::{Status, Streaming};
use tracing::info;

use super::agents::{Out, message};
use super::members::restore_id;
use super::{Shared, settle, status};
use crate::leader::Leader;

/// An agent looks into the directory of each allocation that is asked for.
const STOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// Of what is told in one command, beside the node's specification.
const PIECE_BYTES_MAX: usize = 24 << 10;

/// Asks the node what is on it, where that is not known in this incarnation,
/// and has the answer in the log when it returns.
pub async fn take(
    shared: &Shared,
    leader: &Arc<Leader>,
    hello: &Hello,
    messages: &mut Streaming<v1::AgentMessage>,
    out: &Out,
) -> Result<(), Status> {
    let view = leader.published.view();
    let incarnation = view.cluster().incarnation;
    let row = view.node_named(&hello.name).and_then(|node| view.nodes().get(&node));
    let needed = incarnation > 1 && row.is_none_or(|row| row.needs_stock(incarnation));
    if !needed {
        return Ok(());
    }
    let expected = row.map(|row| row.live.clone()).unwrap_or_default();
    let request = v1::StockRequest {
        cluster_id: Bytes::copy_from_slice(&shared.cluster_id),
        incarnation,
        restore_id: restore_id(&view),
        expected: expected.iter().map(AllocationId::to_string).collect(),
    };
    let asked = out.send(Ok(message(ToAgent::StockRequest(request)))).await;
    asked.map_err(|_| Status::cancelled("the agent has gone"))?;
    let told = tokio::time::timeout(STOCK_TIMEOUT, messages.next())
        .await
        .map_err(|_| Status::deadline_exceeded("the node did not say what is on it"))?;
    let told = match told.transpose()?.and_then(|told| told.message) {
        Some(FromAgent::Stock(stock)) => stock_from_proto(stock).map_err(status::invalid)?,
        Some(
            FromAgent::Hello(_)
            | FromAgent::Heartbeat(_)
            | FromAgent::Report(_)
            | FromAgent::NeedFull(_),
        )
        | None => return Err(Status::failed_precondition("expected what is on the node")),
    };
    let (here, ended) = (told.here.len(), told.ended.len());
    for stock in pieces(&expected, told) {
        // It speaks: what was just taken back must not be taken for silent.
        if let Some(node) = leader.published.view().node_named(&hello.name) {
            leader.hear(node);
        }
        let command = Command::TakeStock {
            name: hello.name.clone(),
            instance_key: hello.instance_key,
            spec: Arc::new(hello.spec.clone()),
            stock,
        };
        settle(leader, command).await?;
    }
    info!(expected = expected.len(), here, ended, "a node said what is on it");
    Ok(())
}

/// What was told, compared with what is known, in pieces that fit an entry.
/// What ended comes first: what it held may be held by what comes after.
fn pieces(expected: &BTreeSet<AllocationId>, told: StockTold) -> Vec<Stock> {
    let here: BTreeSet<AllocationId> = told.here.iter().map(|worker| worker.allocation).collect();
    let told_ended: BTreeSet<AllocationId> = told.ended.iter().map(|(id, _)| *id).collect();
    let mut pieces = Pieces(vec![(0, Stock::default())]);
    for (id, report) in told.ended {
        if expected.contains(&id) && !here.contains(&id) {
            let bytes = 128 + report.reason.len() + report.stderr_tail.len();
            pieces.add(bytes, |stock| stock.ended.push((id, report)));
        }
    }
    for id in expected.iter().filter(|id| !here.contains(id) && !told_ended.contains(id)) {
        pieces.add(32, |stock| stock.absent.push(*id));
    }
    // Those that were expected too: apply knows what the cluster has given up
    // since it was asked.
    for worker in told.here {
        let unknown = Unknown::from(worker);
        pieces.add(bytes_of(&unknown), |stock| stock.unknown.push(unknown));
    }
    let mut pieces: Vec<Stock> = pieces.0.into_iter().map(|(_, stock)| stock).collect();
    if let Some(last) = pieces.last_mut() {
        last.complete = true;
    }
    pieces
}

struct Pieces(Vec<(usize, Stock)>);

impl Pieces {
    fn add(&mut self, bytes: usize, put: impl FnOnce(&mut Stock)) {
        let full = self.0.last().is_none_or(|(held, _)| held + bytes > PIECE_BYTES_MAX);
        if full {
            self.0.push((0, Stock::default()));
        }
        if let Some((held, stock)) = self.0.last_mut() {
            *held += bytes;
            put(stock);
        }
    }
}

/// Encoded, or a little more.
fn bytes_of(unknown: &Unknown) -> usize {
    let Unknown { namespace, job_name, claim, .. } = unknown;
    let devices: usize = claim.devices.iter().map(|device| 32 + device.uuid.len()).sum();
    let ports: usize = claim.ports.iter().map(|port| 16 + port.name.as_str().len()).sum();
    160 + namespace.len() + job_name.len() + devices + ports
}
