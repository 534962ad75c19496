//! Logs of an allocation: asked of the agent that ran it, passed on as they
//! come.

mod passing;

use std::pin::Pin;

use berth_model::{AllocationId, Attempt, InstanceIndex, JobId, NodeId, TaskIndex};
use berth_proto::v1;
use berth_state::ClusterState;
use berth_state::rows::{FailureDetail, JobRow};
use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

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
            return Err(nothing_to_show(&job, &request));
        };
        let name =
            view.nodes().get(&node).map_or_else(|| node.to_string(), |row| row.name.to_string());
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

    /// The allocation that is meant, and where it is or was: the newest that has begun unless an
    /// attempt is named.
    fn shown(
        &self,
        view: &ClusterState,
        instance: Instance,
        attempt: u32,
    ) -> Option<(AllocationId, NodeId)> {
        let place = |id: AllocationId| {
            let live = view.allocations().get(&id).map(|row| row.node);
            let ended = || self.published.history.get(id).map(|ended| ended.row.node);
            live.or_else(ended)
                .or_else(|| failure(view, id).map(|failure| failure.node))
                .map(|node| (id, node))
        };
        if attempt > 0 {
            return place(instance.attempt(Attempt(attempt)));
        }
        // Not the one that would begin next: after a restore that one is far
        // beyond those that were.
        let newest = view
            .tasks()
            .get(&(instance.job, instance.task))
            .map_or(Attempt::FIRST, |row| row.attempt_counted(instance.index.0));
        // The newest attempt may be one that still waits: then the one before
        // it is what can be shown.
        let earlier = Attempt(newest.0.saturating_sub(1));
        let earlier = (earlier.0 > 0).then(|| instance.attempt(earlier));
        place(instance.attempt(newest)).or_else(|| place(earlier?))
    }
}

/// One copy of a task.
#[derive(Clone, Copy)]
struct Instance {
    job: JobId,
    task: TaskIndex,
    index: InstanceIndex,
}

impl Instance {
    fn attempt(self, attempt: Attempt) -> AllocationId {
        let Instance { job, task, index } = self;
        AllocationId { job, task, instance: index, attempt }
    }
}

fn nothing_to_show(job: &JobRow, request: &v1::LogsRequest) -> Status {
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

/// What the state keeps of an attempt that failed.
fn failure(view: &ClusterState, id: AllocationId) -> Option<&FailureDetail> {
    let task = view.tasks().get(&(id.job, id.task))?;
    task.failures.iter().find(|failure| failure.allocation == id)
}
