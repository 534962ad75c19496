//! One term of this node as leader: everything that only the leader does. It
//! begins when the node has applied all that its predecessors committed, and
//! all of it is dropped when another node leads.

mod admission;
mod allowance;
mod backlog;
mod batch;
pub mod clock;
mod cuts;
pub mod decisions;
mod depth;
mod guarding;
mod line;
pub mod members;
mod mix;
mod planner;
mod rates;
mod scaling;
mod ticker;
mod turns;
mod uses;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_model::{AllocationId, DurationMs, JobId, NodeId, StateMs};
use berth_placement::{NodeLoad, SoftView};
use berth_proto::v1;
use berth_raft::{ProductionNode, ProposeError};
use berth_reconcile::{
    GuardRules, HostUse, HostWatch, LivenessRules, Reason, Scaled, Scaling, SoftState,
    TooManyGateways,
};
use berth_state::{ClusterState, Command, Refusal, Reply};
use berth_wire::log::v1 as log;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::app::{ClusterApp, Published};
use admission::Admission;
pub use admission::{NotNow, Place};
use backlog::Backlog;
pub use batch::ENTRY_BYTES_MAX;
use batch::Wish;
use clock::Clock;
use decisions::Decisions;
pub use planner::BUDGET;
pub use rates::TooFast;
use uses::{Told, Uses};

pub type Node = ProductionNode<ClusterApp>;

/// Proposers that may wait for the batcher; each holds at most one entry's
/// worth of commands.
const WISHES_MAX: usize = 4096;

/// A leader whose majority last answered longer ago than this holds no agents:
/// below the margin (2 s) that is added to a lease before exclusive work is
/// replaced.
const QUORUM_AGE_MS_MAX: u64 = 1500;

/// How much is kept of why an agent was turned away.
const REASON_CHARS_MAX: usize = 1024;

/// An agent that is still turned away has tried again within this.
const TURNED_AWAY_SHOWN: DurationMs = DurationMs::from_secs(600);

/// What a proposer hears.
pub type Answers = Result<Vec<Result<Reply, Refusal>>, ProposeError>;

/// A term of leadership.
pub struct Leader {
    pub term: u64,
    pub clock: Clock,
    pub rules: LivenessRules,
    pub guards: GuardRules,
    node: Node,
    pub published: Arc<Published>,
    wishes: mpsc::Sender<Wish>,
    /// Last signs of life and loads of agents; the lock guards short updates.
    soft: Mutex<Soft>,
    /// Services whose replicas follow their load; the lock guards a look at them, once a second,
    /// and takes that of `soft` within.
    scaling: Mutex<Scaling>,
    planner_wake: Notify,
    members_wake: Notify,
    backlog: Backlog,
    pub decisions: Decisions,
    pub admission: Arc<Admission>,
    /// Whose turn it is to begin moves.
    pub defrags: Arc<Semaphore>,
    pub ended: CancellationToken,
}

/// What the leader knows without the log.
struct Soft {
    heard: SoftState,
    /// How much of their hosts is in use.
    hosts: HostWatch,
    loads: SoftView,
    /// What agents last measured of their devices.
    devices: BTreeMap<NodeId, Arc<[v1::DeviceSample]>>,
    /// What gateways last told of services.
    uses: Uses,
    /// Nodes whose agents were not let in, why, and when.
    turned_away: BTreeMap<NodeId, (String, StateMs)>,
}

/// What an operator sets of how a leader decides.
#[derive(Clone, Copy, Debug)]
pub struct LeaderSettings {
    pub rules: LivenessRules,
    pub guards: GuardRules,
    /// Jobs that each namespace may submit in a second.
    pub submits_per_second: Option<NonZeroU32>,
}

impl Leader {
    /// Begins a term. The node must have applied everything that was committed
    /// before it.
    pub fn begin(
        term: u64,
        node: Node,
        published: Arc<Published>,
        settings: LeaderSettings,
    ) -> Arc<Leader> {
        let LeaderSettings { rules, guards, submits_per_second } = settings;
        let (wishes, queue) = mpsc::channel(WISHES_MAX);
        let clock = Clock::from(published.view().cluster().state_ms);
        let soft = Soft {
            heard: SoftState::new(clock.now()),
            hosts: HostWatch::new(clock.now()),
            loads: SoftView::default(),
            devices: BTreeMap::new(),
            uses: Uses::default(),
            turned_away: BTreeMap::new(),
        };
        let leader = Arc::new(Leader {
            term,
            clock,
            rules,
            guards,
            node,
            published,
            wishes,
            soft: Mutex::new(soft),
            scaling: Mutex::new(Scaling::default()),
            planner_wake: Notify::new(),
            members_wake: Notify::new(),
            backlog: Backlog::default(),
            decisions: Decisions::default(),
            admission: Arc::new(Admission::new(submits_per_second)),
            defrags: Arc::new(Semaphore::new(1)),
            ended: CancellationToken::new(),
        });
        info!(term, "leading");
        tokio::spawn(batch::run(leader.clone(), queue));
        tokio::spawn(planner::run(leader.clone()));
        tokio::spawn(ticker::run(leader.clone()));
        tokio::spawn(mix::run(leader.clone()));
        tokio::spawn(members::run(leader.clone()));
        leader.planner_wake.notify_one();
        leader
    }

    /// Ends the term: another node leads, or this one stops.
    pub fn end(&self) {
        info!(term = self.term, "no longer leading");
        self.ended.cancel();
    }

    /// Proposes one command and waits for its answer.
    ///
    /// # Errors
    /// Those of the log; a refusal by apply is an answer.
    pub async fn propose(&self, command: Command) -> Result<Result<Reply, Refusal>, ProposeError> {
        let bytes = log::encoded_len(&command);
        let mut answers = self.propose_all(vec![command], bytes).await?;
        answers.pop().ok_or(ProposeError::OutcomeUnknown)
    }

    /// Proposes commands that fit one log entry, and waits for an answer each.
    /// `bytes` is how long they are when encoded, or a little more.
    ///
    /// # Errors
    /// Those of the log; refusals by apply are answers.
    pub async fn propose_all(&self, commands: Vec<Command>, bytes: usize) -> Answers {
        let (answer, heard) = oneshot::channel();
        let wish = Wish { commands, bytes, answer };
        if self.ended.is_cancelled() || self.wishes.send(wish).await.is_err() {
            return Err(ProposeError::NotLeader { leader: None });
        }
        heard.await.unwrap_or(Err(ProposeError::OutcomeUnknown))
    }

    /// Has the members compared with the wishes now.
    pub fn look_at_members(&self) {
        self.members_wake.notify_one();
    }

    /// Whether a majority followed this node a moment ago. Raft leaves a leader
    /// that lost its majority in place; what it tells agents must not outlive
    /// the majority by more than the margin of their leases allows.
    pub fn has_quorum(&self) -> bool {
        let raft = self.node.status();
        raft.term == self.term
            && raft.millis_since_quorum.is_some_and(|millis| millis <= QUORUM_AGE_MS_MAX)
    }

    /// What a gateway has under way, and by which view it routes. Returns how many gateways there
    /// are.
    ///
    /// # Errors
    /// If there are too many already.
    pub fn hear_gateway(
        &self,
        gateway: &str,
        index: u64,
        busy: BTreeSet<AllocationId>,
        uses: Option<v1::ServiceUses>,
    ) -> Result<usize, TooManyGateways> {
        let now = self.clock.now();
        let soft = &mut *self.soft();
        soft.heard.gateways.hear(gateway, index, busy, now)?;
        if let Some(uses) = uses {
            soft.uses.hear(gateway, uses, now);
        }
        let heard = &soft.heard.gateways;
        soft.uses.keep(|gateway| heard.is_there(gateway, now));
        Ok(heard.count(now))
    }

    /// Gateways that are there.
    pub fn gateways(&self) -> u32 {
        let now = self.clock.now();
        u32::try_from(self.soft().heard.gateways.count(now)).unwrap_or(u32::MAX)
    }

    /// What the gateways that are there see of a service.
    pub fn uses_of(&self, namespace: &str, name: &str) -> Vec<v1::ServiceUse> {
        let now = self.clock.now();
        let soft = self.soft();
        let told = soft.uses.of(namespace, name).map(|told| &told.used);
        told.filter(|used| soft.heard.gateways.is_there(&used.gateway, now)).cloned().collect()
    }

    /// What is to change about services whose replicas follow their load.
    fn scale(&self, view: &ClusterState, now: StateMs) -> Vec<Command> {
        let measure = |service: &Scaled<'_>| {
            let (namespace, name) = (service.job.namespace(), service.job.name());
            let soft = self.soft();
            let is_there = |told: &&Told| soft.heard.gateways.is_there(&told.used.gateway, now);
            let told = soft.uses.of(namespace.as_str(), name.as_str()).filter(is_there);
            let told: Vec<Told> = told.cloned().collect();
            let used = |id| {
                let row = view.allocations().get(&id)?;
                scaling::gpu_use(row, soft.devices.get(&row.node)?)
            };
            let ready: Vec<AllocationId> = service.ready.iter().map(|row| row.id).collect();
            scaling::measured(&ready, &told, used, now)
        };
        let mut scaling = self.scaling.lock().unwrap_or_else(PoisonError::into_inner);
        scaling.look(view, measure, now)
    }

    /// Why a service whose replicas follow their load has as many as it has.
    pub fn scaled_because(&self, job: JobId) -> Option<String> {
        let scaling = self.scaling.lock().unwrap_or_else(PoisonError::into_inner);
        scaling.found(job).map(|found| Reason(found.why).to_string())
    }

    /// An agent has been heard.
    pub fn hear(&self, node: NodeId) {
        let now = self.clock.now();
        self.soft().heard.hear(node, now);
    }

    /// The agent of a node was not let in, and will not be until somebody mends
    /// something.
    pub fn turn_away(&self, node: NodeId, reason: &str) {
        let reason = reason.chars().take(REASON_CHARS_MAX).collect();
        let (view, now) = (self.published.view(), self.clock.now());
        let mut soft = self.soft();
        soft.turned_away.retain(|node, _| view.nodes().contains(node));
        soft.turned_away.insert(node, (reason, now));
    }

    /// The agent of a node was let in.
    pub fn let_in(&self, node: NodeId) {
        self.soft().turned_away.remove(&node);
    }

    /// Why a node's agent was turned away of late, and how many milliseconds ago.
    pub fn turned_away(&self, node: NodeId) -> Option<(String, u64)> {
        let (reason, at) = self.soft().turned_away.get(&node)?.clone();
        let ago = self.clock.now().since(at);
        (ago <= TURNED_AWAY_SHOWN).then_some((reason, ago.0))
    }

    pub fn set_load(
        &self,
        node: NodeId,
        load: NodeLoad,
        host: HostUse,
        devices: Vec<v1::DeviceSample>,
    ) {
        let now = self.clock.now();
        let mut soft = self.soft();
        soft.hosts.hear(node, host, &self.guards, now);
        soft.loads.loads.insert(node, Arc::new(load));
        soft.devices.insert(node, devices.into());
    }

    /// How much of a node's processors and memory is in use, in percent.
    pub fn host_used_percent(&self, node: NodeId) -> (Option<u8>, Option<u8>) {
        let now = self.clock.now();
        self.soft().hosts.used_percent(node, now)
    }

    /// What a node's agent last measured of its devices.
    pub fn device_samples(&self, node: NodeId) -> Arc<[v1::DeviceSample]> {
        self.soft().devices.get(&node).cloned().unwrap_or_default()
    }

    /// How long ago an agent was heard, in milliseconds.
    pub fn heard_ms_ago(&self, node: NodeId) -> Option<u64> {
        let last = self.soft().heard.last_heard(node)?;
        Some(self.clock.now().since(last).0)
    }

    pub fn loads(&self) -> SoftView {
        self.soft().loads.clone()
    }

    fn soft(&self) -> MutexGuard<'_, Soft> {
        self.soft.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
