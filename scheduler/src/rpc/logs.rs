//! Logs of an allocation: asked of the agent that ran it, passed on as they
//! come.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use berth_model::{AllocationId, Attempt, InstanceIndex, NodeId};
use berth_proto::v1;
use berth_proto::v1::scheduler_message::Message as ToAgent;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::jobs::task_named;
use super::{Shared, lookup};
use crate::access::Granted;
use crate::sessions::Session;

/// Chunks that wait for a reader.
const CHUNKS_MAX: usize = 16;

/// An agent answers a request at once, if only to say that there is nothing yet.
const FIRST_CHUNK_LIMIT: Duration = Duration::from_secs(10);

pub type LogStream = Pin<Box<dyn Stream<Item = Result<v1::LogChunk, Status>> + Send>>;

impl Shared {
    /// Only the leader has the agents' sessions; a follower says where it is.
    pub async fn logs(
        &self,
        granted: &Granted,
        request: v1::LogsRequest,
    ) -> Result<LogStream, Status> {
        let leader = self.leading_or_redirect()?;
        let view = self.read(granted, 0).await?.state;
        let job = lookup::job(granted, &view, request.job.as_ref())?;
        let task = task_named(&job, &request.task)?;
        // Not the one that would begin next: after a restore that one is far
        // beyond those that were.
        let newest = view
            .tasks()
            .get(&(job.id, task))
            .map_or(Attempt::FIRST, |row| row.attempt_counted(request.index));
        let wanted = if request.attempt > 0 { Attempt(request.attempt) } else { newest };
        let id = |attempt| AllocationId {
            job: job.id,
            task,
            instance: InstanceIndex(request.index),
            attempt,
        };
        // The newest attempt may be one that still waits: then the one before
        // it is what can be shown.
        let earlier = Attempt(wanted.0.saturating_sub(1));
        let candidates = if request.attempt > 0 || earlier.0 == 0 {
            vec![id(wanted)]
        } else {
            vec![id(wanted), id(earlier)]
        };
        let place = |id: &AllocationId| {
            let live = view.allocations().get(id).map(|row| row.node);
            live.or_else(|| leader.published.history.get(*id).map(|ended| ended.row.node))
                .or_else(|| failed_on(&view, *id))
        };
        let found = candidates.iter().find_map(|id| place(id).map(|node| (*id, node)));
        let Some((allocation, node)) = found else {
            return Err(self.nothing_to_show(&job, &request));
        };
        let name =
            view.nodes().get(&node).map_or_else(|| node.to_string(), |row| row.name.to_string());
        let Some(session) = self.published.sessions.get(node) else {
            return Err(Status::failed_precondition(format!(
                "node {name}, which ran {allocation}, is not connected; its logs are there"
            )));
        };
        Ok(self.stream_from(granted.clone(), session, allocation, name, &request))
    }

    fn stream_from(
        &self,
        granted: Granted,
        session: Session,
        allocation: AllocationId,
        node: String,
        request: &v1::LogsRequest,
    ) -> LogStream {
        let (out, stream) = mpsc::channel(CHUNKS_MAX);
        let published = self.published.clone();
        let order = v1::LogRequest {
            request_id: String::new(),
            allocation_id: allocation.to_string(),
            stderr: request.stderr,
            follow: request.follow,
        };
        tokio::spawn(async move {
            let logs = &published.sessions.logs;
            let (request_id, mut pushes) = logs.open(session.node);
            let order =
                ToAgent::LogRequest(v1::LogRequest { request_id: request_id.clone(), ..order });
            let sent = session.orders.send(v1::SchedulerMessage { message: Some(order) }).await;
            let mut head = Some((allocation.to_string(), node));
            if sent.is_ok() {
                loop {
                    let first = async {
                        match &head {
                            Some(_) => tokio::time::sleep(FIRST_CHUNK_LIMIT).await,
                            None => std::future::pending().await,
                        }
                    };
                    let push = tokio::select! {
                        push = pushes.recv() => push,
                        () = first => None,
                        () = out.closed() => None,
                        () = session.over.cancelled() => None,
                    };
                    let Some(push) = push else { break };
                    let (view, now) = (published.view(), published.now());
                    if let Err(revoked) = granted.still(&view, now) {
                        let _ = out.send(Err(revoked)).await;
                        break;
                    }
                    let (allocation_id, node) = head.take().unwrap_or_default();
                    let last = push.end.is_some();
                    let note = push.end.unwrap_or_default();
                    let chunk = v1::LogChunk { data: push.data, allocation_id, node, note };
                    if out.send(Ok(chunk)).await.is_err() || last {
                        break;
                    }
                }
            }
            logs.close(&request_id);
            let cancel = ToAgent::LogCancel(v1::LogCancel { request_id });
            let _ = session.orders.try_send(v1::SchedulerMessage { message: Some(cancel) });
        });
        Box::pin(ReceiverStream::new(stream))
    }

    fn nothing_to_show(&self, job: &Arc<berth_state::JobRow>, request: &v1::LogsRequest) -> Status {
        let what = if request.attempt > 0 {
            format!("attempt {} of instance {}", request.attempt, request.index)
        } else {
            format!("instance {}", request.index)
        };
        Status::not_found(format!(
            "{what} of job {} has not started, or is no longer remembered here",
            job.id
        ))
    }
}

/// Where a failed attempt ran, from the details that the state keeps.
fn failed_on(view: &berth_state::ClusterState, id: AllocationId) -> Option<NodeId> {
    let task = view.tasks().get(&(id.job, id.task))?;
    task.failures.iter().find(|failure| failure.allocation == id).map(|failure| failure.node)
}
