//! The world of one run: everything that is not inside the consensus library,
//! owned by one loop. Every step of it is one event; after each, everything
//! that must hold is checked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_raft::Runtime;
use berth_raft::transport::sim::SimNetwork;
use berth_state::Command;
use futures::future::{Either, select};
use openraft_rt_sim::{SimInstant, SimRuntime};

use crate::agent::{Agent, AgentEvent};
use crate::client::{Client, ClientEvent};
use crate::faults::Fault;
use crate::host::HostEvent;
use crate::inbox::{Inbox, Signal};
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::rng::{Fold, Rng};
use crate::scheduler::{Birth, Scheduler};
use crate::session::Session;

/// Microseconds in a second; all times here are microseconds from the start.
pub const SECOND: u64 = 1_000_000;
pub const MILLI: u64 = 1_000;

/// Where something is, for cuts of the network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Spot {
    Scheduler(u64),
    Agent(usize),
    Client(usize),
}

/// What comes about at a moment of its own.
pub enum Event {
    StartScheduler(u64),
    /// The leader's slow look at everything.
    Tick(u64, u64),
    Planner(u64, u64),
    /// A plan is ready to be proposed.
    Plan(u64, u64, Vec<Command>),
    /// A scheduler looks again whether it may lead.
    Look(u64, u32),
    Stream(u64, Direction),
    Hello(u64),
    Agent(usize, u32, AgentEvent),
    Host(usize, HostEvent),
    Client(usize, ClientEvent),
    Fault(Fault),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Direction {
    ToAgent,
    ToScheduler,
}

/// Whether trouble is still being made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Chaos,
    Healed,
}

pub struct World {
    pub plan: Plan,
    pub rng: Rng,
    pub phase: Phase,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub inbox: Inbox,
    pub oracle: Arc<Mutex<Oracle>>,
    pub network: SimNetwork,
    /// From where to where nothing gets.
    pub cut: BTreeSet<(Spot, Spot)>,
    pub schedulers: BTreeMap<u64, Scheduler>,
    /// Nodes that are about to start.
    pub births: Vec<Birth>,
    pub agents: Vec<Agent>,
    pub clients: Vec<Client>,
    pub sessions: BTreeMap<u64, Session>,
    /// What leaders proposed lately.
    pub old_commands: VecDeque<Command>,
    pub entry_counter: u64,
    pub session_counter: u64,
    pub steps: u64,
    pub trace: Fold,
    /// The last events, for people who look for a cause.
    pub recent: VecDeque<String>,
}

/// What a run came to.
pub struct Outcome {
    pub trace: u64,
    /// As `trace`, without what the replicas hold.
    pub deeds: u64,
    pub steps: u64,
    pub counts: BTreeMap<&'static str, u64>,
    pub failure: Option<String>,
    pub virtual_ms: u64,
}

const RECENT_MAX: usize = 400;

pub fn now() -> u64 {
    let since = SimInstant::try_now().expect("inside the simulation").elapsed_since_start();
    u64::try_from(since.as_micros()).unwrap()
}

impl World {
    pub fn new(plan: Plan, rng: Rng) -> World {
        let network = SimNetwork::new(plan.seed);
        network.set_delay(plan.delay.0, plan.delay.1);
        network.set_loss(plan.lost_per_mille);
        let mut world = World {
            rng,
            phase: Phase::Chaos,
            queue: BTreeMap::new(),
            sequence: 0,
            inbox: Inbox::default(),
            oracle: Arc::default(),
            network,
            cut: BTreeSet::new(),
            schedulers: BTreeMap::new(),
            births: Vec::new(),
            agents: Vec::new(),
            clients: Vec::new(),
            sessions: BTreeMap::new(),
            old_commands: VecDeque::new(),
            entry_counter: 0,
            session_counter: 0,
            steps: 0,
            trace: Fold::default(),
            recent: VecDeque::new(),
            plan,
        };
        for id in 1..=world.plan.schedulers {
            let scheduler = Scheduler::new(id, &mut world.rng);
            world.schedulers.insert(id, scheduler);
            world.at(0, Event::StartScheduler(id));
        }
        for index in 0..world.plan.agents {
            let agent = Agent::new(index, &mut world.rng);
            world.agents.push(agent);
            world.at(SECOND, Event::Fault(Fault::StartAgent(index)));
        }
        for index in 0..world.plan.clients {
            world.clients.push(Client::new(index));
            let begin = SECOND + world.rng.range(0, SECOND);
            world.at(begin, Event::Client(index, ClientEvent::Next));
        }
        world
    }

    /// Something comes about `after` microseconds from now.
    pub fn at(&mut self, after: u64, event: Event) {
        self.sequence += 1;
        let due = SimInstant::try_now().map_or(0, |_| now()) + after;
        self.queue.insert((due, self.sequence), event);
    }

    pub fn note(&mut self, text: impl FnOnce() -> String) {
        let text = text();
        self.trace.number(now());
        self.trace.bytes(text.as_bytes());
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(format!("{:>10.3} ms  {text}", now() as f64 / 1000.0));
    }

    pub fn count(&self, what: &'static str) {
        self.oracle.lock().unwrap().count(what);
    }

    pub fn violated(&self, what: String) {
        self.oracle.lock().unwrap().violated(what);
    }

    /// Whether a message gets from one place to another now.
    pub fn passes(&self, from: Spot, to: Spot) -> bool {
        !self.cut.contains(&(from, to))
    }

    pub fn delay(&mut self) -> u64 {
        let (least, most) = self.plan.delay;
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap();
        self.rng.range(micros(least), micros(most))
    }

    /// Waits for the next thing to happen, and brings it about.
    pub async fn step(&mut self) {
        if let Some(signal) = self.inbox.pop() {
            self.signal(signal);
        } else {
            let due = self.queue.first_key_value().map(|(key, _)| *key);
            let wait = due.map_or(SECOND, |(due, _)| due.saturating_sub(now()));
            if wait > 0 {
                let inbox = self.inbox.clone();
                let filled = std::pin::pin!(inbox.filled());
                match select(filled, SimRuntime::sleep(Duration::from_micros(wait))).await {
                    Either::Left(_) | Either::Right(_) => {}
                }
                return;
            }
            if let Some((_, event)) = self.queue.pop_first() {
                self.handle(event);
            }
        }
        self.deliver().await;
        self.steps += 1;
    }

    pub fn failure(&self) -> Option<String> {
        self.oracle.lock().unwrap().violations.first().cloned()
    }

    fn signal(&mut self, signal: Signal) {
        let Signal::Scheduler(id, life, event) = signal;
        let scheduler = self.schedulers.get_mut(&id).unwrap();
        if scheduler.paused_until > now() || !scheduler.deferred.is_empty() {
            // What happens to a frozen process it sees when it goes on.
            return scheduler.deferred.push_back((life, event));
        }
        self.scheduler_event(id, life, event);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::StartScheduler(id) => self.start_scheduler(id),
            Event::Tick(id, term) => match self.frozen(id) {
                0 => self.tick(id, term),
                wait => self.at(wait, Event::Tick(id, term)),
            },
            Event::Planner(id, term) => match self.frozen(id) {
                0 => self.run_planner(id, term),
                wait => self.at(wait, Event::Planner(id, term)),
            },
            Event::Plan(id, term, commands) => match self.frozen(id) {
                0 => self.propose_plan(id, term, commands),
                wait => self.at(wait, Event::Plan(id, term, commands)),
            },
            Event::Look(id, life) => match self.frozen(id) {
                0 => self.look(id, life),
                wait => self.at(wait, Event::Look(id, life)),
            },
            Event::Stream(session, direction) => self.stream(session, direction),
            Event::Hello(session) => self.hello_arrives(session),
            Event::Agent(index, life, event) => self.agent_event(index, life, event),
            Event::Host(index, event) => self.host_event(index, event),
            Event::Client(index, event) => self.client_event(index, event),
            Event::Fault(fault) => self.fault(fault),
        }
    }

    /// How long a scheduler is frozen from now on.
    fn frozen(&self, id: u64) -> u64 {
        self.schedulers[&id].paused_until.saturating_sub(now())
    }

    pub fn outcome(&self, failure: Option<String>) -> Outcome {
        let oracle = self.oracle.lock().unwrap();
        let mut counts = oracle.counts.clone();
        counts.insert("terms led", oracle.terms_led() as u64);
        let mut trace = self.trace;
        trace.number(oracle.trace.0);
        trace.number(self.steps);
        let failure = failure.map(|failure| {
            let recent: Vec<&str> = self.recent.iter().map(String::as_str).collect();
            let seed = self.plan.seed;
            format!("{}\nseed {seed}, step {}: {failure}", recent.join("\n"), self.steps)
        });
        Outcome {
            trace: trace.0,
            deeds: self.trace.0,
            steps: self.steps,
            counts,
            failure,
            virtual_ms: now() / MILLI,
        }
    }
}
