//! A machine as it truly is: which processes live, on which devices, and how
//! they end. Agents learn of it; the oracle is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::{AllocationId, DurationMs, StopPolicy};
use berth_supervise::AgentMs;

use crate::agent::{Agent, AgentEvent, Wanted};
use crate::oracle::{Exit, instance};
use crate::rng::Rng;
use crate::world::{Event, MILLI, Phase, SECOND, World, now};

pub enum HostEvent {
    /// A shim begins what it was asked for.
    Start(AllocationId, u64),
    /// A process ends by itself, or because it was asked to.
    End { id: AllocationId, pid: u64 },
    /// The grace is over.
    Kill { id: AllocationId, pid: u64 },
    /// Its shim looks whether its lease is over.
    Lease { id: AllocationId, pid: u64 },
}

pub struct Process {
    pub pid: u64,
    wanted: Arc<Wanted>,
    code: i32,
    pub stop_requested: bool,
    pub lease_ended: bool,
    pub stuck: bool,
    /// Its shim lives.
    pub watched: bool,
    pub ready_at: u64,
    pub sick_at: u64,
}

pub struct Host {
    /// Counts boots.
    pub boot: u64,
    pub booted_at: u64,
    pub drift_ppm: i64,
    pub processes: BTreeMap<AllocationId, Process>,
    /// What shims were asked to begin, and whether to end it at once.
    pub starting: BTreeMap<AllocationId, (Arc<Wanted>, Option<StopPolicy>)>,
    /// Until when shims let exclusive work run: what the last agent told them.
    pub lease_ends: AgentMs,
}

impl Host {
    pub fn new(rng: &mut Rng) -> Host {
        let drift = rng.drift_ppm();
        Host {
            boot: 1,
            booted_at: 0,
            drift_ppm: drift,
            processes: BTreeMap::new(),
            starting: BTreeMap::new(),
            lease_ends: AgentMs(0),
        }
    }
}

/// How a worker behaves: given in its command, so that it travels with the
/// job.
struct Nature {
    least_ms: u64,
    most_ms: u64,
    fails_per_mille: u64,
}

fn nature(wanted: &Wanted) -> Nature {
    let numbers: Vec<u64> =
        wanted.task().command[1..].iter().map(|word| word.parse().unwrap()).collect();
    Nature { least_ms: numbers[0], most_ms: numbers[1], fails_per_mille: numbers[2] }
}

impl World {
    pub fn host_event(&mut self, index: usize, event: HostEvent) {
        match event {
            HostEvent::Start(id, boot) => self.begin_process(index, id, boot),
            HostEvent::End { id, pid } => self.end_process(index, id, pid, None),
            HostEvent::Kill { id, pid } => self.kill_process(index, id, pid),
            HostEvent::Lease { id, pid } => self.look_at_lease(index, id, pid),
        }
    }

    /// Nobody renews the leases of exclusive work any more.
    pub fn leave_leases(&mut self, index: usize) {
        let processes = self.agents[index].host.processes.iter();
        let leased: Vec<(AllocationId, u64)> = processes
            .filter(|(_, process)| process.wanted.job.exclusive)
            .map(|(id, process)| (*id, process.pid))
            .collect();
        for (id, pid) in leased {
            self.look_at_lease(index, id, pid);
        }
    }

    fn look_at_lease(&mut self, index: usize, id: AllocationId, pid: u64) {
        let agent = &mut self.agents[index];
        let (clock, end) = (agent.clock(), agent.host.lease_ends);
        let wait = agent.until(end);
        let process = agent.host.processes.get_mut(&id).filter(|process| process.pid == pid);
        // An agent that is there does it itself, at the same moment.
        let Some(process) = process.filter(|process| process.watched && !agent.up) else { return };
        if clock < end {
            self.at(wait, Event::Host(index, HostEvent::Lease { id, pid }));
            return;
        }
        process.lease_ended = true;
        self.count("workers fenced by their shims");
        self.stop_process(index, id, None);
    }

    fn begin_process(&mut self, index: usize, id: AllocationId, boot: u64) {
        let host = &mut self.agents[index].host;
        if host.boot != boot {
            return;
        }
        let Some((wanted, stop)) = host.starting.remove(&id) else { return };
        self.check_devices(index, id, &wanted);
        self.check_exclusive(index, id, &wanted);
        self.entry_counter += 1;
        let pid = self.entry_counter;
        let nature = nature(&wanted);
        let calm = self.phase == Phase::Healed;
        let fails =
            self.rng.chance(if calm { nature.fails_per_mille / 4 } else { nature.fails_per_mille });
        let lasts = self.rng.range(nature.least_ms, nature.most_ms) * MILLI;
        let forever = nature.least_ms >= 1_000_000 && !fails;
        let ready_at = now() + self.rng.range(0, 800) * MILLI;
        let sick = !calm && self.rng.chance(100);
        let sick_at = if sick { ready_at + self.rng.range(1, 4) * SECOND } else { u64::MAX };
        let exclusive = wanted.job.exclusive;
        let process = Process {
            pid,
            wanted,
            code: if fails { 3 } else { 0 },
            stop_requested: false,
            lease_ended: false,
            stuck: false,
            watched: true,
            ready_at,
            sick_at,
        };
        self.agents[index].host.processes.insert(id, process);
        self.oracle.lock().unwrap().process_started(id);
        self.note(|| format!("host {index}: {id} begins"));
        if !forever {
            let lasts = if fails { lasts.min(3 * SECOND) / 2 } else { lasts };
            self.at(lasts, Event::Host(index, HostEvent::End { id, pid }));
        }
        let life = self.agents[index].life;
        let told = self.rng.range(100, 2_000);
        self.at(told, Event::Agent(index, life, AgentEvent::Begun(id)));
        if exclusive {
            self.oracle.lock().unwrap().process_leased(id);
            self.look_at_lease(index, id, pid);
        }
        if let Some(policy) = stop {
            self.stop_process(index, id, Some(policy));
        }
    }

    fn check_devices(&mut self, index: usize, id: AllocationId, wanted: &Wanted) {
        let Agent { host, spec, .. } = &self.agents[index];
        let (mut clash, mut shares) = (None, false);
        for claim in &wanted.row.devices {
            let of = |process: &'_ Process| {
                let held = process.wanted.row.devices.iter().find(|held| held.uuid == claim.uuid);
                held.map(|held| (held.share.0, held.memory.0))
            };
            let held = host.processes.iter().filter_map(|(id, process)| Some((*id, of(process)?)));
            let held: Vec<(AllocationId, (u32, u64))> = held.collect();
            let share = claim.share.0 + held.iter().map(|(_, (share, _))| share).sum::<u32>();
            let memory = claim.memory.0 + held.iter().map(|(_, (_, memory))| memory).sum::<u64>();
            let device = spec.device(&claim.uuid).map_or(0, |device| device.memory.0);
            let crowded = held.len() >= spec.tasks_per_device_max as usize;
            if !held.is_empty() && (share > 1000 || memory > device || crowded) {
                let holders: Vec<AllocationId> = held.into_iter().map(|(id, _)| id).collect();
                clash = Some((claim.uuid.clone(), holders));
            } else {
                shares |= !held.is_empty();
            }
        }
        if shares {
            self.count("workers begun beside another on one GPU");
        }
        if let Some((uuid, holders)) = clash {
            let holders: Vec<String> = holders.iter().map(ToString::to_string).collect();
            let holders = holders.join(", ");
            self.violated(format!("host {index}: {id} begins on {uuid}, which {holders} hold"));
        }
    }

    fn check_exclusive(&mut self, index: usize, id: AllocationId, wanted: &Wanted) {
        if !wanted.job.exclusive {
            return;
        }
        for (other, agent) in self.agents.iter().enumerate() {
            // A version that was not exclusive yet is not fenced either.
            let mut twins = agent.host.processes.iter().filter(|(held, process)| {
                instance(**held) == instance(id) && process.wanted.job.exclusive
            });
            let Some((twin, process)) = twins.next() else { continue };
            if !process.watched {
                // Agent and shim were both killed: nobody is left to end it.
                self.count("exclusive work nobody could fence");
                continue;
            }
            self.violated(format!(
                "exclusive {id} begins on host {index} while {twin} lives on host {other}"
            ));
        }
    }

    /// Asks a process to end; `None` as a policy is what its job says.
    pub fn stop_process(&mut self, index: usize, id: AllocationId, policy: Option<StopPolicy>) {
        let host = &mut self.agents[index].host;
        if let Some((wanted, stop)) = host.starting.get_mut(&id) {
            *stop = Some(policy.unwrap_or(wanted.task().stop));
            return;
        }
        let Some(process) = host.processes.get_mut(&id) else { return };
        if process.stop_requested {
            return;
        }
        process.stop_requested = true;
        let (pid, exclusive) = (process.pid, process.wanted.job.exclusive);
        let DurationMs(grace) = policy.unwrap_or(process.wanted.task().stop).grace;
        let obeys = self.rng.chance(800);
        let stuck = !obeys && !exclusive && self.rng.chance(200);
        if obeys {
            let after = self.rng.range(1, grace.max(2)) * MILLI;
            self.at(after, Event::Host(index, HostEvent::End { id, pid }));
        }
        if let Some(process) = self.agents[index].host.processes.get_mut(&id) {
            process.stuck = stuck;
        }
        let drift = self.agents[index].host.drift_ppm;
        let grace_us = i64::try_from(grace * MILLI).unwrap();
        let by_its_clock = u64::try_from(grace_us - grace_us * drift / 1_000_000).unwrap();
        self.at(by_its_clock + 10 * MILLI, Event::Host(index, HostEvent::Kill { id, pid }));
    }

    fn kill_process(&mut self, index: usize, id: AllocationId, pid: u64) {
        let Some(process) = self.agents[index].host.processes.get_mut(&id) else { return };
        if process.pid != pid {
            return;
        }
        if process.stuck {
            process.stuck = false;
            let lasts = self.rng.range(1, 3) * SECOND;
            self.at(lasts, Event::Host(index, HostEvent::Kill { id, pid }));
            let life = self.agents[index].life;
            self.count("workers that could not be killed");
            self.at(50 * MILLI, Event::Agent(index, life, AgentEvent::Unkillable(id)));
            return;
        }
        self.end_process(index, id, pid, Some(9));
    }

    pub fn end_process(&mut self, index: usize, id: AllocationId, pid: u64, signal: Option<i32>) {
        let host = &mut self.agents[index].host;
        if host.processes.get(&id).is_none_or(|process| process.pid != pid || process.stuck) {
            return;
        }
        let Some(process) = host.processes.remove(&id) else { return };
        let code = if signal.is_none() { Some(process.code) } else { None };
        let exit = Exit {
            code,
            stop_requested: process.stop_requested,
            lease_ended: process.lease_ended,
            recorded: process.watched,
        };
        self.oracle.lock().unwrap().process_ended(id, exit);
        self.note(|| format!("host {index}: {id} ends: {exit:?}"));
        let agent = &mut self.agents[index];
        if process.watched {
            agent.disk.exits.insert(id, (exit, signal));
            let life = agent.life;
            let told = self.rng.range(100, 5_000);
            self.at(told, Event::Agent(index, life, AgentEvent::Exited(id)));
        }
    }

    /// Everything on the host is gone at once.
    pub fn reboot(&mut self, index: usize) {
        let host = &mut self.agents[index].host;
        host.boot += 1;
        host.booted_at = now();
        host.lease_ends = AgentMs(0);
        host.starting.clear();
        let processes = std::mem::take(&mut host.processes);
        for id in processes.into_keys() {
            let exit =
                Exit { code: None, stop_requested: false, lease_ended: false, recorded: false };
            self.oracle.lock().unwrap().process_ended(id, exit);
        }
    }
}
