//! What goes wrong, and the end of it.

use std::time::Duration;

use berth_raft::Runtime;
use berth_state::Command;
use openraft_rt_sim::SimRuntime;

use crate::agent::{Agent, AgentEvent};
use crate::world::{Event, MILLI, Phase, SECOND, Spot, World, now};

pub enum Fault {
    /// Draw another one.
    Next,
    StartAgent(usize),
    Mend(Vec<(Spot, Spot)>),
    /// Cut an agent off, which until now spoke to a leader that is alone.
    CutAgent(usize),
    Resume(u64),
    /// Something that was right once.
    Propose(u64, Box<Command>),
    /// The disk of a scheduler is as fast as before.
    Quick(u64, Duration),
    CalmNetwork,
}

impl World {
    pub fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Next => self.next_fault(),
            Fault::StartAgent(index) => self.start_agent(index),
            Fault::Mend(pairs) => {
                for pair in pairs {
                    self.cut.remove(&pair);
                }
                self.recut();
            }
            Fault::CutAgent(index) => self.cut_agent(index),
            Fault::Propose(id, command) => self.propose_old(id, *command),
            Fault::Resume(id) => {
                if self.schedulers[&id].paused_until <= now() {
                    self.resume_scheduler(id);
                }
            }
            Fault::Quick(id, latency) => self.schedulers[&id].disk.set_latency(latency),
            Fault::CalmNetwork => {
                self.network.set_loss(self.plan.lost_per_mille);
                self.network.set_delay(self.plan.delay.0, self.plan.delay.1);
            }
        }
    }

    fn next_fault(&mut self) {
        if self.phase == Phase::Healed {
            return;
        }
        match self.rng.range(0, 119) {
            100.. => self.propose_again(),
            0..14 => self.fault_crash(),
            14..19 => self.fault_power_cut(),
            19..27 => self.fault_pause(),
            27..44 => self.fault_partition(),
            44..49 => self.fault_slow_disk(),
            49..53 => self.fault_disk_error(),
            53..58 => self.fault_transfer(),
            58..62 => self.fault_bad_network(),
            62..73 => self.fault_agent_crash(),
            73..79 => self.fault_reboot(),
            79..91 => self.fault_agent_partition(),
            _ => self.fault_shim(),
        }
        let wait = self.rng.range(self.plan.fault_gap_us / 4, self.plan.fault_gap_us * 7 / 4);
        self.at(wait, Event::Fault(Fault::Next));
    }

    /// The leader more often than not.
    fn victim(&mut self) -> u64 {
        let any = self.rng.range(1, self.plan.schedulers);
        let leader = self.schedulers.values().find(|one| one.term.is_some()).map(|one| one.id);
        leader.filter(|_| self.rng.chance(500)).unwrap_or(any)
    }

    fn fault_crash(&mut self) {
        let id = self.victim();
        let kept = self.rng.index(4);
        let down = self.rng.range(50, 3_000) * MILLI;
        self.crash_scheduler(id, kept, down);
    }

    fn fault_power_cut(&mut self) {
        self.count("power cuts");
        for id in 1..=self.plan.schedulers {
            let kept = self.rng.index(3);
            let down = self.rng.range(50, 1_000) * MILLI;
            self.crash_scheduler(id, kept, down);
        }
    }

    fn fault_pause(&mut self) {
        let id = self.victim();
        let lasts = self.rng.range(200, 4_000) * MILLI;
        let scheduler = self.schedulers.get_mut(&id).unwrap();
        if scheduler.node().is_none() {
            return;
        }
        scheduler.paused_until = now() + lasts;
        self.recut();
        self.count("schedulers paused");
        self.note(|| format!("scheduler {id} is frozen for {} ms", lasts / MILLI));
        self.at(lasts, Event::Fault(Fault::Resume(id)));
    }

    fn fault_partition(&mut self) {
        let id = self.victim();
        let me = Spot::Scheduler(id);
        let peers: Vec<Spot> = self
            .schedulers
            .keys()
            .filter(|other| **other != id)
            .map(|id| Spot::Scheduler(*id))
            .collect();
        let agents = (0..self.plan.agents).map(Spot::Agent);
        let clients = (0..self.plan.clients).map(Spot::Client);
        let mut others: Vec<Spot> = peers.clone();
        if self.rng.chance(500) {
            others.extend(agents.chain(clients));
        } else if self.rng.chance(600) {
            let index = self.rng.index(self.plan.agents);
            let after = self.rng.range(1_000, 3_500) * MILLI;
            self.at(after, Event::Fault(Fault::CutAgent(index)));
        }
        let out = others.iter().map(|other| (me, *other));
        let into = others.iter().map(|other| (*other, me));
        let (what, pairs): (_, Vec<(Spot, Spot)>) = match self.rng.range(0, 5) {
            0 | 1 => ("partitions, whole", out.chain(into).collect()),
            2 => ("partitions, nothing out", out.collect()),
            3 => ("partitions, nothing in", into.collect()),
            _ => {
                // One peer goes on reaching both sides.
                let far: Vec<Spot> = peers.into_iter().skip(1).collect();
                let pairs = far.iter().flat_map(|other| [(me, *other), (*other, me)]);
                ("partitions, with a bridge", pairs.collect())
            }
        };
        self.cut_for(what, pairs, 300, 6_000);
    }

    fn cut_for(&mut self, what: &'static str, pairs: Vec<(Spot, Spot)>, least: u64, most: u64) {
        let lasts = self.rng.range(least, most) * MILLI;
        self.count(what);
        self.note(|| format!("{what} for {} ms: {pairs:?}", lasts / MILLI));
        self.cut.extend(pairs.iter().copied());
        self.recut();
        self.at(lasts, Event::Fault(Fault::Mend(pairs)));
    }

    fn fault_slow_disk(&mut self) {
        let id = self.victim();
        let slow = Duration::from_millis(self.rng.range(30, 400));
        self.schedulers[&id].disk.set_latency(slow);
        self.count("disks slow");
        self.note(|| format!("the disk of scheduler {id} takes {slow:?}"));
        let lasts = self.rng.range(500, 4_000) * MILLI;
        let quick = Duration::from_micros(self.rng.pick(&[200, 1_000, 8_000]));
        self.at(lasts, Event::Fault(Fault::Quick(id, quick)));
    }

    fn fault_disk_error(&mut self) {
        let id = self.victim();
        let after = self.rng.range(0, 3);
        self.schedulers[&id].disk.fail_sync_after(after);
        self.count("disk errors");
        self.note(|| format!("the disk of scheduler {id} fails after {after} more syncs"));
    }

    fn fault_transfer(&mut self) {
        let Some(leader) = self.schedulers.values().find(|one| one.term.is_some()) else { return };
        let (id, node) = (leader.id, leader.node().cloned());
        let to = self.rng.range(1, self.plan.schedulers);
        if let (Some(node), true) = (node, to != id) {
            self.count("leadership transfers");
            self.note(|| format!("scheduler {id} hands over to {to}"));
            drop(SimRuntime::spawn(async move {
                // It may fail: what then happens is an election.
                let _either = node.transfer_leader(to).await;
            }));
        }
    }

    fn fault_bad_network(&mut self) {
        let lost = self.rng.pick(&[20, 100, 300]);
        let most = Duration::from_millis(self.rng.pick(&[5, 50, 120]));
        self.network.set_loss(lost);
        self.network.set_delay(Duration::from_micros(100), most);
        self.count("bad networks");
        self.note(|| format!("{lost} of 1000 messages are lost, delays reach {most:?}"));
        let lasts = self.rng.range(500, 4_000) * MILLI;
        self.at(lasts, Event::Fault(Fault::CalmNetwork));
    }

    fn fault_agent_crash(&mut self) {
        let index = self.rng.index(self.plan.agents);
        if self.agents[index].process.is_none() {
            return;
        }
        self.count("agents crashed");
        self.crash_agent(index);
        let down = self.rng.range(20, 4_000) * MILLI;
        self.at(down, Event::Fault(Fault::StartAgent(index)));
    }

    fn fault_reboot(&mut self) {
        let writes = |agent: &Agent| {
            agent.process.as_ref().is_some_and(|process| !process.writes.is_empty())
        };
        let writing = self.agents.iter().position(writes);
        let any = self.rng.index(self.plan.agents);
        let index = writing.filter(|_| self.rng.chance(700)).unwrap_or(any);
        self.count("hosts rebooted");
        let was_up = self.agents[index].process.is_some();
        self.reboot_host(index);
        self.note(|| format!("host {index} reboots"));
        if was_up {
            let down = self.rng.range(500, 5_000) * MILLI;
            self.at(down, Event::Fault(Fault::StartAgent(index)));
        }
    }

    /// Shorter and longer than what jobs bear.
    fn fault_agent_partition(&mut self) {
        let index = self.rng.index(self.plan.agents);
        self.cut_agent(index);
    }

    fn cut_agent(&mut self, index: usize) {
        if self.phase == Phase::Healed {
            return;
        }
        let me = Spot::Agent(index);
        let them: Vec<Spot> = self.schedulers.keys().map(|id| Spot::Scheduler(*id)).collect();
        let out = them.iter().map(|other| (me, *other));
        let into = them.iter().map(|other| (*other, me));
        let pairs = match self.rng.range(0, 3) {
            0 => out.collect(),
            1 => into.collect(),
            _ => out.chain(into).collect(),
        };
        self.cut_for("agents cut off", pairs, 300, 11_000);
    }

    /// The process that watches a worker is killed.
    fn fault_shim(&mut self) {
        let index = self.rng.index(self.plan.agents);
        let agent = &mut self.agents[index];
        let Some((id, process)) = agent.host.processes.iter_mut().next() else { return };
        process.watched = false;
        let (id, life) = (*id, agent.life);
        self.count("shims killed");
        self.oracle.lock().unwrap().process_unwatched(id);
        self.note(|| format!("host {index}: the shim of {id} is killed"));
        self.at(5 * MILLI, Event::Agent(index, life, AgentEvent::ShimLost(id)));
    }

    /// The end of all trouble.
    pub fn heal(&mut self) {
        self.phase = Phase::Healed;
        self.note(|| "everything is mended".to_owned());
        self.cut.clear();
        self.network.set_loss(0);
        self.network.set_delay(self.plan.delay.0, self.plan.delay.1);
        for id in 1..=self.plan.schedulers {
            let scheduler = self.schedulers.get_mut(&id).unwrap();
            scheduler.paused_until = 0;
            scheduler.disk.set_latency(Duration::from_micros(500));
            scheduler.disk.fail_sync_after(u64::MAX);
            self.at(0, Event::StartScheduler(id));
            self.resume_scheduler(id);
        }
        for index in 0..self.plan.agents {
            self.at(SECOND, Event::Fault(Fault::StartAgent(index)));
        }
    }
}
