//! Logs of an allocation: asked of the agent that ran it, passed on as they
//! come.

mod passing;

use std::pin::Pin;

use berth_model::{AllocationId, InstanceIndex};
use berth_proto::v1;
use berth_state::ClusterState;
use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::instance::{Instance, failure, node_name, nothing_to_show};
use super::jobs::task_named;
use super::{Shared, lookup};
use crate::access::Granted;
use passing::{Passing, Reading};

/// Chunks that wait for a reader.
const CHUNKS_MAX: usize = 16;

pub type LogStream = Pin<Box<dyn Stream<Item = Result<v1::LogChunk, Status>> + Send>>;

impl Shared {
    /// Only the leader has the agents' sessions; a follower says where it is.
    pub async fn logs(
        &self,
        granted: &Granted,
        request: v1::LogsRequest,
    ) -> Result<LogStream, Status> {
        self.leading_or_redirect()?;
        let view = self.read(granted, 0).await?.state;
        let job = lookup::job(granted, &view, request.job.as_ref())?;
        let task = task_named(&job, &request.task)?;
        let instance = Instance { job: job.id, task, index: InstanceIndex(request.index) };
        let Some((allocation, node)) = self.shown(&view, instance, request.attempt) else {
            return Err(nothing_to_show(&job, request.index, request.attempt));
        };
        let name = node_name(&view, node);
        let words = LastWords::of(&view, allocation);
        let Some(session) = self.published.sessions.get(node) else {
            let away = format!("node {name}, which ran {allocation}, is not connected");
            return match words {
                Some(words) if request.stderr => Ok(words.alone(allocation, name, &away)),
                Some(_) => Err(Status::failed_precondition(format!(
                    "{away}; its logs are there, but for the end of its standard error (--stderr)"
                ))),
                None => Err(Status::failed_precondition(format!("{away}; its logs are there"))),
            };
        };
        let words = words.filter(|_| request.stderr);
        let (out, stream) = mpsc::channel(CHUNKS_MAX);
        let passing = Passing { shared: self.clone(), granted: granted.clone(), out };
        let first = Reading { allocation, node: name, session, words, sent: 0 };
        tokio::spawn(passing.run(first, instance, request));
        Ok(Box::pin(ReceiverStream::new(stream)))
    }
}

/// The end of the standard error of an attempt that failed, which outlives its node.
struct LastWords(Bytes);

impl LastWords {
    fn of(view: &ClusterState, id: AllocationId) -> Option<LastWords> {
        let words = failure(view, id)?.stderr_tail.clone();
        (!words.is_empty()).then(|| LastWords(words.into()))
    }

    fn chunk(&self, allocation_id: String, node: String, why: &str) -> v1::LogChunk {
        let kept = self.0.len();
        let note = format!("{why}; this is the end of its standard error, {kept} bytes");
        v1::LogChunk { data: self.0.clone(), allocation_id, node, note }
    }

    /// All that there is.
    fn alone(&self, allocation: AllocationId, node: String, why: &str) -> LogStream {
        let chunk = self.chunk(allocation.to_string(), node, why);
        Box::pin(futures::stream::iter([Ok(chunk)]))
    }
}
