//! Sessions of agents. Only the leader holds them: it alone knows who is
//! silent, so an agent that dials a follower is sent on.

mod exec;
mod reports;
mod session;

use std::pin::Pin;
use std::time::Duration;

use berth_proto::v1;
use berth_proto::v1::agent_message::Message as FromAgent;
use berth_proto::v1::scheduler_message::Message as ToAgent;
use berth_wire::agent::{check_protocol, hello_from_proto};
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{Instrument as _, info_span};

use self::session::session;
use super::{Shared, status};
use crate::access::Granted;

/// Messages to an agent that may wait for its connection.
const OUT_MAX: usize = 64;
/// The first message must come within this.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

pub struct AgentsService(pub Shared);

pub type Out = mpsc::Sender<Result<v1::SchedulerMessage, Status>>;

type OutStream = Pin<Box<dyn Stream<Item = Result<v1::SchedulerMessage, Status>> + Send>>;

#[tonic::async_trait]
impl v1::agents_server::Agents for AgentsService {
    type SessionStream = OutStream;
    type ExecStream = exec::InputStream;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<OutStream>, Status> {
        let (out, stream) = mpsc::channel(OUT_MAX);
        let shared = self.0.clone();
        let granted = Granted::of(&request)?;
        let messages = request.into_inner();
        tokio::spawn(async move {
            if let Err(refused) = serve(shared, &granted, messages, &out).await {
                if matches!(refused.code(), Code::PermissionDenied | Code::Unauthenticated) {
                    granted.refused(&refused);
                }
                let _ = out.send(Err(refused)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn push_logs(
        &self,
        request: Request<Streaming<v1::LogPush>>,
    ) -> Result<Response<v1::LogPushReply>, Status> {
        let granted = Granted::of(&request)?;
        let mut pushes = request.into_inner();
        let mut request_id: Option<String> = None;
        while let Some(push) = pushes.next().await {
            let push = match push {
                Ok(push) => push,
                Err(broken) => {
                    // Whoever reads must not wait for more.
                    if let Some(id) = request_id {
                        self.0.published.sessions.logs.close(&id);
                    }
                    return Err(broken);
                }
            };
            request_id.get_or_insert_with(|| push.request_id.clone());
            let asker = self.0.published.sessions.logs.get(&push.request_id);
            let Some((node, reader)) = asker.filter(|(_, reader)| !reader.is_closed()) else {
                return Err(Status::cancelled("nobody reads this any more"));
            };
            let view = self.0.published.view();
            let name = view.nodes().get(&node).map_or("", |row| row.name.as_str());
            granted.check_node(name)?;
            granted.still_certified(&view)?;
            if reader.send(push).await.is_err() {
                return Err(Status::cancelled("the reader has gone"));
            }
        }
        // Nothing more comes: whoever reads must not wait for it.
        if let Some(request_id) = request_id {
            self.0.published.sessions.logs.close(&request_id);
        }
        Ok(Response::new(v1::LogPushReply {}))
    }

    async fn exec(
        &self,
        request: Request<Streaming<v1::ExecPush>>,
    ) -> Result<Response<exec::InputStream>, Status> {
        let granted = Granted::of(&request)?;
        exec::answered(&self.0, granted, request.into_inner()).await.map(Response::new)
    }
}

pub fn message(message: ToAgent) -> v1::SchedulerMessage {
    v1::SchedulerMessage { message: Some(message) }
}

async fn serve(
    shared: Shared,
    granted: &Granted,
    mut messages: Streaming<v1::AgentMessage>,
    out: &Out,
) -> Result<(), Status> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, messages.next())
        .await
        .map_err(|_| Status::deadline_exceeded("no hello came"))?;
    let hello = match first.transpose()?.and_then(|first| first.message) {
        Some(FromAgent::Hello(hello)) => hello,
        Some(
            FromAgent::Heartbeat(_)
            | FromAgent::Report(_)
            | FromAgent::NeedFull(_)
            | FromAgent::Stock(_),
        )
        | None => {
            return Err(Status::failed_precondition("a session begins with a hello"));
        }
    };
    granted.check_node(&hello.name)?;
    // The stream may have been opened long before this first message.
    granted.still_certified(&shared.published.view())?;
    let Some(leader) = shared.leading().filter(|leader| leader.has_quorum()) else {
        let leader_address = shared.leader_address().unwrap_or_default();
        let redirect = v1::Redirect { leader_address };
        let _ = out.send(Ok(message(ToAgent::Redirect(redirect)))).await;
        return Ok(());
    };
    let span = info_span!("session", node = %hello.name);
    let name = hello.name.clone();
    let begin = async {
        check_protocol(&hello).map_err(|other| status::other_protocol(&other))?;
        let hello = hello_from_proto(hello).map_err(status::invalid)?;
        granted.check_pool(&hello.spec.pool)?;
        session(shared, granted, leader.clone(), hello, messages, out).await
    };
    let ended = begin.instrument(span).await;
    if let Err(refused) = &ended
        && is_lasting(refused)
        && let Ok(name) = name.parse()
        && let Some(node) = leader.published.view().node_named(&name)
    {
        leader.turn_away(node, refused.message());
    }
    ended
}

/// Whether an agent that was refused so will be refused again, until somebody mends
/// something.
fn is_lasting(refused: &Status) -> bool {
    matches!(
        refused.code(),
        Code::InvalidArgument
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
    )
}
