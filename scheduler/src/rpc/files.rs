//! Files of a task's directory: asked of the agent that has them, passed on as they come.

use std::pin::Pin;
use std::time::Duration;

use berth_model::InstanceIndex;
use berth_proto::v1;
use berth_proto::v1::scheduler_message::Message as ToAgent;
use futures::Stream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::asked::{Asked, PUSHES_MAX};
use super::instance::{Instance, node_name, nothing_to_show};
use super::jobs::task_named;
use super::{Shared, lookup};
use crate::access::Granted;

/// For what comes next: a disk that does not answer is given up.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);

pub type FilesStream = Pin<Box<dyn Stream<Item = Result<v1::FilesReply, Status>> + Send>>;

impl Shared {
    /// Only the leader has the agents' sessions; a follower says where it is.
    pub async fn files(
        &self,
        granted: &Granted,
        request: v1::FilesRequest,
    ) -> Result<FilesStream, Status> {
        self.leading_or_redirect()?;
        let view = self.read(granted, 0).await?.state;
        let job = lookup::job(granted, &view, request.job.as_ref())?;
        let task = task_named(&job, &request.task)?;
        let instance = Instance { job: job.id, task, index: InstanceIndex(request.index) };
        let (allocation, node) = self
            .shown(&view, instance, request.attempt)
            .ok_or_else(|| nothing_to_show(&job, request.index, request.attempt))?;
        let path: String = request.path.chars().take(256).collect();
        granted.about(format!("{allocation} of job {}/{}: {path}", job.namespace(), job.name()));
        let name = node_name(&view, node);
        let session = self.published.sessions.get(node).ok_or_else(|| {
            Status::failed_precondition(format!(
                "node {name}, which has the files of {allocation}, is not connected"
            ))
        })?;
        let (out, stream) = mpsc::channel(PUSHES_MAX);
        let passing = Passing {
            shared: self.clone(),
            granted: granted.clone(),
            allocation_id: allocation.to_string(),
            node: name,
            out,
        };
        tokio::spawn(async move {
            let (allocation_id, path) = (passing.allocation_id.clone(), request.path);
            let order = |request_id| {
                ToAgent::FileRequest(v1::FileRequest { request_id, allocation_id, path })
            };
            let told = match Asked::of(&passing.shared, &session, order).await {
                Some(mut asked) => passing.run(&mut asked.pushes).await,
                None => Err(passing.away()),
            };
            if let Err(problem) = told {
                // Whoever has gone needs no word.
                let _ = passing.out.send(Err(problem)).await;
            }
        });
        Ok(Box::pin(ReceiverStream::new(stream)))
    }
}

/// What is on its way to a reader.
struct Passing {
    shared: Shared,
    granted: Granted,
    allocation_id: String,
    /// The node's name.
    node: String,
    out: mpsc::Sender<Result<v1::FilesReply, Status>>,
}

impl Passing {
    async fn run(&self, pushes: &mut mpsc::Receiver<v1::LogPush>) -> Result<(), Status> {
        let published = &self.shared.published;
        let mut is_first = true;
        loop {
            let push = tokio::select! {
                push = timeout(SILENCE_LIMIT, pushes.recv()) => push.ok().flatten(),
                () = self.out.closed() => return Ok(()),
            };
            let push = push.ok_or_else(|| self.away())?;
            self.granted.still(&published.view(), published.now())?;
            if let Some(why) = push.end {
                return if why.is_empty() { Ok(()) } else { Err(Status::not_found(why)) };
            }
            let mut reply = v1::FilesReply {
                subject: push.subject,
                entries: push.entries,
                data: push.data,
                ..v1::FilesReply::default()
            };
            if is_first {
                reply.allocation_id.clone_from(&self.allocation_id);
                reply.node.clone_from(&self.node);
            }
            is_first = false;
            if self.out.send(Ok(reply)).await.is_err() {
                return Ok(());
            }
        }
    }

    fn away(&self) -> Status {
        Status::unavailable(format!("node {} does not answer, or went away", self.node))
    }
}
