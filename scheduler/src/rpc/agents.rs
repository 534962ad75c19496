//! Sessions of agents. Only the leader holds them: it alone knows who is
//! silent, so an agent that dials a follower is sent on.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use berth_model::{AllocationId, CpuMilli, MemoryBytes, NodeId, NodeState};
use berth_placement::NodeLoad;
use berth_proto::v1;
use berth_proto::v1::agent_message::Message as FromAgent;
use berth_proto::v1::scheduler_message::Message as ToAgent;
use berth_state::{ClusterState, Command, Observation, Observed, Reply};
use berth_wire::agent::{Hello, hello_from_proto, observation_from_proto};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{Instrument as _, debug, info, info_span, warn};

use super::members::restore_id;
use super::{Shared, status, stock};
use crate::access::Granted;
use crate::leader::Leader;
use crate::sessions::Session;
use crate::sessions::desired::Told;

/// Messages to an agent that may wait for its connection.
const OUT_MAX: usize = 64;
/// Reports of one agent that wait to be recorded.
const REPORTS_MAX: usize = 64;
/// A session may outlive the certificate that it began with; the agent has a
/// newer one by then, and begins another.
const EXPIRY_LOOK: Duration = Duration::from_secs(60);
/// The first message must come within this.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Observations in one command, so that it fits an entry: a failed one carries
/// up to 4 KiB of standard error.
const OBSERVATION_BYTES_MAX: usize = 40 << 10;

pub struct AgentsService(pub Shared);

pub type Out = mpsc::Sender<Result<v1::SchedulerMessage, Status>>;
/// Orphans forgotten in one command, so that it fits a log entry; more are
/// forgotten when the agent comes the next time.
const ORPHANS_FORGOTTEN_MAX: usize = 1024;

type OutStream = Pin<Box<dyn Stream<Item = Result<v1::SchedulerMessage, Status>> + Send>>;

#[tonic::async_trait]
impl v1::agents_server::Agents for AgentsService {
    type SessionStream = OutStream;

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
        let mut request_id = None;
        while let Some(push) = pushes.next().await {
            let push = push?;
            request_id.get_or_insert_with(|| push.request_id.clone());
            let Some((node, reader)) = self.0.published.sessions.logs.reader(&push.request_id)
            else {
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
        Some(FromAgent::Hello(hello)) => hello_from_proto(hello).map_err(status::invalid)?,
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
    granted.check_node(hello.name.as_str())?;
    granted.check_pool(&hello.spec.pool)?;
    // The stream may have been opened long before this first message.
    granted.still_certified(&shared.published.view())?;
    let Some(leader) = shared.leading().filter(|leader| leader.has_quorum()) else {
        let leader_address = shared.leader_address().unwrap_or_default();
        let redirect = v1::Redirect { leader_address };
        let _ = out.send(Ok(message(ToAgent::Redirect(redirect)))).await;
        return Ok(());
    };
    let span = info_span!("session", node = %hello.name);
    session(shared, granted, leader, hello, messages, out).instrument(span).await
}

async fn session(
    shared: Shared,
    granted: &Granted,
    leader: Arc<Leader>,
    hello: Hello,
    mut messages: Streaming<v1::AgentMessage>,
    out: &Out,
) -> Result<(), Status> {
    stock::take(&shared, &leader, &hello, &mut messages, out).await?;
    // It is heard now: once registered it must not look as silent as it was.
    if let Some(known) = leader.published.view().node_named(&hello.name) {
        leader.hear(known);
    }
    let node = admit(&leader, &hello).await?;
    leader.hear(node);
    let (orders, mut ordered) = mpsc::channel(OUT_MAX);
    let session =
        Session { node, wake: Arc::new(Notify::new()), orders, over: CancellationToken::new() };
    shared.published.sessions.add(session.clone());
    let (reports, queue) = mpsc::channel(REPORTS_MAX);
    tokio::spawn(record_reports(leader.clone(), node, queue, out.clone()));
    let mut open = Open {
        leader: leader.clone(),
        node,
        out: out.clone(),
        reports,
        told: Told::default(),
        told_orphans: BTreeSet::new(),
    };
    info!(node_id = %node, "agent connected");
    let mut revocations = shared.published.revocations();
    // From here on no revocation is missed; one before it is seen now.
    let mut result = granted.still_certified(&shared.published.view());
    if result.is_ok() {
        result = open.greet(&shared, &hello).await;
    }
    let mut expiry = tokio::time::interval(EXPIRY_LOOK);
    while result.is_ok() {
        tokio::select! {
            incoming = messages.next() => match incoming {
                Some(Ok(incoming)) => result = open.hear(incoming).await,
                Some(Err(error)) => {
                    debug!(%error, "session broke off");
                    break;
                }
                None => break,
            },
            () = session.wake.notified() => result = open.update().await,
            Ok(()) = revocations.changed() => {
                result = granted.still_certified(&shared.published.view());
            }
            _ = expiry.tick() => result = granted.still_certified(&shared.published.view()),
            Some(order) = ordered.recv() => result = open.send(order).await,
            () = session.over.cancelled() => break,
            () = leader.ended.cancelled() => {
                let leader_address = shared.leader_address().unwrap_or_default();
                let redirect = ToAgent::Redirect(v1::Redirect { leader_address });
                result = open.send(message(redirect)).await;
                break;
            }
        }
    }
    shared.published.sessions.remove(&session);
    session.over.cancel();
    info!(node_id = %node, "agent disconnected");
    result
}

/// The node of an agent. A node that the state knows to be ready, with the
/// same inventory, costs no log entry: a new leader's first seconds would
/// otherwise be spent on entries that say nothing new.
async fn admit(leader: &Arc<Leader>, hello: &Hello) -> Result<NodeId, Status> {
    let view = leader.published.view();
    let known = view.node_named(&hello.name).and_then(|node| view.nodes().get(&node));
    if let Some(row) = known {
        let unchanged = row.instance_key == hello.instance_key
            && row.state == NodeState::Ready
            && *row.spec == hello.spec;
        if unchanged {
            return Ok(row.id);
        }
    }
    let command = Command::RegisterNode {
        name: hello.name.clone(),
        instance_key: hello.instance_key,
        spec: Arc::new(hello.spec.clone()),
    };
    let answer = leader.propose(command).await.map_err(|error| status::from_propose(&error))?;
    match answer {
        Ok(Reply::Registered { node, .. }) => Ok(node),
        Ok(other) => Err(Status::internal(format!("unexpected answer {other:?}"))),
        Err(refusal) => Err(status::from_refusal(&refusal)),
    }
}

/// An open session.
struct Open {
    leader: Arc<Leader>,
    node: NodeId,
    out: Out,
    reports: mpsc::Sender<v1::Report>,
    told: Told,
    /// Orphans that the agent was told to end.
    told_orphans: BTreeSet<AllocationId>,
}

impl Open {
    async fn greet(&mut self, shared: &Shared, hello: &Hello) -> Result<(), Status> {
        let view = self.leader.published.view();
        let welcome = v1::Welcome {
            node_id: self.node.0,
            cluster_id: Bytes::copy_from_slice(&shared.cluster_id),
            incarnation: view.cluster().incarnation,
            heartbeat_ms: self.leader.rules.heartbeat.0,
            lease_ms: self.leader.rules.lease.0,
            restore_id: restore_id(&view),
            schedulers: shared.node.status().members.into_iter().map(|one| one.address).collect(),
        };
        self.send(message(ToAgent::Welcome(welcome))).await?;
        if let Some(desired) = self.told.greet(&view, self.node, hello.held) {
            self.send(message(desired)).await?;
        }
        self.tell_orphans(&view).await
    }

    async fn update(&mut self) -> Result<(), Status> {
        let view = self.leader.published.view();
        if let Some(desired) = self.told.update(&view, self.node) {
            self.send(message(desired)).await?;
        }
        self.tell_orphans(&view).await
    }

    /// Orphans are in no desired state: the specification that a row of it
    /// names is not known here.
    async fn tell_orphans(&mut self, view: &ClusterState) -> Result<(), Status> {
        let Some(row) = view.nodes().get(&self.node) else { return Ok(()) };
        let stopping = row.orphans.iter().filter(|(_, orphan)| orphan.stop.is_some());
        let stopping: BTreeSet<AllocationId> = stopping.map(|(id, _)| *id).collect();
        if stopping == self.told_orphans {
            return Ok(());
        }
        let allocations = stopping.iter().map(AllocationId::to_string).collect();
        self.told_orphans = stopping;
        self.send(message(ToAgent::EndOrphans(v1::EndOrphans { allocations }))).await
    }

    async fn send(&self, message: v1::SchedulerMessage) -> Result<(), Status> {
        self.out.send(Ok(message)).await.map_err(|_| Status::cancelled("the agent has gone"))
    }

    async fn hear(&mut self, incoming: v1::AgentMessage) -> Result<(), Status> {
        self.leader.hear(self.node);
        match incoming.message {
            Some(FromAgent::Heartbeat(_)) if !self.leader.has_quorum() => {
                // An acknowledgement renews the lease of exclusive work, and
                // only a majority may do that.
                Err(Status::unavailable("this scheduler has lost its majority; dial another"))
            }
            Some(FromAgent::Heartbeat(heartbeat)) => {
                self.leader.set_load(self.node, load(&heartbeat));
                let sequence = heartbeat.sequence;
                self.send(message(ToAgent::HeartbeatAck(v1::HeartbeatAck { sequence }))).await?;
                self.come_back().await
            }
            Some(FromAgent::Report(report)) => {
                // A recorder that has ended left reports unacknowledged: a new
                // session brings them again.
                self.reports
                    .send(report)
                    .await
                    .map_err(|_| Status::aborted("reports cannot be recorded; begin a new session"))
            }
            Some(FromAgent::NeedFull(_)) => {
                let view = self.leader.published.view();
                match self.told.full(&view, self.node) {
                    Some(full) => self.send(message(full)).await,
                    None => Ok(()),
                }
            }
            Some(FromAgent::Stock(_)) => Err(Status::failed_precondition("nobody asked for this")),
            Some(FromAgent::Hello(_)) => Err(Status::failed_precondition("a second hello")),
            None => Err(Status::invalid_argument("an empty message, or one of a newer version")),
        }
    }

    /// A node that was given up while its stream stayed open (the leader's
    /// host slept) comes back by a new session, which registers it.
    async fn come_back(&self) -> Result<(), Status> {
        let view = self.leader.published.view();
        match view.nodes().get(&self.node).map(|row| row.state) {
            Some(NodeState::Ready) => Ok(()),
            Some(NodeState::Disconnected | NodeState::Down) | None => {
                Err(Status::aborted("the node was given up; begin a new session"))
            }
        }
    }
}

/// Records the reports of one session, in the order in which they came: the
/// second report of an allocation must not overtake the first. Runs beside the
/// session, so that heartbeats do not wait for the log. Reports that came in
/// the meantime are recorded together.
async fn record_reports(
    leader: Arc<Leader>,
    node: NodeId,
    mut reports: mpsc::Receiver<v1::Report>,
    out: Out,
) {
    let mut named = Some(BTreeSet::<AllocationId>::new());
    while let Some(first) = reports.recv().await {
        let mut sequences = vec![first.sequence];
        let mut complete = first.complete;
        let mut observations = first.observations;
        while let Ok(more) = reports.try_recv() {
            sequences.push(more.sequence);
            complete |= more.complete;
            observations.extend(more.observations);
        }
        if let Some(named) = &mut named {
            let ids = observations.iter().filter_map(|one| one.allocation_id.parse().ok());
            named.extend(ids.collect::<Vec<AllocationId>>());
        }
        let gone = named.take_if(|_| complete).and_then(|named| gone(&leader, node, &named));
        let observed = chunks(news(&leader, node, observations)).into_iter();
        let observed = observed.map(|observations| Command::Observe { node, observations });
        for command in observed.chain(gone) {
            if let Err(error) = leader.propose(command).await {
                // The agent says each thing once in a session, and may have
                // nothing more to say in this one: only a new session, to the
                // next leader if need be, makes it say this again.
                debug!(%error, "report not recorded");
                let again = Status::aborted("the report was not recorded; begin a new session");
                let _ = out.send(Err(again)).await;
                return;
            }
        }
        for sequence in sequences {
            let ack = ToAgent::ReportAck(v1::ReportAck { sequence });
            if out.send(Ok(message(ack))).await.is_err() {
                return;
            }
        }
    }
}

/// The orphans of which an agent that has said everything says nothing.
fn gone(leader: &Leader, node: NodeId, named: &BTreeSet<AllocationId>) -> Option<Command> {
    let view = leader.published.view();
    let row = view.nodes().get(&node)?;
    let orphans = row.orphans.keys().filter(|id| !named.contains(id));
    let orphans: Vec<AllocationId> = orphans.take(ORPHANS_FORGOTTEN_MAX).copied().collect();
    let session = row.session;
    (!orphans.is_empty()).then_some(Command::ForgetOrphans { node, session, orphans })
}

/// The observations that the state does not know yet.
fn news(leader: &Leader, node: NodeId, observations: Vec<v1::Observation>) -> Vec<Observation> {
    let view = leader.published.view();
    let mut news = Vec::new();
    // Behind another one about the same allocation, what is news depends on
    // that one; apply ignores what changes nothing.
    let mut spoken_of = BTreeSet::new();
    for observation in observations {
        let id = observation.allocation_id.clone();
        match observation_from_proto(observation) {
            Ok(observation) => {
                let first = spoken_of.insert(observation.allocation);
                if !first || is_news(&view, node, &observation) {
                    news.push(observation);
                }
            }
            Err(violations) => {
                warn!(allocation = %id, ?violations, "impossible observation refused");
            }
        }
    }
    news
}

/// Whether an observation would change anything.
fn is_news(view: &ClusterState, node: NodeId, observation: &Observation) -> bool {
    use berth_model::AllocationState as A;
    let row = view.allocations().get(&observation.allocation).filter(|row| row.node == node);
    let Some(row) = row else {
        let node = view.nodes().get(&node);
        let orphan = node.is_some_and(|node| node.orphans.contains_key(&observation.allocation));
        return orphan && matches!(observation.observed, Observed::Ended(_));
    };
    let to = match &observation.observed {
        Observed::Starting(phase) => A::Starting(*phase),
        Observed::Running { ready, .. } => A::Running { ready: *ready },
        Observed::Unhealthy { .. } => return row.state.stop_intent().is_none(),
        Observed::Stopping => return false,
        Observed::Unkillable => match row.state.stop_intent() {
            Some(intent) => A::Unkillable(intent),
            None => return false,
        },
        Observed::Ended(_) => return true,
    };
    row.state != to && row.state.advance(to).is_ok()
}

fn chunks(observations: Vec<Observation>) -> Vec<Vec<Observation>> {
    let mut chunks: Vec<Vec<Observation>> = Vec::new();
    let mut bytes = usize::MAX;
    for observation in observations {
        let size = match &observation.observed {
            Observed::Ended(report) => 128 + report.stderr_tail.len() + report.reason.len(),
            Observed::Unhealthy { detail } => 64 + detail.len(),
            Observed::Starting(_)
            | Observed::Running { .. }
            | Observed::Stopping
            | Observed::Unkillable => 64,
        };
        match chunks.last_mut() {
            Some(chunk) if bytes + size <= OBSERVATION_BYTES_MAX => {
                chunk.push(observation);
                bytes += size;
            }
            Some(_) | None => {
                chunks.push(vec![observation]);
                bytes = size;
            }
        }
    }
    chunks
}

fn load(heartbeat: &v1::Heartbeat) -> NodeLoad {
    let measured: Vec<u32> =
        heartbeat.devices.iter().filter_map(|device| device.utilization_percent).collect();
    let count = u32::try_from(measured.len()).unwrap_or(u32::MAX);
    let used: Vec<u64> =
        heartbeat.devices.iter().filter_map(|device| device.memory_used_bytes).collect();
    NodeLoad {
        gpu_util_milli: (count > 0)
            .then(|| measured.iter().map(|percent| percent.min(&100) * 10).sum::<u32>() / count),
        gpu_memory_used: (!used.is_empty()).then(|| MemoryBytes(used.iter().sum())),
        cpu_used: Some(CpuMilli(heartbeat.cpu_used_milli)),
        memory_used: Some(MemoryBytes(heartbeat.memory_used_bytes)),
        network_used_milli: None,
    }
}
