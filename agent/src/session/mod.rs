//! The agent's session with the leader: dial, say who one is, beat, and pass
//! everything on. It refuses to understand desired state or reports.

mod changes;
pub mod dial;

use std::collections::BTreeMap;
use std::time::Duration;

use berth_identity::Dialer;
use berth_proto::v1::agent_message::Message as ToScheduler;
use berth_proto::v1::agents_client::AgentsClient;
use berth_proto::v1::scheduler_message::Message as FromScheduler;
use berth_proto::v1::{
    AgentMessage, DeviceSample, ErrorDetail, Heartbeat, Hello, Stock, StockRequest, Welcome,
};
use berth_supervise::AgentMs;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use tracing::{debug, info, warn};

use crate::clock;
use crate::data_dir::{ClusterFile, ClusterLife};
use crate::host::{self, CpuMeter};
use crate::host_use::{Meter, Source, Used};
use changes::Changes;
use dial::{Next, Turns};

/// Messages on their way to the scheduler: a complete report of a quarter of a
/// million allocations; more means that nobody reads.
const OUTBOUND_MAX: usize = 1024;
/// A scheduler welcomes within a commit; longer means that it cannot.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
/// What is on the node is recorded in as many commits as it takes.
const STOCK_TIMEOUT: Duration = Duration::from_secs(60);
/// Heartbeats without an answer after which the session is given up, and the
/// least time that this takes.
const UNANSWERED_MAX: u32 = 4;
const UNANSWERED_MIN: Duration = Duration::from_secs(2);
/// What is new of devices is told at once, and no more often than this.
const NEWS_EVERY: Duration = Duration::from_secs(1);
/// A full state may carry the specifications of a whole node.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// What the loop hears of sessions. Bounded by the channel it comes through,
/// so that a loop that is behind slows the scheduler down.
pub enum SessionEvent {
    /// A session begins: what does the agent say of itself?
    Greeting(oneshot::Sender<Greeting>),
    /// The cluster was restored: what is here, and how did these end?
    StockAsked {
        /// Of the cluster that asks.
        incarnation: u64,
        expected: Vec<String>,
        answer: oneshot::Sender<Stock>,
    },
    Up {
        address: String,
        welcome: Welcome,
        outbound: mpsc::Sender<AgentMessage>,
    },
    Message(FromScheduler),
    /// The heartbeat that was sent then was acknowledged.
    Acknowledged {
        sent_at: AgentMs,
    },
    Down,
}

/// What the agent says of itself.
pub struct Greeting {
    pub hello: Hello,
    /// Which of the node's inventories it is of, as [`Facts`] counts them.
    pub inventory: u64,
}

/// What the loop tells heartbeats.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Facts {
    pub generation: u64,
    /// Counts the changes of the node's devices: a later one takes another hello.
    pub inventory: u64,
    pub devices: Vec<DeviceSample>,
}

/// What a session needs.
pub struct SessionSettings {
    pub servers: Vec<String>,
    /// How they are reached.
    pub dialer: Dialer,
    pub retry_min: Duration,
    pub retry_max: Duration,
    pub cluster: ClusterFile,
    /// Where is read how much of the host is in use.
    pub host: Source,
}

/// How a session ended.
#[derive(Debug)]
enum End {
    /// Follow the leader there.
    Redirect(String),
    /// It was up and broke.
    Broken(String),
    /// It never came up.
    Failed(String),
    /// The scheduler will not have this agent, as it is.
    Refused(Refusal),
    /// The node is no longer what it said it was.
    Changed,
    /// The agent ends.
    Closing,
}

/// A scheduler's no, and what would help.
#[derive(Debug)]
struct Refusal {
    problem: String,
    hint: String,
}

/// Keeps a session for as long as the loop listens.
pub async fn keep(
    settings: SessionSettings,
    events: mpsc::Sender<SessionEvent>,
    facts: watch::Receiver<Facts>,
) {
    let cluster = settings.cluster;
    let mut turns = Turns::new(settings.servers, settings.retry_min, settings.retry_max);
    let mut last_problem = String::new();
    let mut changes = Changes::default();
    loop {
        let address = turns.address();
        let mut schedulers = Vec::new();
        let (dialer, host) = (&settings.dialer, &settings.host);
        let to = To { dialer, host, address: &address, changes };
        let end = one(to, &cluster, &events, &facts, &mut schedulers).await;
        turns.learn(schedulers);
        let next = match end {
            End::Closing => return,
            End::Redirect(leader) => {
                debug!(%address, %leader, "scheduler names the leader");
                turns.redirected(leader)
            }
            End::Changed => {
                debug!(%address, "the node's devices have changed; beginning anew");
                changes.told(Instant::now());
                turns.anew(address)
            }
            End::Broken(problem) => {
                warn!(%address, problem, "session with scheduler ended");
                last_problem.clear();
                turns.broken()
            }
            End::Refused(Refusal { problem, hint }) => {
                if problem != last_problem {
                    warn!(%address, problem, hint, "scheduler refuses this agent");
                    last_problem = problem;
                }
                turns.failed()
            }
            End::Failed(problem) => {
                // One line for each new problem, not for each try.
                if problem != last_problem {
                    info!(%address, problem, "scheduler cannot be reached");
                    last_problem = problem;
                }
                turns.failed()
            }
        };
        if let Next::After(wait) = next {
            tokio::time::sleep(wait).await;
        }
        if events.is_closed() {
            return;
        }
    }
}

/// Whom to dial, and how.
struct To<'a> {
    dialer: &'a Dialer,
    host: &'a Source,
    address: &'a str,
    changes: Changes,
}

/// One session from dial to end. What it is told of where the schedulers are is
/// left in `schedulers`.
async fn one(
    to: To<'_>,
    cluster: &ClusterFile,
    events: &mpsc::Sender<SessionEvent>,
    facts: &watch::Receiver<Facts>,
    schedulers: &mut Vec<String>,
) -> End {
    let To { dialer, host, address, changes } = to;
    let channel = match dial::connect(dialer, address).await {
        Ok(channel) => channel,
        Err(error) => return End::Failed(error),
    };
    let (greeting, said) = oneshot::channel();
    if events.send(SessionEvent::Greeting(greeting)).await.is_err() {
        return End::Closing;
    }
    let Ok(Greeting { hello, inventory }) = said.await else { return End::Closing };
    let (outbound, messages) = mpsc::channel(OUTBOUND_MAX);
    let hello = AgentMessage { message: Some(ToScheduler::Hello(hello)) };
    if outbound.try_send(hello).is_err() {
        return End::Closing;
    }
    let (welcome, inbound) = match open(channel, messages, &outbound, cluster, events).await {
        Ok(opened) => opened,
        Err(end) => return end,
    };
    if let Err(problem) = cluster.admit(&ClusterLife::of_welcome(&welcome)) {
        return End::Failed(problem);
    }
    schedulers.clone_from(&welcome.schedulers);
    let heartbeat = Duration::from_millis(welcome.heartbeat_ms.max(10));
    info!(%address, node_id = welcome.node_id, incarnation = welcome.incarnation, "session is up");
    let up = SessionEvent::Up { address: address.to_owned(), welcome, outbound: outbound.clone() };
    if events.send(up).await.is_err() {
        return End::Closing;
    }
    let host = Meter::new(host.clone());
    let pace = Beating { every: heartbeat, inventory, changes, host };
    let end = pump(inbound, &outbound, pace, events, facts.clone()).await;
    match events.send(SessionEvent::Down).await {
        Ok(()) => end,
        Err(_) => End::Closing,
    }
}

/// From the hello to the welcome.
async fn open(
    channel: Channel,
    messages: mpsc::Receiver<AgentMessage>,
    outbound: &mpsc::Sender<AgentMessage>,
    cluster: &ClusterFile,
    events: &mpsc::Sender<SessionEvent>,
) -> Result<(Welcome, Streaming<berth_proto::v1::SchedulerMessage>), End> {
    let mut client = AgentsClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let late = |_| End::Failed("no welcome in time".to_owned());
    let opening = client.session(ReceiverStream::new(messages));
    let mut inbound =
        timeout(WELCOME_TIMEOUT, opening).await.map_err(late)?.map_err(refused)?.into_inner();
    let mut patience = WELCOME_TIMEOUT;
    loop {
        let next = timeout(patience, inbound.message()).await.map_err(late)?.map_err(refused)?;
        match next.and_then(|message| message.message) {
            Some(FromScheduler::Welcome(welcome)) => return Ok((welcome, inbound)),
            Some(FromScheduler::Redirect(redirect)) => {
                return Err(End::Redirect(redirect.leader_address));
            }
            Some(FromScheduler::StockRequest(request)) => {
                cluster.admit(&ClusterLife::of_request(&request)).map_err(End::Failed)?;
                tell_stock(request, outbound, events).await?;
                patience = STOCK_TIMEOUT;
            }
            None => return Err(End::Failed("it closed the session".to_owned())),
            Some(_) => return Err(End::Failed("it did not begin with a welcome".to_owned())),
        }
    }
}

/// What a status before the welcome means: a scheduler that says no to this
/// agent, or one that is not up to saying anything.
fn refused(status: tonic::Status) -> End {
    let problem = status.message().to_owned();
    let says_no = matches!(
        status.code(),
        Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
    );
    if !says_no {
        return End::Failed(problem);
    }
    let hint = ErrorDetail::decode(status.details()).unwrap_or_default().hint;
    End::Refused(Refusal { problem, hint })
}

async fn tell_stock(
    request: StockRequest,
    outbound: &mpsc::Sender<AgentMessage>,
    events: &mpsc::Sender<SessionEvent>,
) -> Result<(), End> {
    let (answer, stock) = oneshot::channel();
    let StockRequest { incarnation, expected, .. } = request;
    let asked = events.send(SessionEvent::StockAsked { incarnation, expected, answer }).await;
    asked.map_err(|_| End::Closing)?;
    let stock = stock.await.map_err(|_| End::Closing)?;
    let told = outbound.try_send(AgentMessage { message: Some(ToScheduler::Stock(stock)) });
    told.map_err(|_| End::Failed("it takes nothing more".to_owned()))
}

/// When a session beats.
struct Beating {
    /// Even if there is nothing new.
    every: Duration,
    /// Which of the node's inventories the hello was of.
    inventory: u64,
    changes: Changes,
    host: Meter,
}

/// Heartbeats out, everything else in, until something breaks.
async fn pump(
    mut inbound: Streaming<berth_proto::v1::SchedulerMessage>,
    outbound: &mpsc::Sender<AgentMessage>,
    mut pace: Beating,
    events: &mpsc::Sender<SessionEvent>,
    mut facts: watch::Receiver<Facts>,
) -> End {
    let mut ticks = interval(pace.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let silence_max = (pace.every * UNANSWERED_MAX).max(UNANSWERED_MIN);
    let mut beats = Beats::default();
    let mut heard_at = Instant::now();
    loop {
        let event = tokio::select! {
            biased;
            message = inbound.message() => match message {
                Ok(Some(message)) => {
                    heard_at = Instant::now();
                    match message.message {
                        Some(FromScheduler::Redirect(redirect)) => {
                            return End::Redirect(redirect.leader_address);
                        }
                        Some(FromScheduler::HeartbeatAck(ack)) => {
                            beats.acknowledged(ack.sequence)
                                .map(|sent_at| SessionEvent::Acknowledged { sent_at })
                        }
                        other => other.map(SessionEvent::Message),
                    }
                }
                Ok(None) => return End::Broken("it closed the session".to_owned()),
                Err(status) => return End::Broken(status.message().to_owned()),
            },
            Ok(()) = facts.changed() => {
                let now = facts.borrow_and_update();
                if now.inventory > pace.inventory && pace.changes.may_be_told(Instant::now()) {
                    return End::Changed;
                }
                if now.devices != beats.devices {
                    // Not before the next whole second, and not after the next beat.
                    let soon = beats.sent_at.map_or(Instant::now(), |at| at + NEWS_EVERY);
                    ticks.reset_at(soon.min(beats.next_at(pace.every)));
                }
                None
            }
            _ = ticks.tick() => {
                if facts.borrow().inventory > pace.inventory && pace.changes.may_be_told(Instant::now()) {
                    return End::Changed;
                }
                if heard_at.elapsed() > silence_max {
                    return End::Broken("it is silent".to_owned());
                }
                let message = beats.next(&facts.borrow_and_update(), pace.host.look());
                if outbound.try_send(message).is_err() {
                    return End::Broken("it takes nothing more".to_owned());
                }
                None
            }
            () = events.closed() => return End::Closing,
        };
        if let Some(event) = event
            && events.send(event).await.is_err()
        {
            return End::Closing;
        }
    }
}

/// Heartbeats that were sent and not yet acknowledged.
#[derive(Default)]
struct Beats {
    sequence: u64,
    /// When the last one was sent, and what it said of the devices.
    sent_at: Option<Instant>,
    devices: Vec<DeviceSample>,
    sent: BTreeMap<u64, AgentMs>,
    cpu: CpuMeter,
}

impl Beats {
    /// When there is to be one at the latest.
    fn next_at(&self, every: Duration) -> Instant {
        self.sent_at.map_or_else(Instant::now, |at| at + every)
    }

    fn next(&mut self, facts: &Facts, host: Used) -> AgentMessage {
        self.sequence += 1;
        self.sent_at = Some(Instant::now());
        self.devices.clone_from(&facts.devices);
        self.sent.insert(self.sequence, clock::now());
        let heartbeat = Heartbeat {
            sequence: self.sequence,
            devices: facts.devices.clone(),
            cpu_used_milli: self.cpu.used().0,
            memory_used_bytes: host::memory_used().0,
            generation: facts.generation,
            host_cpu_used_milli: host.cpu_milli,
            host_memory_used_milli: host.memory_milli,
        };
        AgentMessage { message: Some(ToScheduler::Heartbeat(heartbeat)) }
    }

    /// When that heartbeat was sent; an acknowledgement is for all before it.
    fn acknowledged(&mut self, sequence: u64) -> Option<AgentMs> {
        let sent_at = self.sent.remove(&sequence)?;
        self.sent = self.sent.split_off(&sequence);
        Some(sent_at)
    }
}
