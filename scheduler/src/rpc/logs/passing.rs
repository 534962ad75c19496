//! One reader's stream: what agents push is passed on; a followed stream goes on when its agent
//! was away for a while, and with the next attempt.

use std::time::Duration;

use berth_model::{AllocationId, AllocationState, JobKind, NodeId, NodeState};
use berth_proto::v1;
use berth_proto::v1::scheduler_message::Message as ToAgent;
use berth_state::ClusterState;
use tokio::sync::mpsc;
use tonic::Status;

use super::LastWords;
use crate::access::Granted;
use crate::rpc::Shared;
use crate::rpc::asked::Asked;
use crate::rpc::instance::{Instance, node_name};
use crate::sessions::Session;

/// An agent answers a request at once, if only to say that there is nothing yet.
const FIRST_CHUNK_LIMIT: Duration = Duration::from_secs(10);

/// A stream that is passed on.
pub struct Passing {
    pub shared: Shared,
    pub granted: Granted,
    pub out: mpsc::Sender<Result<v1::LogChunk, Status>>,
}

/// Whose output is read, and from whom.
pub struct Reading {
    pub allocation: AllocationId,
    /// The node's name.
    pub node: String,
    pub session: Session,
    /// Shown where the node has nothing of it any more.
    pub words: Option<LastWords>,
    /// Bytes of it that the reader has had.
    pub sent: u64,
}

/// Why no more comes of one allocation.
enum Stop {
    /// All that there is has come; a remark, or nothing.
    Whole(String),
    /// The agent has gone, or does not answer.
    AgentAway,
    /// There is nobody to tell it to.
    Unheard,
    /// It may not be shown any more.
    Refused(Status),
}

impl Passing {
    /// Passes on until there is no more to come, or nobody to hear it.
    pub async fn run(self, first: Reading, instance: Instance, request: v1::LogsRequest) {
        let mut reading = first;
        if request.follow && !self.until_heard_of(reading.allocation).await {
            return;
        }
        loop {
            let stop = self.pass(&mut reading, &request).await;
            let last = reading.allocation;
            let next = match stop {
                Stop::Unheard => return,
                Stop::Refused(status) => return self.end(Err(status)).await,
                Stop::AgentAway if !request.follow => {
                    return self.end(Err(away(&reading.node))).await;
                }
                Stop::AgentAway => match self.until_back(&reading, &request).await {
                    Ok(Back::GivenUp) if request.attempt > 0 => Err(away(&reading.node)),
                    Ok(Back::GivenUp) => match self.tell_of_rest(&reading).await {
                        Ok(()) => self.until_next(last, instance, &request).await,
                        Err(_) => return,
                    },
                    Ok(Back::Reading(next)) => Ok(Some(next)),
                    Ok(Back::Unheard) => return,
                    Err(status) => Err(status),
                },
                Stop::Whole(note) if !request.follow || request.attempt > 0 || !note.is_empty() => {
                    return self.end(Ok(note)).await;
                }
                Stop::Whole(_) => self.until_next(last, instance, &request).await,
            };
            match next {
                Ok(Some(next)) => reading = next,
                Ok(None) => return,
                Err(status) => return self.end(Err(status)).await,
            }
        }
    }

    /// Waits until its node has heard of an allocation; `false` if nobody waits for that.
    async fn until_heard_of(&self, allocation: AllocationId) -> bool {
        let mut views = self.shared.published.views();
        loop {
            let row = views.borrow_and_update().allocations().get(&allocation).cloned();
            if row.is_none_or(|row| row.state != AllocationState::Planned) {
                return true;
            }
            tokio::select! {
                changed = views.changed() => if changed.is_err() {
                    return true;
                },
                () = self.out.closed() => return false,
            }
        }
    }

    /// Passes on one allocation's output.
    async fn pass(&self, reading: &mut Reading, request: &v1::LogsRequest) -> Stop {
        let (allocation_id, session) = (reading.allocation.to_string(), reading.session.clone());
        let (stderr, follow) = (request.stderr, request.follow);
        let order = |request_id| {
            ToAgent::LogRequest(v1::LogRequest { request_id, allocation_id, stderr, follow })
        };
        match Asked::of(&self.shared, &session, order).await {
            Some(mut asked) => self.pass_pushes(&mut asked.pushes, reading).await,
            None => Stop::AgentAway,
        }
    }

    async fn pass_pushes(
        &self,
        pushes: &mut mpsc::Receiver<v1::LogPush>,
        reading: &mut Reading,
    ) -> Stop {
        let published = &self.shared.published;
        // An agent begins with the first byte that it has.
        let mut skip = reading.sent;
        let mut is_first = true;
        loop {
            let silent = async {
                match is_first {
                    true => tokio::time::sleep(FIRST_CHUNK_LIMIT).await,
                    false => std::future::pending().await,
                }
            };
            let push = tokio::select! {
                push = pushes.recv() => push,
                () = silent => None,
                () = self.out.closed() => return Stop::Unheard,
                () = reading.session.over.cancelled() => None,
            };
            let Some(mut push) = push else { return Stop::AgentAway };
            if let Err(revoked) = self.granted.still(&published.view(), published.now()) {
                return Stop::Refused(revoked);
            }
            let gone = push.data.is_empty() && push.end.as_ref().is_some_and(|end| !end.is_empty());
            if let (true, true, 0, Some(words)) = (is_first, gone, skip, &reading.words) {
                let why = push.end.unwrap_or_default();
                let chunk = words.chunk(reading.allocation.to_string(), reading.node.clone(), &why);
                return match self.out.send(Ok(chunk)).await {
                    Ok(()) => Stop::Whole(String::new()),
                    Err(_) => Stop::Unheard,
                };
            }
            let cut = usize::try_from(skip).unwrap_or(usize::MAX).min(push.data.len());
            let data = push.data.split_off(cut);
            skip -= cut as u64;
            reading.sent += data.len() as u64;
            let mut chunk = v1::LogChunk { data, ..v1::LogChunk::default() };
            if is_first {
                chunk.allocation_id = reading.allocation.to_string();
                chunk.node.clone_from(&reading.node);
            }
            is_first = false;
            if self.out.send(Ok(chunk)).await.is_err() {
                return Stop::Unheard;
            }
            if let Some(end) = push.end {
                return Stop::Whole(end);
            }
        }
    }

    /// The same output again once its agent is back, unless the cluster gives it up before.
    async fn until_back(
        &self,
        reading: &Reading,
        request: &v1::LogsRequest,
    ) -> Result<Back, Status> {
        let (allocation, sent) = (reading.allocation, reading.sent);
        let node = reading.session.node;
        let mut views = self.shared.published.views();
        loop {
            // Asked before looking: whoever comes in between is not missed.
            let changed = self.shared.published.sessions.changed();
            let view = views.borrow_and_update().clone();
            self.shared.leading_or_redirect()?;
            let session = self.shared.published.sessions.get(node);
            if let Some(session) = session.filter(|session| !session.over.is_cancelled()) {
                let reading = self.reading(allocation, session, request);
                return Ok(Back::Reading(Reading { sent, ..reading }));
            }
            // An agent that begins anew is away for a moment, and has all of it.
            let is_missed = view.nodes().get(&node).is_none_or(|row| match row.state {
                NodeState::Disconnected | NodeState::Down => true,
                NodeState::Ready => false,
            });
            if is_missed && !view.allocations().contains(&allocation) {
                return Ok(Back::GivenUp);
            }
            tokio::select! {
                () = changed => {}
                changed = views.changed() => if changed.is_err() {
                    return Ok(Back::Unheard);
                },
                () = self.out.closed() => return Ok(Back::Unheard),
            }
        }
    }

    /// What an attempt has written last is where it ran.
    async fn tell_of_rest(&self, reading: &Reading) -> Result<(), mpsc::error::SendError<()>> {
        let (node, allocation) = (&reading.node, reading.allocation);
        let note = format!("node {node} is away; what else {allocation} has written is there");
        let chunk = v1::LogChunk { note, ..v1::LogChunk::default() };
        self.out.send(Ok(chunk)).await.map_err(|_| mpsc::error::SendError(()))
    }

    /// The next attempt's output once that has begun; `None` if there will be none.
    async fn until_next(
        &self,
        last: AllocationId,
        instance: Instance,
        request: &v1::LogsRequest,
    ) -> Result<Option<Reading>, Status> {
        let mut views = self.shared.published.views();
        loop {
            let view = views.borrow_and_update().clone();
            self.shared.leading_or_redirect()?;
            let next = match self.standing(&view, last, instance) {
                Standing::Begun(next, node) => Some((next, node)),
                Standing::Over => return Ok(None),
                Standing::Waits => None,
            };
            if let Some((allocation, node)) = next
                && let Some(session) = self.shared.published.sessions.get(node)
            {
                return Ok(Some(self.reading(allocation, session, request)));
            }
            tokio::select! {
                changed = views.changed() => if changed.is_err() {
                    return Ok(None);
                },
                () = self.out.closed() => return Ok(None),
            }
        }
    }

    fn reading(
        &self,
        allocation: AllocationId,
        session: Session,
        request: &v1::LogsRequest,
    ) -> Reading {
        let view = self.shared.published.view();
        let node = node_name(&view, session.node);
        let words = LastWords::of(&view, allocation).filter(|_| request.stderr);
        Reading { allocation, node, session, words, sent: 0 }
    }

    fn standing(&self, view: &ClusterState, last: AllocationId, instance: Instance) -> Standing {
        let (Some(job), Some(task)) =
            (view.jobs().get(&instance.job), view.tasks().get(&(instance.job, instance.task)))
        else {
            return Standing::Over;
        };
        // One after the other; but for those that nobody remembers.
        let next = self.shared.shown(view, instance, last.attempt.next().0);
        let next = next.or_else(|| self.shared.shown(view, instance, 0));
        let live = |id: AllocationId| view.allocations().get(&id);
        match next.filter(|(id, _)| id.attempt > last.attempt) {
            // Its node may not have heard of it yet.
            Some((id, _)) if live(id).is_some_and(|row| row.state == AllocationState::Planned) => {
                Standing::Waits
            }
            Some((id, node)) => Standing::Begun(id, node),
            // The end of the last was written to its log before the cluster has heard of it;
            // a daemon's instances wait on their nodes.
            None if !job.is_ended()
                && (live(last).is_some()
                    || task.pending.contains(instance.index.0)
                    || job.kind() == JobKind::Daemon) =>
            {
                Standing::Waits
            }
            None => Standing::Over,
        }
    }

    async fn end(&self, how: Result<String, Status>) {
        // A reader that has gone needs no end.
        let _ = match how {
            Ok(note) if note.is_empty() => Ok(()),
            Ok(note) => self.out.send(Ok(v1::LogChunk { note, ..v1::LogChunk::default() })).await,
            Err(status) => self.out.send(Err(status)).await,
        };
    }
}

fn away(node: &str) -> Status {
    Status::unavailable(format!("node {node} went away while it told its logs"))
}

/// What becomes of output whose agent has gone.
enum Back {
    Reading(Reading),
    /// It has ended for the cluster while its node is away.
    GivenUp,
    /// There is nobody to tell it to.
    Unheard,
}

/// What becomes of an instance after one of its attempts.
enum Standing {
    Begun(AllocationId, NodeId),
    Waits,
    Over,
}
