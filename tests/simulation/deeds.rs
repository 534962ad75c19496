//! What an agent does about one allocation once that is decided.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_model::{AllocationId, EndCause, StopPolicy};
use berth_supervise::{Allocation, ProbeOutcome, StopReason, Verdict, Worker};

use crate::agent::{AgentEvent, Record, WorkerEntry, from_exit, without_worker};
use crate::host::HostEvent;
use crate::world::{Event, MILLI, World, now};

impl World {
    pub fn begin(&mut self, index: usize, id: AllocationId, reports: &mut BTreeSet<AllocationId>) {
        let agent = &mut self.agents[index];
        let process = agent.process.as_mut().unwrap();
        let Some(row) = process.wishes.rows.get(&id) else { return };
        let wanted = Arc::clone(&row.payload);
        let wanted_in = process.wishes.version.incarnation;
        let mut allocation = Allocation::new(Worker::Preparing, wanted_in);
        allocation.sent = Some(allocation.revision);
        process.observed.allocations.insert(id, allocation);
        process.workers.insert(id, WorkerEntry::new(Some(wanted)));
        if agent.disk.records.contains_key(&id) {
            self.count("begun before, fate unknown");
            self.end_with(index, id, EndCause::Unseen);
            reports.insert(id);
            return;
        }
        let boot = agent.host.boot;
        let record = Record { boot, wanted_in, unstarted: None, written_at: now() };
        agent.disk.records.insert(id, record);
        let life = agent.life;
        let takes = self.rng.range(1, 30) * MILLI;
        self.at(takes, Event::Agent(index, life, AgentEvent::Launch(id)));
    }

    pub fn end_with(&mut self, index: usize, id: AllocationId, cause: EndCause) {
        self.agents[index].process.as_mut().unwrap().ended(id, without_worker(cause));
    }

    pub fn end_unstarted(&mut self, index: usize, id: AllocationId, cause: EndCause) {
        let agent = &mut self.agents[index];
        let process = agent.process.as_mut().unwrap();
        let wanted_in = process.wishes.version.incarnation;
        let wanted = process.wishes.rows.get(&id).map(|row| Arc::clone(&row.payload));
        process
            .observed
            .allocations
            .entry(id)
            .or_insert_with(|| Allocation::new(Worker::Preparing, wanted_in));
        process.workers.entry(id).or_insert_with(|| WorkerEntry::new(wanted));
        let boot = agent.host.boot;
        let record = Record { boot, wanted_in, unstarted: Some(cause), written_at: now() };
        agent.disk.records.insert(id, record);
        self.end_with(index, id, cause);
    }

    pub fn launch(&mut self, index: usize, id: AllocationId) {
        let agent = &mut self.agents[index];
        let process = agent.process.as_mut().unwrap();
        let preparing = process
            .observed
            .allocations
            .get(&id)
            .is_some_and(|allocation| allocation.worker == Worker::Preparing);
        let wanted = process.workers.get(&id).and_then(|worker| worker.wanted.clone());
        let (true, Some(wanted)) = (preparing, wanted) else { return };
        process.set_worker(id, Worker::Launching);
        agent.host.starting.insert(id, (wanted, None));
        let boot = agent.host.boot;
        let takes = self.rng.range(500, 20_000);
        self.at(takes, Event::Host(index, HostEvent::Start(id, boot)));
    }

    pub fn begun(&mut self, index: usize, id: AllocationId) {
        let agent = &mut self.agents[index];
        let clock = agent.clock();
        let process = agent.process.as_mut().unwrap();
        let launching = process
            .observed
            .allocations
            .get(&id)
            .is_some_and(|allocation| allocation.worker == Worker::Launching);
        if launching {
            process.set_worker(id, Worker::Running);
            if process.begin_check(id, clock) {
                let life = agent.life;
                self.at(MILLI, Event::Agent(index, life, AgentEvent::Probe(id)));
            }
        }
    }

    pub fn stop(
        &mut self,
        index: usize,
        id: AllocationId,
        policy: Option<StopPolicy>,
        reason: StopReason,
    ) {
        if reason == StopReason::Fenced {
            self.count("workers fenced");
        }
        let process = self.agents[index].process.as_mut().unwrap();
        if let Some(worker) = process.workers.get_mut(&id) {
            worker.stop_reason = Some(reason);
            worker.health = None;
        }
        process.set_worker(id, Worker::Stopping);
        self.stop_process(index, id, policy);
    }

    pub fn exited(&mut self, index: usize, id: AllocationId) {
        let agent = &mut self.agents[index];
        let Some((exit, signal)) = agent.disk.exits.get(&id).copied() else { return };
        let process = agent.process.as_mut().unwrap();
        let reason = process.workers.get(&id).and_then(|worker| worker.stop_reason);
        process.ended(id, from_exit(exit, signal, reason));
    }

    pub fn swept(&mut self, index: usize, id: AllocationId) {
        let pid = self.agents[index].host.processes.get(&id).map(|process| process.pid);
        if let Some(pid) = pid {
            self.agents[index].host.processes.get_mut(&id).unwrap().stuck = false;
            self.end_process(index, id, pid, Some(9));
        }
        let agent = &mut self.agents[index];
        let end = match agent.disk.exits.get(&id) {
            Some((exit, signal)) => from_exit(*exit, *signal, None),
            None => without_worker(EndCause::Unseen),
        };
        agent.process.as_mut().unwrap().ended(id, end);
    }

    pub fn probe(&mut self, index: usize, id: AllocationId) {
        let agent = &mut self.agents[index];
        let clock = agent.clock();
        let Some(host) = agent.host.processes.get(&id) else { return };
        let well = now() >= host.ready_at && now() < host.sick_at;
        let process = agent.process.as_mut().unwrap();
        let Some(health) = process.workers.get_mut(&id).and_then(|worker| worker.health.as_mut())
        else {
            return;
        };
        let before = health.verdict();
        let outcome = if well { ProbeOutcome::Passed } else { ProbeOutcome::Failed };
        let verdict = health.observe(outcome, clock);
        let next = health.next_probe_at();
        if verdict != before {
            if let Some(allocation) = process.observed.allocations.get_mut(&id) {
                allocation.touch();
            }
            if verdict == Verdict::Unhealthy {
                self.count("workers unhealthy");
            }
        }
        let (wait, life) = (self.agents[index].until(next), self.agents[index].life);
        self.at(wait, Event::Agent(index, life, AgentEvent::Probe(id)));
    }
}
