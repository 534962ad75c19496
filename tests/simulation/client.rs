//! People and programs that submit and change jobs, and try again with the
//! same key until they know what came of it.

use std::sync::Arc;

use berth_model::{JobId, Name, NodeId, SpecDigest, StateMs};
use berth_raft::{ReadError, Runtime};
use berth_state::{Command, JobChange, Purpose, Refusal, Reply, SubmitJob};
use openraft_rt_sim::SimRuntime;

use crate::inbox::{SchedulerEvent, Signal};
use crate::leader::{Answers, Who, Wish};
use crate::work;
use crate::world::{Event, MILLI, Phase, SECOND, Spot, World, now};

const TIMEOUT_US: u64 = 2 * SECOND;

pub enum ClientEvent {
    Next,
    Send(u64),
    Arrive { op: u64, scheduler: u64, life: u32 },
    Reply { op: u64, answer: Option<Result<Reply, Refusal>> },
    Timeout { op: u64, attempt: u32 },
}

#[derive(Clone)]
pub enum Request {
    Submit(SubmitJob),
    Change(JobId, JobChange),
    Purpose(NodeId, Purpose),
    /// Everything acknowledged before it began must be seen.
    Read(Vec<String>),
}

pub struct Op {
    id: u64,
    request: Request,
    attempt: u32,
}

pub struct Client {
    index: usize,
    pub op: Option<Op>,
    counter: u64,
    /// Jobs that it was told of.
    jobs: Vec<JobId>,
}

impl Client {
    pub fn new(index: usize) -> Client {
        Client { index, op: None, counter: 0, jobs: Vec::new() }
    }
}

impl World {
    pub fn client_event(&mut self, index: usize, event: ClientEvent) {
        match event {
            ClientEvent::Next => self.next_op(index),
            ClientEvent::Send(op) => self.send_op(index, op),
            ClientEvent::Arrive { op, scheduler, life } => {
                self.op_arrives(index, op, scheduler, life);
            }
            ClientEvent::Reply { op, answer } => self.op_answered(index, op, answer),
            ClientEvent::Timeout { op, attempt } => {
                let current = self.clients[index].op.as_ref();
                if current.is_some_and(|it| it.id == op && it.attempt == attempt) {
                    self.count("client timeouts");
                    self.send_op(index, op);
                }
            }
        }
    }

    fn next_op(&mut self, index: usize) {
        if self.clients[index].op.is_some() {
            return;
        }
        let request = match self.phase {
            Phase::Chaos => Some(self.draw_request(index)),
            Phase::Healed => self.set_right(index),
        };
        let pause = self.rng.range(20, 400) * MILLI;
        let Some(request) = request else {
            return self.at(pause, Event::Client(index, ClientEvent::Next));
        };
        let client = &mut self.clients[index];
        client.counter += 1;
        let id = client.counter;
        client.op = Some(Op { id, request, attempt: 0 });
        self.at(pause, Event::Client(index, ClientEvent::Send(id)));
    }

    fn draw_request(&mut self, index: usize) -> Request {
        let jobs = self.clients[index].jobs.clone();
        let nodes = self.plan.agents as u64;
        let kind = self.rng.range(0, 99);
        if kind >= 70 && jobs.is_empty() {
            return self.draw_submit(index, 0);
        }
        match kind {
            0..70 => self.draw_submit(index, kind),
            70..78 => {
                let job = self.rng.pick(&jobs);
                Request::Change(job, JobChange::Stop { reason: "no longer needed".to_owned() })
            }
            78..80 => Request::Change(self.rng.pick(&jobs), JobChange::Hold),
            80..83 => Request::Change(self.rng.pick(&jobs), JobChange::Release),
            83..86 => Request::Change(self.rng.pick(&jobs), JobChange::Restart),
            86..88 => Request::Change(self.rng.pick(&jobs), JobChange::Rollback { to_version: 0 }),
            88..94 => {
                let node = NodeId(self.rng.range(1, nodes));
                let deadline = StateMs(now() / MILLI + self.rng.range(0, 5_000));
                let drain = berth_model::Drain { deadline: Some(deadline) };
                let endless = berth_model::Drain { deadline: None };
                let purposes = [
                    Purpose::Work,
                    Purpose::Work,
                    Purpose::Cordoned,
                    Purpose::Draining(drain),
                    Purpose::Draining(endless),
                ];
                Request::Purpose(node, self.rng.pick(&purposes))
            }
            _ => Request::Read(self.oracle.lock().unwrap().acknowledged_keys()),
        }
    }

    fn draw_submit(&mut self, index: usize, kind: u64) -> Request {
        let client = &self.clients[index];
        let key = format!("key-{}-{}", client.index, client.counter);
        let spec = match kind {
            0..50 => work::batch(&mut self.rng, &format!("batch-{key}"), self.plan.agents),
            50..64 => work::service(&mut self.rng),
            _ => work::daemon(&mut self.rng),
        };
        let digest: SpecDigest = berth_wire::spec::spec_digest(&spec);
        let spec = Arc::new(spec);
        Request::Submit(SubmitJob { key: Some(key), spec, digest, if_version: None })
    }

    /// After the trouble somebody puts nodes back to work and lets held jobs
    /// go on.
    fn set_right(&mut self, index: usize) -> Option<Request> {
        if index != 0 {
            return None;
        }
        let leader = self.schedulers.values().find(|one| one.term.is_some())?;
        let view = leader.view();
        let node = view.nodes().values().find(|node| node.purpose != Purpose::Work);
        if let Some(node) = node {
            return Some(Request::Purpose(node.id, Purpose::Work));
        }
        let held = view.jobs().values().find(|job| job.held && !job.is_ended());
        held.map(|job| Request::Change(job.id, JobChange::Release))
    }

    fn send_op(&mut self, index: usize, op: u64) {
        let scheduler = self.rng.range(1, self.plan.schedulers);
        let leader = self.schedulers.values().find(|one| one.term.is_some()).map(|one| one.id);
        // Clients mostly know whom to ask.
        let scheduler = leader.filter(|_| self.rng.chance(700)).unwrap_or(scheduler);
        let life = self.schedulers[&scheduler].life;
        let Some(current) = self.clients[index].op.as_mut().filter(|it| it.id == op) else {
            return;
        };
        current.attempt += 1;
        let attempt = current.attempt;
        if let Request::Read(keys) = &mut current.request {
            // Whatever was acknowledged before this attempt.
            *keys = self.oracle.lock().unwrap().acknowledged_keys();
        }
        let delay = self.delay();
        self.at(delay, Event::Client(index, ClientEvent::Arrive { op, scheduler, life }));
        self.at(TIMEOUT_US, Event::Client(index, ClientEvent::Timeout { op, attempt }));
    }

    fn op_arrives(&mut self, index: usize, op: u64, scheduler: u64, life: u32) {
        if !self.passes(Spot::Client(index), Spot::Scheduler(scheduler)) {
            return;
        }
        let there = &self.schedulers[&scheduler];
        let paused = there.paused_until.saturating_sub(now());
        if paused > 0 {
            let event = ClientEvent::Arrive { op, scheduler, life };
            return self.at(paused, Event::Client(index, event));
        }
        let Some(node) = there.node().filter(|_| there.life == life).cloned() else {
            return self.reply(index, op, scheduler, None);
        };
        let Some(current) = self.clients[index].op.as_ref().filter(|it| it.id == op) else {
            return;
        };
        let command = match current.request.clone() {
            Request::Submit(submit) => Command::Submit(submit),
            Request::Change(job, change) => Command::ChangeJob { job, if_version: None, change },
            Request::Purpose(node, purpose) => Command::SetSchedulable { node, purpose },
            Request::Read(_) => {
                let inbox = self.inbox.clone();
                drop(SimRuntime::spawn(async move {
                    let result = node.read_index().await;
                    let event = SchedulerEvent::Read { client: index, op, result };
                    inbox.push(Signal::Scheduler(scheduler, life, event));
                }));
                return;
            }
        };
        let wish = Wish { who: Who::Client { client: index, op }, commands: vec![command] };
        self.wish(scheduler, wish);
    }

    pub fn read_done(
        &mut self,
        scheduler: u64,
        index: usize,
        op: u64,
        result: Result<u64, ReadError>,
    ) {
        let Some(current) = self.clients[index].op.as_ref().filter(|it| it.id == op) else {
            return;
        };
        let Request::Read(keys) = &current.request else { return };
        if result.is_err() {
            return self.reply(index, op, scheduler, None);
        }
        let view = self.schedulers[&scheduler].view();
        let names = work::NAMESPACES.map(work::name);
        let is_in = |name: &Name, key: &String| view.keys().contains(&(name.clone(), key.clone()));
        let seen = |key: &String| names.iter().any(|name| is_in(name, key));
        if let Some(key) = keys.iter().find(|key| !seen(key)) {
            let (key, at) = (key.clone(), view.applied_index());
            self.violated(format!("a read of scheduler {scheduler} at {at} does not see {key}"));
        }
        self.count("linearizable reads");
        self.reply(index, op, scheduler, Some(Ok(Reply::Done)));
    }

    pub fn answer_client(&mut self, scheduler: u64, index: usize, op: u64, answers: Answers) {
        let answer = answers.ok().and_then(|mut answers| answers.pop());
        self.reply(index, op, scheduler, answer);
    }

    fn reply(
        &mut self,
        index: usize,
        op: u64,
        scheduler: u64,
        answer: Option<Result<Reply, Refusal>>,
    ) {
        if self.passes(Spot::Scheduler(scheduler), Spot::Client(index)) {
            let delay = self.delay();
            self.at(delay, Event::Client(index, ClientEvent::Reply { op, answer }));
        }
    }

    fn op_answered(&mut self, index: usize, op: u64, answer: Option<Result<Reply, Refusal>>) {
        let Some(current) = self.clients[index].op.as_ref().filter(|it| it.id == op) else {
            return;
        };
        let Some(answer) = answer else {
            // Not the leader, or nobody knows: ask again.
            let wait = self.rng.range(30, 300) * MILLI;
            return self.at(wait, Event::Client(index, ClientEvent::Send(op)));
        };
        match (&current.request, &answer) {
            (Request::Submit(submit), Ok(Reply::Submitted { job, version, existed })) => {
                let key = submit.key.clone().unwrap();
                let (job, version, existed) = (*job, *version, *existed);
                if existed && current.attempt > 1 {
                    self.count("submits answered by their key");
                }
                self.oracle.lock().unwrap().acknowledge(&key, job, version);
                self.clients[index].jobs.push(job);
                self.note(|| format!("client {index}: {key} is job {job} version {version}"));
            }
            (Request::Submit(submit), Err(refusal)) => {
                let key = submit.key.clone();
                self.violated(format!("submit {key:?} is refused: {refusal}"));
            }
            _ => {}
        }
        self.clients[index].op = None;
        let pause = self.rng.range(20, 400) * MILLI;
        self.at(pause, Event::Client(index, ClientEvent::Next));
    }

    pub fn clients_are_idle(&self) -> bool {
        self.clients.iter().all(|client| client.op.is_none())
    }
}
