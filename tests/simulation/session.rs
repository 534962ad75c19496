//! The stream between an agent and the leader: in order, without loss while it
//! is open, stalled by a partition, broken by a death.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use berth_model::{AllocationId, NodeId, NodeState, SpecDigest};
use berth_proto::v1;
use berth_state::{AllocationRow, ClusterState, Command, Observation, Reply};
use berth_wire::agent::{
    Delta, DesiredRow, Full, Held, Hello, delta_to_proto, desired_digest, full_to_proto,
};

use crate::agent::AgentEvent;
use crate::leader::{Answers, Who, Wish};
use crate::world::{Direction, Event, MILLI, Phase, SECOND, Spot, World, now};

/// How long a stalled stream waits before it tries again.
const RETRANSMIT_US: u64 = 200 * MILLI;

#[derive(Clone)]
pub enum ToAgent {
    Welcome { lease_ms: u64, heartbeat_ms: u64 },
    Redirect(Option<u64>),
    Full(v1::Full),
    Delta(v1::Delta),
    HeartbeatAck(u64),
    ReportAck(u64),
    Closed,
}

#[derive(Clone)]
pub enum ToScheduler {
    Heartbeat(u64),
    Report { sequence: u64, observations: Vec<Observation> },
    NeedFull,
    Closed,
}

pub struct Session {
    pub agent: usize,
    pub agent_life: u32,
    pub scheduler: u64,
    pub scheduler_life: u32,
    hello: Hello,
    to_agent: VecDeque<(u64, ToAgent)>,
    to_scheduler: VecDeque<(u64, ToScheduler)>,
    /// Which ends are open.
    pub agent_open: bool,
    pub scheduler_open: bool,
}

/// A session as its leader keeps it.
pub struct Served {
    pub session: u64,
    pub node: NodeId,
    told: Told,
}

/// What a session has been told so far.
#[derive(Default)]
struct Told {
    generation: Option<u64>,
    rows: BTreeMap<AllocationId, DesiredRow>,
    specs: BTreeSet<SpecDigest>,
}

impl World {
    /// An agent dials a scheduler; returns the session.
    pub fn dial(&mut self, agent: usize, scheduler: u64, hello: Hello) -> u64 {
        self.session_counter += 1;
        let id = self.session_counter;
        let session = Session {
            agent,
            agent_life: self.agents[agent].life,
            scheduler,
            scheduler_life: self.schedulers[&scheduler].life,
            hello,
            to_agent: VecDeque::new(),
            to_scheduler: VecDeque::new(),
            agent_open: true,
            scheduler_open: true,
        };
        self.sessions.insert(id, session);
        let delay = self.delay() * 2;
        self.at(delay, Event::Hello(id));
        id
    }

    pub fn hello_arrives(&mut self, id: u64) {
        let Some(session) = self.sessions.get(&id) else { return };
        let (agent, scheduler) = (session.agent, session.scheduler);
        let there = &self.schedulers[&scheduler];
        let gone = there.node().is_none() || there.life != session.scheduler_life;
        if gone || !session.agent_open {
            return self.say_to_agent(id, ToAgent::Closed);
        }
        let paused = there.paused_until.saturating_sub(now());
        if paused > 0 {
            return self.at(paused, Event::Hello(id));
        }
        if !self.passes(Spot::Agent(agent), Spot::Scheduler(scheduler)) {
            return self.at(RETRANSMIT_US, Event::Hello(id));
        }
        let leader = there.status.as_ref().and_then(|status| status.leader.clone());
        if there.term.is_none() {
            return self.say_to_agent(id, ToAgent::Redirect(leader.map(|(id, _)| id)));
        }
        // A node that is known, ready and unchanged costs no entry.
        let view = there.view();
        let hello = &session.hello;
        let known = view.node_named(&hello.name).and_then(|node| view.nodes().get(&node));
        let unchanged = known.filter(|row| {
            row.instance_key == hello.instance_key
                && row.state == NodeState::Ready
                && *row.spec == hello.spec
        });
        if let Some(row) = unchanged {
            return self.serve(scheduler, id, row.id);
        }
        let commands = vec![Command::RegisterNode {
            name: hello.name.clone(),
            instance_key: hello.instance_key,
            spec: Arc::new(hello.spec.clone()),
        }];
        self.wish(scheduler, Wish { who: Who::Register { session: id }, commands });
    }

    pub fn registered(&mut self, scheduler: u64, id: u64, answers: Answers) {
        let node = answers.ok().and_then(|mut answers| match answers.pop() {
            Some(Ok(Reply::Registered { node, .. })) => Some(node),
            _ => None,
        });
        match node {
            Some(node) if self.term(scheduler).is_some() => self.serve(scheduler, id, node),
            Some(_) | None => self.say_to_agent(id, ToAgent::Closed),
        }
    }

    fn serve(&mut self, scheduler: u64, id: u64, node: NodeId) {
        let Some(session) = self.sessions.get(&id) else { return };
        let (agent, held) = (session.agent, session.hello.held);
        let rules = self.plan.rules;
        let view = self.schedulers[&scheduler].view();
        let Some(term) = self.term(scheduler) else { return };
        term.hear(node);
        let mut served = Served { session: id, node, told: Told::default() };
        let first = served.told.greet(&view, node, held);
        let old = term.sessions.insert(agent, served);
        let (lease_ms, heartbeat_ms) = (rules.lease.0, rules.heartbeat.0);
        if let Some(old) = old {
            self.say_to_agent(old.session, ToAgent::Closed);
        }
        self.count("sessions");
        self.note(|| format!("scheduler {scheduler} serves agent {agent}"));
        self.say_to_agent(id, ToAgent::Welcome { lease_ms, heartbeat_ms });
        if let Some(first) = first {
            self.say_desired(id, first);
        }
    }

    /// The view has changed: everyone served hears what changed for it.
    pub fn published(&mut self, id: u64) {
        let scheduler = self.schedulers.get_mut(&id).unwrap();
        let view = scheduler.view();
        let Some(term) = &mut scheduler.term else { return };
        let news: Vec<(u64, ToAgent)> = term
            .sessions
            .values_mut()
            .filter_map(|served| Some((served.session, served.told.update(&view, served.node)?)))
            .collect();
        for (session, message) in news {
            self.say_desired(session, message);
        }
    }

    fn say_desired(&mut self, session: u64, mut message: ToAgent) {
        let Some(agent) = self.sessions.get(&session).map(|session| session.agent) else { return };
        let chaos = self.phase == Phase::Chaos;
        let (doubled, garbled) = (self.plan.doubled_per_mille, self.plan.garbled_per_mille);
        if chaos
            && let ToAgent::Delta(delta) = &mut message
            && !delta.upserts.is_empty()
            && self.rng.chance(garbled)
        {
            delta.upserts.pop();
            self.count("changes garbled");
        }
        if chaos && self.rng.chance(doubled) {
            let again = message.clone();
            let later = self.rng.range(0, 4 * SECOND);
            let life = self.agents[agent].life;
            self.count("messages doubled");
            self.at(later, Event::Agent(agent, life, AgentEvent::Again(Box::new(again))));
        }
        self.say_to_agent(session, message);
    }

    pub fn say_to_agent(&mut self, id: u64, message: ToAgent) {
        let delay = self.delay();
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if matches!(message, ToAgent::Closed | ToAgent::Redirect(_)) {
            session.scheduler_open = false;
        }
        let after = session.to_agent.back().map_or(0, |(at, _)| *at);
        let due = (now() + delay).max(after);
        session.to_agent.push_back((due, message));
        self.at(due - now(), Event::Stream(id, Direction::ToAgent));
    }

    pub fn say_to_scheduler(&mut self, id: u64, message: ToScheduler) {
        let delay = self.delay();
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let after = session.to_scheduler.back().map_or(0, |(at, _)| *at);
        let due = (now() + delay).max(after);
        session.to_scheduler.push_back((due, message));
        self.at(due - now(), Event::Stream(id, Direction::ToScheduler));
    }

    pub fn redirect(&mut self, session: u64) {
        let leader = self.sessions.get(&session).and_then(|session| {
            let status = self.schedulers[&session.scheduler].status.as_ref()?;
            status.leader.as_ref().map(|(id, _)| *id)
        });
        let own = self.sessions.get(&session).map(|session| session.scheduler);
        self.say_to_agent(session, ToAgent::Redirect(leader.filter(|id| Some(*id) != own)));
    }

    /// The head of a stream is due.
    pub fn stream(&mut self, id: u64, direction: Direction) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let (agent, scheduler) = (session.agent, session.scheduler);
        let (from, to) = match direction {
            Direction::ToAgent => (Spot::Scheduler(scheduler), Spot::Agent(agent)),
            Direction::ToScheduler => (Spot::Agent(agent), Spot::Scheduler(scheduler)),
        };
        // An acknowledgement must come back for a stream to go on.
        if self.cut.contains(&(from, to)) || self.cut.contains(&(to, from)) {
            return self.at(RETRANSMIT_US, Event::Stream(id, direction));
        }
        match direction {
            Direction::ToAgent => {
                let open = session.agent_open && session.agent_life == self.agents[agent].life;
                let next = session.to_agent.pop_front();
                if let Some((_, message)) = next.filter(|_| open) {
                    self.agent_hears(agent, id, message);
                }
            }
            Direction::ToScheduler => {
                let there = &self.schedulers[&scheduler];
                let paused = there.paused_until.saturating_sub(now());
                if paused > 0 {
                    return self.at(paused, Event::Stream(id, direction));
                }
                let open = session.scheduler_open && session.scheduler_life == there.life;
                let next = session.to_scheduler.pop_front();
                if let Some((_, message)) = next.filter(|_| open) {
                    self.scheduler_hears(scheduler, id, message);
                }
            }
        }
        self.forget_closed(id);
    }

    fn forget_closed(&mut self, id: u64) {
        let over = self.sessions.get(&id).is_some_and(|session| {
            !session.agent_open && session.to_scheduler.is_empty() && session.to_agent.is_empty()
        });
        if over {
            self.sessions.remove(&id);
        }
    }

    fn scheduler_hears(&mut self, scheduler: u64, id: u64, message: ToScheduler) {
        let view = self.schedulers[&scheduler].view();
        let Some(agent) = self.sessions.get(&id).map(|session| session.agent) else { return };
        let Some(term) = self.term(scheduler) else { return };
        let Some(served) = term.sessions.get_mut(&agent).filter(|served| served.session == id)
        else {
            return;
        };
        let node = served.node;
        match message {
            ToScheduler::Heartbeat(sequence) => {
                term.hear(node);
                self.say_to_agent(id, ToAgent::HeartbeatAck(sequence));
                // A node that was given up while its stream stayed open comes
                // back by a new session.
                if view.nodes().get(&node).is_none_or(|row| row.state != NodeState::Ready) {
                    self.drop_served(scheduler, agent);
                    self.say_to_agent(id, ToAgent::Closed);
                }
            }
            ToScheduler::Report { sequence, observations } => {
                term.hear(node);
                let news: Vec<Observation> = observations
                    .into_iter()
                    .filter(|observation| view.is_news(node, observation))
                    .collect();
                if news.is_empty() {
                    return self.say_to_agent(id, ToAgent::ReportAck(sequence));
                }
                let commands = vec![Command::Observe { node, observations: news }];
                let who = Who::Report { session: id, sequence };
                self.wish(scheduler, Wish { who, commands });
            }
            ToScheduler::NeedFull => {
                term.hear(node);
                let full = served_of(term, agent).and_then(|served| served.told.full(&view, node));
                self.count("full states asked for");
                if let Some(full) = full {
                    self.say_desired(id, full);
                }
            }
            ToScheduler::Closed => self.drop_served(scheduler, agent),
        }
    }

    fn drop_served(&mut self, scheduler: u64, agent: usize) {
        if let Some(term) = self.term(scheduler) {
            term.sessions.remove(&agent);
        }
    }

    /// What was not recorded is said again over a new session, and only there.
    pub fn break_session(&mut self, scheduler: u64, id: u64) {
        if let Some(term) = self.term(scheduler) {
            term.sessions.retain(|_, served| served.session != id);
        }
        self.say_to_agent(id, ToAgent::Closed);
    }

    pub fn acknowledge_report(&mut self, scheduler: u64, id: u64, sequence: u64) {
        let served = self
            .term(scheduler)
            .is_some_and(|term| term.sessions.values().any(|served| served.session == id));
        if served {
            self.say_to_agent(id, ToAgent::ReportAck(sequence));
        }
    }
}

fn served_of(term: &mut crate::leader::Term, agent: usize) -> Option<&mut Served> {
    term.sessions.get_mut(&agent)
}

impl Told {
    fn greet(&mut self, view: &ClusterState, node: NodeId, held: Option<Held>) -> Option<ToAgent> {
        let (generation, rows) = rows_of(view, node)?;
        let incarnation = view.cluster().incarnation;
        let current = Held { incarnation, generation, digest: desired_digest(rows.values()) };
        if held == Some(current) {
            *self = Told { generation: Some(generation), rows, specs: BTreeSet::new() };
            return None;
        }
        self.full(view, node)
    }

    fn full(&mut self, view: &ClusterState, node: NodeId) -> Option<ToAgent> {
        let (generation, rows) = rows_of(view, node)?;
        let specs = specs_of(view, rows.values(), &BTreeSet::new());
        self.specs = specs.iter().map(|(digest, _)| *digest).collect();
        let full = Full {
            incarnation: view.cluster().incarnation,
            generation,
            digest: desired_digest(rows.values()),
            rows: rows.values().cloned().collect(),
            specs,
        };
        self.generation = Some(generation);
        self.rows = rows;
        Some(ToAgent::Full(full_to_proto(&full)))
    }

    fn update(&mut self, view: &ClusterState, node: NodeId) -> Option<ToAgent> {
        let Some(from) = self.generation else { return self.full(view, node) };
        let (to, rows) = rows_of(view, node)?;
        if to == from {
            return None;
        }
        let changed = |(id, row): &(&AllocationId, &DesiredRow)| self.rows.get(id) != Some(row);
        let upserts: Vec<DesiredRow> =
            rows.iter().filter(changed).map(|(_, row)| row.clone()).collect();
        let removed = self.rows.keys().filter(|id| !rows.contains_key(id)).copied().collect();
        let specs = specs_of(view, upserts.iter(), &self.specs);
        self.specs.extend(specs.iter().map(|(digest, _)| *digest));
        let digest = desired_digest(rows.values());
        let incarnation = view.cluster().incarnation;
        let delta = Delta { incarnation, from, to, upserts, removed, specs, digest };
        let used: BTreeSet<SpecDigest> = rows.values().map(|row| row.spec).collect();
        self.specs.retain(|digest| used.contains(digest));
        self.generation = Some(to);
        self.rows = rows;
        Some(ToAgent::Delta(delta_to_proto(&delta)))
    }
}

fn rows_of(view: &ClusterState, node: NodeId) -> Option<(u64, BTreeMap<AllocationId, DesiredRow>)> {
    let node = view.nodes().get(&node)?;
    let live = node.live.iter().filter_map(|id| view.allocations().get(id));
    let live = live.map(|row| desired_row(row, row.state.stop_intent().map(|_| &row.reason)));
    let away = view.away(node).map(|(row, stop)| desired_row(row, stop.as_ref()));
    Some((node.generation, live.chain(away).map(|row| (row.allocation, row)).collect()))
}

fn desired_row(row: &AllocationRow, stop: Option<&String>) -> DesiredRow {
    DesiredRow {
        allocation: row.id,
        spec: row.spec_digest,
        devices: row.claim.devices.clone(),
        ports: row.claim.ports.clone(),
        seat: row.seat.clone(),
        stop: stop.cloned(),
    }
}

fn specs_of<'a>(
    view: &ClusterState,
    rows: impl Iterator<Item = &'a DesiredRow>,
    known: &BTreeSet<SpecDigest>,
) -> Vec<(SpecDigest, Arc<berth_model::JobSpec>)> {
    let mut specs = BTreeMap::new();
    for row in rows.filter(|row| !known.contains(&row.spec)) {
        let Some(job) = view.jobs().get(&row.allocation.job) else { continue };
        if job.digest == row.spec {
            specs.insert(row.spec, job.spec.clone());
        } else if let Some(old) = job.versions.iter().find(|old| old.digest == row.spec) {
            specs.insert(row.spec, old.spec.clone());
        }
    }
    specs.into_iter().collect()
}
