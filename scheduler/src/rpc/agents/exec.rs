//! An agent runs a command: its stream is joined with that of whoever asked for it.

use std::pin::Pin;

use berth_model::NodeId;
use berth_proto::v1;
use futures::Stream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::HELLO_TIMEOUT;
use crate::access::Granted;
use crate::rpc::Shared;
use crate::rpc::exec::AgentEnds;

pub type InputStream = Pin<Box<dyn Stream<Item = Result<v1::ExecInput, Status>> + Send>>;

/// Takes the stream in, if somebody waits for it and it is the agent's that was asked.
pub async fn answered(
    shared: &Shared,
    granted: Granted,
    mut pushes: Streaming<v1::ExecPush>,
) -> Result<InputStream, Status> {
    let first = timeout(HELLO_TIMEOUT, pushes.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no request was named"))??;
    let request_id = first.map(|first| first.request_id).unwrap_or_default();
    let execs = &shared.published.sessions.execs;
    let nobody = || Status::cancelled("nobody waits for this any more");
    // Looked at before it is taken: another agent's word must not take it away.
    let node = execs.node(&request_id).ok_or_else(nobody)?;
    check(shared, &granted, node)?;
    let (_, ends) = execs.take(&request_id).ok_or_else(nobody)?;
    let AgentEnds { outputs, inputs } = ends;
    tokio::spawn(pass(shared.clone(), granted, node, pushes, outputs));
    Ok(Box::pin(ReceiverStream::new(inputs)))
}

/// Until the agent has no more to say, may not say it any more, or nobody listens.
async fn pass(
    shared: Shared,
    granted: Granted,
    node: NodeId,
    mut pushes: Streaming<v1::ExecPush>,
    outputs: mpsc::Sender<v1::ExecOutput>,
) {
    loop {
        let push = tokio::select! {
            push = pushes.message() => push,
            () = outputs.closed() => return,
        };
        let Ok(Some(push)) = push else { return };
        if check(&shared, &granted, node).is_err() {
            return;
        }
        if let Some(output) = push.output
            && outputs.send(output).await.is_err()
        {
            return;
        }
    }
}

fn check(shared: &Shared, granted: &Granted, node: NodeId) -> Result<(), Status> {
    let view = shared.published.view();
    granted.check_node(view.nodes().get(&node).map_or("", |row| row.name.as_str()))?;
    granted.still_certified(&view)
}
