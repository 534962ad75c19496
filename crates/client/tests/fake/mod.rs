//! A scheduler that answers from a script and remembers what it was asked.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use berth_proto::v1::jobs_server::{Jobs, JobsServer};
use berth_proto::v1::*;
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, iter};
use tonic::{Code, Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What was asked, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    Get(GetJobRequest),
    Submit(Box<SubmitRequest>),
    Restart(ChangeJobRequest),
    Events(EventsRequest),
    Logs(LogsRequest),
}

#[derive(Default)]
struct Script {
    asked: Vec<Asked>,
    refusals: VecDeque<Status>,
    events: VecDeque<Vec<Result<Event, Status>>>,
    logs: VecDeque<Vec<Result<LogChunk, Status>>>,
}

/// One scheduler.
#[derive(Clone)]
pub struct Fake {
    pub address: String,
    script: Arc<Mutex<Script>>,
}

impl Fake {
    /// Serves on a free port of the loopback until the test's runtime ends.
    pub async fn start() -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let fake = Fake { address, script: Arc::default() };
        let server = tonic::transport::Server::builder()
            .add_service(JobsServer::new(fake.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        fake
    }

    /// Answers the next unanswered call with `status`; calls after the scripted
    /// ones succeed.
    pub fn refuse(&self, status: Status) -> &Fake {
        self.script.lock().unwrap().refusals.push_back(status);
        self
    }

    pub fn stream_events(&self, events: Vec<Result<Event, Status>>) -> &Fake {
        self.script.lock().unwrap().events.push_back(events);
        self
    }

    pub fn stream_logs(&self, chunks: Vec<Result<LogChunk, Status>>) -> &Fake {
        self.script.lock().unwrap().logs.push_back(chunks);
        self
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.script.lock().unwrap().asked.clone()
    }

    fn ask(&self, asked: Asked) -> Result<(), Status> {
        let mut script = self.script.lock().unwrap();
        script.asked.push(asked);
        script.refusals.pop_front().map_or(Ok(()), Err)
    }
}

/// A status with details, as schedulers send it.
pub fn status(code: Code, message: &str, detail: ErrorDetail) -> Status {
    Status::with_details(code, message, detail.encode_to_vec().into())
}

pub fn not_leader(leader_address: &str) -> Status {
    let detail = ErrorDetail { leader_address: leader_address.into(), ..ErrorDetail::default() };
    status(Code::Unavailable, "not the leader", detail)
}

pub fn unavailable(message: &str) -> Status {
    status(Code::Unavailable, message, ErrorDetail::default())
}

pub fn outcome_unknown() -> Status {
    let detail = ErrorDetail { outcome_unknown: true, ..ErrorDetail::default() };
    status(Code::Unavailable, "leadership was lost during the call", detail)
}

/// In the form that `async_trait` gives its methods, since it sees no macros.
macro_rules! not_asked {
    ($($method:ident($request:ty) -> $answer:ty;)*) => {
        $(fn $method<'life, 'call>(
            &'life self,
            _request: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Answer<$answer>> + Send + 'call>>
        where
            'life: 'call,
            Self: 'call,
        {
            Box::pin(async { Err(Status::unimplemented("no test asks for this")) })
        })*
    };
}

#[tonic::async_trait]
impl Jobs for Fake {
    type EventsStream = Messages<Event>;
    type LogsStream = Messages<LogChunk>;
    type ExecStream = Messages<ExecOutput>;
    type FilesStream = Messages<FilesReply>;

    async fn submit(&self, request: Request<SubmitRequest>) -> Answer<SubmitReply> {
        self.ask(Asked::Submit(Box::new(request.into_inner())))?;
        Ok(Response::new(SubmitReply { job_id: 7, version: 1, ..SubmitReply::default() }))
    }

    async fn get(&self, request: Request<GetJobRequest>) -> Answer<Job> {
        self.ask(Asked::Get(request.into_inner()))?;
        Ok(Response::new(Job { id: 7, ..Job::default() }))
    }

    async fn restart(&self, request: Request<ChangeJobRequest>) -> Answer<Job> {
        self.ask(Asked::Restart(request.into_inner()))?;
        Ok(Response::new(Job { id: 7, ..Job::default() }))
    }

    async fn events(&self, request: Request<EventsRequest>) -> Answer<Messages<Event>> {
        self.ask(Asked::Events(request.into_inner()))?;
        let events = self.script.lock().unwrap().events.pop_front().unwrap_or_default();
        Ok(Response::new(Box::pin(iter(events))))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Answer<Messages<LogChunk>> {
        self.ask(Asked::Logs(request.into_inner()))?;
        let chunks = self.script.lock().unwrap().logs.pop_front().unwrap_or_default();
        Ok(Response::new(Box::pin(iter(chunks))))
    }

    not_asked! {
        exec(Streaming<ExecInput>) -> Messages<ExecOutput>;
        files(FilesRequest) -> Messages<FilesReply>;
        submit_many(SubmitManyRequest) -> SubmitManyReply;
        plan(PlanRequest) -> PlanReply;
        list(ListJobsRequest) -> ListJobsReply;
        list_allocations(ListAllocationsRequest) -> ListAllocationsReply;
        explain(ExplainRequest) -> ExplainReply;
        history(HistoryRequest) -> HistoryReply;
        stop(ChangeJobRequest) -> Job;
        hold(ChangeJobRequest) -> Job;
        release(ChangeJobRequest) -> Job;
        purge(ChangeJobRequest) -> PurgeReply;
        scale(ScaleJobRequest) -> Job;
        rollback(RollbackJobRequest) -> Job;
    }
}
