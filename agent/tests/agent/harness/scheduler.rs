//! A scheduler that says what a test wants and notes what it hears.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use berth_model::{AllocationId, JobSpec, SpecDigest};
use berth_proto::v1::agent_message::Message as FromAgent;
use berth_proto::v1::agents_server::{Agents, AgentsServer};
use berth_proto::v1::observation::State;
use berth_proto::v1::scheduler_message::Message as ToAgent;
use berth_proto::v1::{
    AgentMessage, DeviceSample, Ended, ExecPush, HeartbeatAck, Hello, LogPush, LogPushReply,
    Redirect, Report, ReportAck, Running, SchedulerMessage, StockRequest, Welcome,
};
use berth_wire::agent::{
    Delta, DesiredRow, Full, StockTold, delta_to_proto, desired_digest, full_to_proto,
    stock_from_proto,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::exec::{Inputs, Open};
use super::within;

pub const HEARTBEAT_MS: u64 = 50;
pub const LEASE_MS: u64 = 700;

type Outbound = mpsc::UnboundedSender<Result<SchedulerMessage, Status>>;

/// What the server half hears.
enum Heard {
    Session(Hello, Outbound),
    Message(FromAgent),
    Over,
    Log(LogPush),
}

/// What agents are answered without asking the test.
#[derive(Default)]
struct Manners {
    no_heartbeat_acks: AtomicBool,
    no_report_acks: AtomicBool,
    incarnation: AtomicU64,
    cluster: AtomicU8,
    leader: std::sync::Mutex<Option<String>>,
    /// Set: agents are asked what is on their nodes before they are welcomed,
    /// these allocations among that.
    expected: std::sync::Mutex<Option<Vec<String>>>,
    /// Devices that stay in use whatever agents say.
    held_back: std::sync::Mutex<Vec<String>>,
    execs: Open,
}

impl Manners {
    fn answer(&self, message: &FromAgent) -> Option<ToAgent> {
        match message {
            FromAgent::Heartbeat(beat) => {
                let silent = self.no_heartbeat_acks.load(Ordering::SeqCst);
                let ack = HeartbeatAck { sequence: beat.sequence };
                (!silent).then_some(ToAgent::HeartbeatAck(ack))
            }
            FromAgent::Report(report) => {
                let silent = self.no_report_acks.load(Ordering::SeqCst);
                let ack = ReportAck { sequence: report.sequence };
                (!silent).then_some(ToAgent::ReportAck(ack))
            }
            FromAgent::Hello(_) | FromAgent::NeedFull(_) | FromAgent::Stock(_) => None,
        }
    }
}

/// The state of a running worker.
pub fn running(state: &State) -> Option<&Running> {
    let State::Running(running) = state else { return None };
    Some(running)
}

/// The test's half.
pub struct Scheduler {
    pub address: String,
    manners: Arc<Manners>,
    heard: mpsc::UnboundedReceiver<Heard>,
    outbound: Option<Outbound>,
    pub incarnation: u64,
    pub generation: u64,
    rows: BTreeMap<AllocationId, DesiredRow>,
    specs: BTreeMap<SpecDigest, Arc<JobSpec>>,
    /// The latest that was said of each allocation.
    pub seen: BTreeMap<AllocationId, State>,
    /// Everything that was ever said of each.
    pub history: BTreeMap<AllocationId, Vec<State>>,
    pub full_requests: u32,
    pub complete_reports: Vec<Report>,
    /// What the last heartbeat said of the devices.
    pub samples: Vec<DeviceSample>,
    /// What agents said is on their nodes.
    pub stocks: Vec<StockTold>,
    logs: Vec<LogPush>,
}

struct Server {
    heard: mpsc::UnboundedSender<Heard>,
    manners: Arc<Manners>,
}

impl Scheduler {
    pub async fn start() -> Scheduler {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, heard) = mpsc::unbounded_channel();
        let manners = Arc::new(Manners {
            incarnation: AtomicU64::new(1),
            cluster: AtomicU8::new(1),
            ..Manners::default()
        });
        let server = Server { heard: sender, manners: Arc::clone(&manners) };
        let serving = tonic::transport::Server::builder()
            .add_service(AgentsServer::new(server))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        tokio::spawn(serving);
        Scheduler {
            address,
            manners,
            heard,
            outbound: None,
            incarnation: 1,
            generation: 0,
            rows: BTreeMap::new(),
            specs: BTreeMap::new(),
            seen: BTreeMap::new(),
            history: BTreeMap::new(),
            full_requests: 0,
            complete_reports: Vec::new(),
            samples: Vec::new(),
            stocks: Vec::new(),
            logs: Vec::new(),
        }
    }

    pub fn acknowledge_no_heartbeats(&self) {
        self.manners.no_heartbeat_acks.store(true, Ordering::SeqCst);
    }

    pub fn acknowledge_no_reports(&self) {
        self.manners.no_report_acks.store(true, Ordering::SeqCst);
    }

    pub fn acknowledge_reports(&self) {
        self.manners.no_report_acks.store(false, Ordering::SeqCst);
    }

    /// From now on agents are sent to that scheduler.
    pub fn redirect_to(&self, leader: &str) {
        *self.manners.leader.lock().unwrap() = Some(leader.to_owned());
    }

    /// A restored cluster: it knows nothing of before.
    pub fn become_incarnation(&mut self, incarnation: u64) {
        self.manners.incarnation.store(incarnation, Ordering::SeqCst);
        self.incarnation = incarnation;
        self.generation += 1 << 20;
        self.rows.clear();
    }

    /// From now on agents are asked first what is on their nodes, and what has
    /// become of these.
    pub fn take_stock(&self, expected: &[AllocationId]) {
        let expected = expected.iter().map(AllocationId::to_string).collect();
        *self.manners.expected.lock().unwrap() = Some(expected);
    }

    /// From now on agents are told that these devices stay in use.
    pub fn hold_back(&self, uuids: &[&str]) {
        let uuids = uuids.iter().map(|uuid| (*uuid).to_owned()).collect();
        *self.manners.held_back.lock().unwrap() = uuids;
    }

    /// From now on agents are welcomed to that cluster.
    pub fn become_cluster(&self, cluster: u8) {
        self.manners.cluster.store(cluster, Ordering::SeqCst);
    }

    /// Waits for the next session and its hello.
    pub async fn session(&mut self) -> Hello {
        within("a session", async {
            loop {
                if let Some(hello) = self.hear().await {
                    return hello;
                }
            }
        })
        .await
    }

    /// Ends the session from this side.
    pub fn hang_up(&mut self) {
        self.outbound = None;
    }

    pub fn say(&self, message: ToAgent) {
        let outbound = self.outbound.as_ref().expect("a session");
        // A session that just ended is noticed by what follows.
        let _ = outbound.send(Ok(SchedulerMessage { message: Some(message) }));
    }

    pub fn send_full(&mut self) {
        self.generation += 1;
        let full = self.full();
        self.say(ToAgent::Full(full_to_proto(&full)));
    }

    pub fn full(&self) -> Full {
        Full {
            incarnation: self.incarnation,
            generation: self.generation,
            rows: self.rows.values().cloned().collect(),
            specs: self.specs.iter().map(|(digest, spec)| (*digest, spec.clone())).collect(),
            digest: desired_digest(self.rows.values()),
        }
    }

    /// Changes what is wanted and sends the change.
    pub fn change(&mut self, upserts: Vec<DesiredRow>, removed: Vec<AllocationId>) -> Delta {
        for id in &removed {
            self.rows.remove(id);
        }
        self.rows.extend(upserts.iter().map(|row| (row.allocation, row.clone())));
        let from = self.generation;
        self.generation += 1;
        let delta = Delta {
            incarnation: self.incarnation,
            from,
            to: self.generation,
            upserts,
            removed,
            specs: self.specs.iter().map(|(digest, spec)| (*digest, spec.clone())).collect(),
            digest: desired_digest(self.rows.values()),
        };
        self.say(ToAgent::Delta(delta_to_proto(&delta)));
        delta
    }

    pub fn know(&mut self, job: &super::jobs::Job) {
        self.specs.insert(job.digest(), job.shared());
    }

    /// Wants these rows of a job from now on.
    pub fn want(&mut self, job: &super::jobs::Job, rows: Vec<DesiredRow>) {
        self.know(job);
        self.change(rows, Vec::new());
    }

    /// Asks for the end of an allocation.
    pub fn stop(&mut self, id: AllocationId) {
        let row = DesiredRow { stop: Some("asked to".to_owned()), ..self.rows[&id].clone() };
        self.change(vec![row], Vec::new());
    }

    /// Waits until the latest word on `id` satisfies `matches`.
    pub async fn until<T>(
        &mut self,
        what: &str,
        id: AllocationId,
        matches: impl Fn(&State) -> Option<T>,
    ) -> T {
        within(&format!("{id} {what}"), async {
            loop {
                if let Some(found) = self.seen.get(&id).and_then(&matches) {
                    return found;
                }
                self.hear().await;
            }
        })
        .await
    }

    pub async fn until_ready(&mut self, id: AllocationId) {
        let ready = |state: &State| running(state)?.ready.then_some(());
        self.until("is ready", id, ready).await;
    }

    pub async fn until_ended(&mut self, id: AllocationId) -> Ended {
        let ended = |state: &State| {
            let State::Ended(ended) = state else { return None };
            Some(ended.clone())
        };
        self.until("has ended", id, ended).await
    }

    /// Waits until something said makes `done` true.
    pub async fn until_true(&mut self, what: &str, done: impl Fn(&Scheduler) -> bool) {
        within(what, async {
            while !done(self) {
                self.hear().await;
            }
        })
        .await;
    }

    /// Commands that were asked for.
    pub fn execs(&self) -> Open {
        self.manners.execs.clone()
    }

    /// The next piece of a log.
    pub async fn log(&mut self, request_id: &str) -> LogPush {
        within("a piece of a log", async {
            loop {
                if let Some(at) = self.logs.iter().position(|push| push.request_id == request_id) {
                    return self.logs.remove(at);
                }
                self.hear().await;
            }
        })
        .await
    }

    /// Takes one thing in; a hello is returned.
    async fn hear(&mut self) -> Option<Hello> {
        match self.heard.recv().await.expect("the server runs") {
            Heard::Session(hello, outbound) => {
                self.outbound = Some(outbound);
                return Some(hello);
            }
            Heard::Message(FromAgent::Report(report)) => self.note(report),
            Heard::Message(FromAgent::NeedFull(_)) => self.full_requests += 1,
            Heard::Message(FromAgent::Stock(stock)) => {
                self.stocks.push(stock_from_proto(stock).unwrap());
            }
            Heard::Message(FromAgent::Heartbeat(beat)) => self.samples = beat.devices,
            Heard::Message(FromAgent::Hello(_)) | Heard::Over => {}
            Heard::Log(push) => self.logs.push(push),
        }
        None
    }

    fn note(&mut self, report: Report) {
        for observation in &report.observations {
            let id: AllocationId = observation.allocation_id.parse().unwrap();
            let state = observation.state.clone().unwrap();
            self.history.entry(id).or_default().push(state.clone());
            self.seen.insert(id, state);
        }
        if report.complete {
            self.complete_reports.push(report);
        }
    }
}

#[tonic::async_trait]
impl Agents for Server {
    type ExecStream = Inputs;
    type SessionStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<SchedulerMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut inbound = request.into_inner();
        let (outbound, messages) = mpsc::unbounded_channel();
        let first = inbound.message().await?.and_then(|message| message.message);
        let Some(FromAgent::Hello(hello)) = first else {
            return Err(Status::invalid_argument("a session begins with a hello"));
        };
        let say = |outbound: &Outbound, message| {
            let _ = outbound.send(Ok(SchedulerMessage { message: Some(message) }));
        };
        if let Some(leader_address) = self.manners.leader.lock().unwrap().clone() {
            say(&outbound, ToAgent::Redirect(Redirect { leader_address }));
            return Ok(Response::new(Box::pin(UnboundedReceiverStream::new(messages))));
        }
        let cluster_id = vec![self.manners.cluster.load(Ordering::SeqCst); 16];
        let incarnation = self.manners.incarnation.load(Ordering::SeqCst);
        let restore_id = if incarnation > 1 { vec![7; 16] } else { Vec::new() };
        let welcome = Welcome {
            node_id: 1,
            cluster_id: cluster_id.clone().into(),
            incarnation,
            heartbeat_ms: HEARTBEAT_MS,
            lease_ms: LEASE_MS,
            restore_id: restore_id.clone().into(),
            schedulers: Vec::new(),
            fences_held_back: self.manners.held_back.lock().unwrap().clone(),
        };
        let expected = self.manners.expected.lock().unwrap().clone();
        match expected {
            None => say(&outbound, ToAgent::Welcome(welcome.clone())),
            Some(expected) => {
                let (cluster_id, restore_id) = (cluster_id.into(), restore_id.into());
                let request = StockRequest { cluster_id, incarnation, restore_id, expected };
                say(&outbound, ToAgent::StockRequest(request));
            }
        }
        let weak = outbound.downgrade();
        let _ = self.heard.send(Heard::Session(hello, outbound));
        let (heard, manners) = (self.heard.clone(), Arc::clone(&self.manners));
        tokio::spawn(async move {
            while let Ok(Some(message)) = inbound.message().await {
                let Some(message) = message.message else { continue };
                let stock_told = matches!(message, FromAgent::Stock(_));
                let welcome = stock_told.then(|| ToAgent::Welcome(welcome.clone()));
                let answer = welcome.or_else(|| manners.answer(&message));
                if let (Some(answer), Some(outbound)) = (answer, weak.upgrade()) {
                    let _ = outbound.send(Ok(SchedulerMessage { message: Some(answer) }));
                }
                let _ = heard.send(Heard::Message(message));
            }
            let _ = heard.send(Heard::Over);
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(messages))))
    }

    async fn exec(
        &self,
        request: Request<Streaming<ExecPush>>,
    ) -> Result<Response<Inputs>, Status> {
        self.manners.execs.answered(request.into_inner()).await.map(Response::new)
    }

    async fn push_logs(
        &self,
        request: Request<Streaming<LogPush>>,
    ) -> Result<Response<LogPushReply>, Status> {
        let mut pushes = request.into_inner();
        while let Some(push) = pushes.message().await? {
            let _ = self.heard.send(Heard::Log(push));
        }
        Ok(Response::new(LogPushReply {}))
    }
}
