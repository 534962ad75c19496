//! What an agent says and hears, and how it lives, dies and comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::{AllocationId, DurationMs, EndCause};
use berth_proto::v1;
use berth_state::Observation;
use berth_supervise::desired::Offer;
use berth_supervise::{
    AgentMs, Allocation, DesiredRow, Lease, Link, Observed, Order, Refusal, Version, Worker,
};
use berth_wire::agent::{
    DesiredRow as WireRow, Held, Hello, delta_from_proto, desired_digest, full_from_proto,
};

use crate::agent::{
    AgentEvent, Process, Record, Wanted, Wishes, WorkerEntry, from_exit, without_worker,
};
use crate::session::{ToAgent, ToScheduler};
use crate::world::{Event, MILLI, SECOND, World, now};

/// Silence after which a session is given up.
const SILENCE_US: u64 = 2 * SECOND;

#[derive(Default)]
pub struct Uplink {
    session: Option<u64>,
    pub up: bool,
    heard_at: u64,
    lease: DurationMs,
    heartbeat_ms: u64,
    sequence: u64,
    unacknowledged: BTreeMap<u64, Vec<(AllocationId, u64)>>,
    beat: u64,
    beats: BTreeMap<u64, AgentMs>,
    full_requested: bool,
    leader: Option<u64>,
}

fn digest_of(_: Version, rows: &BTreeMap<AllocationId, DesiredRow<Arc<Wanted>>>) -> [u8; 32] {
    desired_digest(rows.values().map(|row| &row.payload.row))
}

impl World {
    fn process(&mut self, index: usize) -> &mut Process {
        self.agents[index].process.as_mut().unwrap()
    }

    pub fn agent_dials(&mut self, index: usize) {
        if self.process(index).link.session.is_some() {
            return;
        }
        let count = self.plan.schedulers;
        let any = self.rng.range(1, count);
        let agent = &mut self.agents[index];
        let boot_id = format!("boot-{}", agent.host.boot);
        let process = agent.process.as_mut().unwrap();
        let version = process.wishes.version;
        let held = (version.incarnation > 0).then(|| Held {
            incarnation: version.incarnation,
            generation: version.generation,
            digest: digest_of(version, &process.wishes.rows),
        });
        let target = process.link.leader.take().unwrap_or(any);
        let hello = Hello {
            name: agent.name.clone(),
            instance_key: [u8::try_from(index).unwrap() + 1; 16],
            spec: agent.spec.clone(),
            held,
            boot_id,
        };
        let life = agent.life;
        let session = self.dial(index, target, hello);
        let link = &mut self.process(index).link;
        link.session = Some(session);
        link.up = false;
        link.heard_at = now();
        self.at(500 * MILLI, Event::Agent(index, life, AgentEvent::Beat(session)));
    }

    pub fn agent_beats(&mut self, index: usize, session: u64) {
        let clock = self.agents[index].clock();
        let life = self.agents[index].life;
        let link = &mut self.process(index).link;
        if link.session != Some(session) {
            return;
        }
        if now() - link.heard_at > SILENCE_US {
            return self.hang_up(index);
        }
        let wait = link.heartbeat_ms.max(500) * MILLI;
        if link.up {
            link.beat += 1;
            let beat = link.beat;
            link.beats.insert(beat, clock);
            self.say_to_scheduler(session, ToScheduler::Heartbeat(beat));
        }
        self.at(wait, Event::Agent(index, life, AgentEvent::Beat(session)));
    }

    /// Ends the session, if there is one, and dials again soon.
    fn hang_up(&mut self, index: usize) {
        let wait = self.rng.range(50, 500) * MILLI;
        let life = self.agents[index].life;
        let process = self.process(index);
        let session = process.link.session.take();
        process.link.up = false;
        process.link.unacknowledged.clear();
        process.observed.link = Link::Down;
        if let Some(session) = session {
            self.say_to_scheduler(session, ToScheduler::Closed);
            if let Some(session) = self.sessions.get_mut(&session) {
                session.agent_open = false;
            }
        }
        self.at(wait, Event::Agent(index, life, AgentEvent::Dial));
    }

    pub fn agent_hears(&mut self, index: usize, session: u64, message: ToAgent) {
        let Some(process) = &mut self.agents[index].process else { return };
        if process.link.session != Some(session) {
            return;
        }
        process.link.heard_at = now();
        self.take_message(index, message);
        self.turn(index);
    }

    pub fn take_message(&mut self, index: usize, message: ToAgent) {
        match message {
            ToAgent::Welcome { lease_ms, heartbeat_ms } => {
                let process = self.process(index);
                process.link.up = true;
                process.link.lease = DurationMs(lease_ms);
                process.link.heartbeat_ms = heartbeat_ms;
                process.link.unacknowledged.clear();
                process.link.beats.clear();
                process.link.full_requested = false;
                process.observed.link_up();
                let all = process.observed.allocations.keys().copied().collect();
                self.send_report(index, all);
                let session = self.process(index).link.session.unwrap();
                self.agent_beats_now(index, session);
            }
            ToAgent::Redirect(leader) => {
                self.process(index).link.leader = leader;
                self.hang_up(index);
            }
            ToAgent::Closed => self.hang_up(index),
            ToAgent::HeartbeatAck(beat) => {
                let process = self.process(index);
                let lease = process.link.lease;
                if let Some(sent_at) = process.link.beats.remove(&beat) {
                    process.link.beats = process.link.beats.split_off(&beat);
                    process.observed.lease.renew(sent_at, lease);
                    let renewal = process.observed.lease.renewal();
                    let boot = self.agents[index].host.boot;
                    self.agents[index].disk.lease = renewal.map(|(at, span)| (boot, at, span));
                }
            }
            ToAgent::ReportAck(sequence) => {
                let process = self.process(index);
                let said = process.link.unacknowledged.remove(&sequence).unwrap_or_default();
                for (id, revision) in said {
                    if let Some(allocation) = process.observed.allocations.get_mut(&id) {
                        allocation.acknowledged = allocation.acknowledged.max(Some(revision));
                    }
                }
            }
            ToAgent::Full(full) => self.take_full(index, full),
            ToAgent::Delta(delta) => self.take_delta(index, delta),
        }
    }

    fn take_full(&mut self, index: usize, full: v1::Full) {
        let full = full_from_proto(full).expect("a scheduler wrote it");
        let process = self.process(index);
        process.link.full_requested = false;
        process.specs.extend(full.specs);
        let version = Version { incarnation: full.incarnation, generation: full.generation };
        let rows = rows(full.rows, &process.specs).expect("specifications come along");
        let offer = Offer::Full { version, rows, digest: full.digest };
        let outcome = process.wishes.take(offer, digest_of);
        self.took(index, outcome, &BTreeSet::new());
    }

    fn take_delta(&mut self, index: usize, delta: v1::Delta) {
        let delta = delta_from_proto(delta).expect("a scheduler wrote it");
        let process = self.process(index);
        process.specs.extend(delta.specs);
        let changed: BTreeSet<AllocationId> =
            delta.upserts.iter().map(|row| row.allocation).collect();
        let Some(upserts) = rows(delta.upserts, &process.specs) else {
            return self.ask_for_full(index);
        };
        let held = process.wishes.rows.keys();
        let before = held.filter(|id| !changed.contains(id)).copied().collect();
        let offer = Offer::Delta {
            incarnation: delta.incarnation,
            from: delta.from,
            to: delta.to,
            upserts,
            removed: delta.removed,
            digest: delta.digest,
        };
        let outcome = process.wishes.take(offer, digest_of);
        self.took(index, outcome, &before);
    }

    fn agent_beats_now(&mut self, index: usize, session: u64) {
        let clock = self.agents[index].clock();
        let link = &mut self.process(index).link;
        link.beat += 1;
        let beat = link.beat;
        link.beats.insert(beat, clock);
        self.say_to_scheduler(session, ToScheduler::Heartbeat(beat));
    }

    fn took(
        &mut self,
        index: usize,
        outcome: Result<(), Refusal>,
        before: &BTreeSet<AllocationId>,
    ) {
        match outcome {
            Ok(()) => {}
            Err(refusal) if refusal.needs_full() => return self.ask_for_full(index),
            Err(_) => return self.count("desired state refused as old"),
        }
        let agent = &mut self.agents[index];
        let process = agent.process.as_mut().unwrap();
        for id in process.observed.note_wanted(&process.wishes) {
            if let Some(record) = agent.disk.records.get_mut(&id) {
                record.wanted_in = process.wishes.version.incarnation;
            }
        }
        for (id, worker) in &mut process.workers {
            if let Some(row) = process.wishes.rows.get(id) {
                worker.wanted = Some(row.payload.clone());
            }
        }
        process.journal_sequence += 1;
        let sequence = process.journal_sequence;
        process.writes.push_back((sequence, process.wishes.clone()));
        for id in process.wishes.rows.keys() {
            if !before.contains(id) && !process.observed.allocations.contains_key(id) {
                process.pending.insert(*id, sequence);
            }
        }
        let rows = &process.wishes.rows;
        process.pending.retain(|id, _| rows.contains_key(id));
        let life = agent.life;
        let takes = self.rng.range(200, self.plan.journal_us_max);
        self.at(takes, Event::Agent(index, life, AgentEvent::Journal(sequence)));
    }

    pub fn journal_written(&mut self, index: usize, sequence: u64) {
        let agent = &mut self.agents[index];
        let boot = agent.host.boot;
        let process = agent.process.as_mut().unwrap();
        while let Some((written, wishes)) = process.writes.pop_front() {
            if written > sequence {
                process.writes.push_front((written, wishes));
                break;
            }
            if wishes.version < agent.durable {
                let (at, was) = (wishes.version, agent.durable);
                self.oracle.lock().unwrap().violated(format!(
                    "desired state of agent {index} went from {was:?} back to {at:?}"
                ));
            }
            agent.durable = wishes.version;
            agent.disk.journal = Some((boot, wishes));
        }
        process.pending.retain(|_, waits_for| *waits_for > sequence);
    }

    fn ask_for_full(&mut self, index: usize) {
        let link = &mut self.process(index).link;
        if let (false, true, Some(session)) = (link.full_requested, link.up, link.session) {
            link.full_requested = true;
            self.say_to_scheduler(session, ToScheduler::NeedFull);
        }
    }

    pub fn send_report(&mut self, index: usize, ids: Vec<AllocationId>) {
        let process = self.process(index);
        let (true, Some(session)) = (process.link.up, process.link.session) else { return };
        let (mut said, mut observations) = (Vec::new(), Vec::new());
        for id in ids {
            let worker = process.workers.get(&id);
            if let (Some(allocation), Some(worker)) =
                (process.observed.allocations.get_mut(&id), worker)
            {
                allocation.sent = Some(allocation.revision);
                said.push((id, allocation.revision));
                let observed = worker.said(allocation.worker);
                observations.push(Observation { allocation: id, observed });
            }
        }
        if observations.is_empty() {
            return;
        }
        process.link.sequence += 1;
        let sequence = process.link.sequence;
        process.link.unacknowledged.insert(sequence, said);
        self.say_to_scheduler(session, ToScheduler::Report { sequence, observations });
    }

    /// The agent's process ends; workers go on.
    pub fn crash_agent(&mut self, index: usize) {
        let told = self.rng.chance(500);
        let landed = self.rng.chance(500);
        let agent = &mut self.agents[index];
        let Some(process) = agent.process.take() else { return };
        agent.life += 1;
        agent.up = false;
        agent.host.lease_ends =
            process.observed.lease.exclusive_ends_at().unwrap_or(agent.host.lease_ends);
        let boot = agent.host.boot;
        // What was handed to the system is there although nobody heard of it.
        if let Some((_, wishes)) = process.writes.into_iter().next().filter(|_| landed) {
            agent.durable = agent.durable.max(wishes.version);
            agent.disk.journal = Some((boot, wishes));
        }
        if let Some(session) = process.link.session {
            if told {
                self.say_to_scheduler(session, ToScheduler::Closed);
            }
            if let Some(session) = self.sessions.get_mut(&session) {
                session.agent_open = false;
            }
        }
        self.note(|| format!("agent {index} dies"));
        self.leave_leases(index);
    }

    /// The host loses its power: with the agent go all processes and what was
    /// not synced.
    pub fn reboot_host(&mut self, index: usize) {
        let agent = &mut self.agents[index];
        if let Some(process) = &mut agent.process {
            process.writes.clear();
        }
        self.crash_agent(index);
        let recent: Vec<AllocationId> = self.agents[index]
            .disk
            .records
            .iter()
            .filter(|(_, record)| now() - record.written_at < 5 * SECOND)
            .map(|(id, _)| *id)
            .collect();
        for id in recent {
            // The wish is synced, the record of having begun is not.
            if self.rng.chance(500) && !self.agents[index].disk.exits.contains_key(&id) {
                self.agents[index].disk.records.remove(&id);
            }
        }
        self.reboot(index);
    }

    /// A new agent finds what the one before it left.
    pub fn start_agent(&mut self, index: usize) {
        let agent = &mut self.agents[index];
        if agent.process.is_some() {
            return;
        }
        agent.life += 1;
        agent.up = true;
        let (boot, life) = (agent.host.boot, agent.life);
        let (written, wishes) = agent.disk.journal.clone().unwrap_or((boot, Wishes::default()));
        let mut lease = Lease::none(agent.stop_after);
        if let Some((of, at, span)) = agent.disk.lease
            && of == boot
        {
            lease.renew(at, span);
        }
        let mut process = Process::new(wishes, Observed::nothing(lease));
        let clock = agent.clock();
        let alive: Vec<(AllocationId, bool, bool)> = agent
            .host
            .processes
            .iter()
            .map(|(id, it)| (*id, it.stop_requested, it.watched))
            .chain(agent.host.starting.iter().map(|(id, (_, stop))| (*id, stop.is_some(), true)))
            .collect();
        let mut checks = Vec::new();
        for (id, stopping, watched) in alive {
            let worker = match (watched, stopping) {
                (false, _) => Worker::Abandoned,
                (true, true) => Worker::Stopping,
                (true, false) => Worker::Running,
            };
            take_over(&mut process, &agent.disk.records, id, worker);
            if worker == Worker::Running && process.begin_check(id, clock) {
                checks.push(id);
            }
        }
        let rebooted = written != boot;
        let rows: Vec<_> = process.wishes.rows.iter().map(|(id, row)| (*id, row.order)).collect();
        for (id, order) in rows {
            if process.workers.contains_key(&id) {
                continue;
            }
            let end = match agent.disk.records.get(&id) {
                None if !rebooted || order == Order::Stop => continue,
                None => {
                    let wanted_in = process.wishes.version.incarnation;
                    let record = Record { boot: 0, wanted_in, unstarted: None, written_at: now() };
                    agent.disk.records.insert(id, record);
                    without_worker(EndCause::HostRebooted)
                }
                Some(record) => match (agent.disk.exits.get(&id), record.unstarted) {
                    (Some((exit, signal)), _) => from_exit(*exit, *signal, None),
                    (None, Some(cause)) => without_worker(cause),
                    (None, None) if record.boot != boot => without_worker(EndCause::HostRebooted),
                    (None, None) => without_worker(EndCause::Unseen),
                },
            };
            take_over(&mut process, &agent.disk.records, id, Worker::Preparing);
            process.ended(id, end);
        }
        process.observed.note_wanted(&process.wishes);
        // The first thing an agent writes is all that it holds.
        agent.disk.journal = Some((boot, process.wishes.clone()));
        agent.process = Some(process);
        self.note(|| format!("agent {index} starts, life {life}, rebooted: {rebooted}"));
        for id in checks {
            self.at(MILLI, Event::Agent(index, life, AgentEvent::Probe(id)));
        }
        let wait = self.rng.range(1, 300) * MILLI;
        self.at(wait, Event::Agent(index, life, AgentEvent::Dial));
        self.turn(index);
    }
}

fn take_over(
    process: &mut Process,
    records: &BTreeMap<AllocationId, Record>,
    id: AllocationId,
    worker: Worker,
) {
    let wanted_in = records.get(&id).map_or(0, |record| record.wanted_in);
    let wanted = process.wishes.rows.get(&id).map(|row| row.payload.clone());
    process.observed.allocations.insert(id, Allocation::new(worker, wanted_in));
    process.workers.insert(id, WorkerEntry::new(wanted));
}

fn rows(
    rows: Vec<WireRow>,
    specs: &BTreeMap<berth_model::SpecDigest, Arc<berth_model::JobSpec>>,
) -> Option<BTreeMap<AllocationId, DesiredRow<Arc<Wanted>>>> {
    rows.into_iter()
        .map(|row| {
            let job = specs.get(&row.spec)?.clone();
            let stop = job.tasks.get(usize::from(row.allocation.task.0))?.stop;
            let order = if row.stop.is_some() { Order::Stop } else { Order::Run };
            let (id, exclusive) = (row.allocation, job.exclusive);
            let payload = Arc::new(Wanted { row, job });
            Some((id, DesiredRow { order, exclusive, stop, payload }))
        })
        .collect()
}
