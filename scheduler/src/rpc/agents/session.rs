//! One session of an agent, from its inventory to its end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use berth_model::{AllocationId, CpuMilli, DeviceHealth, MemoryBytes, NodeId, NodeSpec, NodeState};
use berth_placement::NodeLoad;
use berth_proto::v1;
use berth_proto::v1::agent_message::Message as FromAgent;
use berth_proto::v1::scheduler_message::Message as ToAgent;
use berth_reconcile::HostUse;
use berth_state::{ClusterState, Command, Reply};
use berth_wire::agent::Hello;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::{debug, info};

use super::reports::record_reports;
use super::{OUT_MAX, Out, message};
use crate::access::Granted;
use crate::leader::Leader;
use crate::rpc::members::restore_id;
use crate::rpc::{Shared, status, stock};
use crate::sessions::Session;
use crate::sessions::desired::Told;

/// Reports of one agent that wait to be recorded.
const REPORTS_MAX: usize = 64;
/// A session may outlive the certificate that it began with; the agent has a
/// newer one by then, and begins another.
const EXPIRY_LOOK: Duration = Duration::from_secs(60);

pub(super) async fn session(
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
    leader.let_in(node);
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
            fences_held_back: fences_held_back(&view, self.node, &hello.spec),
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
                let (load, host) = (load(&heartbeat), host_use(&heartbeat));
                self.leader.set_load(self.node, load, host, heartbeat.devices);
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

/// The devices that the agent calls fenced and that the cluster goes on using.
fn fences_held_back(view: &ClusterState, node: NodeId, said: &NodeSpec) -> Vec<String> {
    let Some(row) = view.nodes().get(&node) else { return Vec::new() };
    let is_fenced = |spec: &NodeSpec, uuid: &str| {
        spec.device(uuid).is_some_and(|device| device.health == DeviceHealth::Fenced)
    };
    let uuids = said.devices.iter().map(|device| device.uuid.as_str());
    let held_back = uuids.filter(|uuid| is_fenced(said, uuid) && !is_fenced(&row.spec, uuid));
    held_back.map(str::to_owned).collect()
}

/// Of an agent from before it told, nothing is known.
fn host_use(heartbeat: &v1::Heartbeat) -> HostUse {
    HostUse {
        cpu_milli: heartbeat.host_cpu_used_milli,
        memory_milli: heartbeat.host_memory_used_milli,
    }
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
