//! What must hold whatever happens, checked against everything that any
//! replica applies and against what truly runs on the hosts.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{
    AllocationId, EndCause, EndReport, InstanceIndex, JobId, JobKind, Name, NodeId, Outcome,
    TaskIndex,
};
use berth_state::{Applied, ClusterState, Command, Entry, EventKind, Reply, invariants};
use berth_wire::log::v1 as log;

use crate::rng::Fold;
use crate::work;

/// How a process truly ended.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    pub code: Option<i32>,
    pub stop_requested: bool,
    /// Its lease ended first.
    pub lease_ended: bool,
    /// Its shim wrote the end down.
    pub recorded: bool,
}

/// One instance of a job, over all its attempts.
pub type Instance = (JobId, TaskIndex, u32);

pub fn instance(id: AllocationId) -> Instance {
    (id.job, id.task, id.instance.0)
}

#[derive(Default)]
pub struct Oracle {
    /// Entry and state hashes by log index, as the first replica had them.
    log: BTreeMap<u64, (u64, u64)>,
    pub violations: Vec<String>,
    /// Entries of which a proposer was told that they are never applied.
    never: BTreeSet<u64>,
    entries: BTreeSet<u64>,
    /// What the first submit with a key was answered.
    keys: BTreeMap<String, (JobId, u32)>,
    /// Keys of answered submits.
    acknowledged: BTreeMap<String, (JobId, u32)>,
    planned: BTreeSet<AllocationId>,
    succeeded: BTreeSet<Instance>,
    /// Without their end having been seen.
    given_up: BTreeSet<AllocationId>,
    gangs: BTreeSet<JobId>,
    generations: BTreeMap<NodeId, u64>,
    leaders: BTreeMap<u64, u64>,
    /// Processes that live, and how those that do not ended.
    pub live: BTreeSet<AllocationId>,
    /// Those among them that somebody ends with their lease.
    leased: BTreeSet<AllocationId>,
    pub exits: BTreeMap<AllocationId, Exit>,
    started: BTreeSet<AllocationId>,
    pub trace: Fold,
    pub counts: BTreeMap<&'static str, u64>,
}

impl Oracle {
    pub fn violated(&mut self, what: String) {
        self.violations.push(what);
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn led(&mut self, node: u64, term: u64) {
        let known = *self.leaders.entry(term).or_insert(node);
        if known != node {
            self.violated(format!("term {term} is led by {known} and by {node}"));
        }
    }

    pub fn terms_led(&self) -> usize {
        self.leaders.len()
    }

    /// A proposer was told that this entry is not and never will be applied.
    pub fn refused(&mut self, entry: u64) {
        if self.entries.contains(&entry) {
            self.violated("a refused proposal was applied".to_owned());
        }
        self.never.insert(entry);
    }

    pub fn applied(
        &mut self,
        by: u64,
        index: u64,
        entry: &Entry,
        applied: &Applied,
        state: &ClusterState,
    ) {
        let bytes = entry_hash(entry);
        let hash = state.hash();
        self.trace.number(by);
        self.trace.number(index);
        self.trace.number(hash);
        match self.log.get(&index) {
            Some((known, _)) if *known != bytes => {
                self.violated(format!("scheduler {by} applied another entry at {index}"));
            }
            Some((_, known)) if *known != hash => {
                self.violated(format!("scheduler {by} has another state at {index}"));
            }
            Some(_) => {}
            None => {
                self.log.insert(index, (bytes, hash));
                self.entries.insert(bytes);
                self.first_applied(index, entry, applied, state);
            }
        }
    }

    fn first_applied(
        &mut self,
        index: u64,
        entry: &Entry,
        applied: &Applied,
        state: &ClusterState,
    ) {
        self.count("entries applied");
        if self.never.contains(&entry_hash(entry)) {
            self.violated(format!("entry {index} was refused and is applied all the same"));
        }
        for broken in invariants::check(state) {
            self.violated(format!("after entry {index}: {broken}"));
        }
        for (command, reply) in entry.commands.iter().zip(&applied.replies) {
            match (command, reply) {
                (Command::Submit(submit), Ok(Reply::Submitted { job, version, .. })) => {
                    if let Some(key) = &submit.key {
                        let first = *self.keys.entry(key.clone()).or_insert((*job, *version));
                        if first != (*job, *version) {
                            self.violated(format!("key {key} made {first:?} and {job} {version}"));
                        }
                    }
                }
                (Command::Place { .. }, Ok(Reply::Placed { refused, .. }))
                    if !refused.is_empty() =>
                {
                    self.count("placements refused as stale");
                }
                (Command::LoseAllocations { .. }, Ok(_)) => self.count("allocations given up"),
                (Command::DisconnectNode { .. }, Ok(_)) => self.count("nodes disconnected"),
                (Command::DownNode { .. }, Ok(_)) => self.count("nodes down"),
                _ => {}
            }
        }
        self.check_events(index, applied, state);
        self.check_acknowledged(index, state);
    }

    fn check_events(&mut self, index: u64, applied: &Applied, state: &ClusterState) {
        for event in &applied.events {
            match (&event.kind, event.allocation) {
                (EventKind::AllocationPlanned, Some(id)) => {
                    self.count("allocations planned");
                    if !self.planned.insert(id) {
                        self.violated(format!("entry {index} plans {id} again"));
                    }
                    if self.succeeded.contains(&instance(id)) {
                        self.violated(format!("entry {index} plans {id}, which has succeeded"));
                    }
                    if id.attempt.0 > 1 {
                        self.count("attempts after the first");
                    }
                    self.check_gang(index, id, state);
                }
                (EventKind::AllocationEnded { outcome, report, .. }, Some(id)) => {
                    let job = state.jobs().get(&id.job);
                    let kind = job.map(|job| job.kind());
                    let is_member = job.is_some_and(|job| job.spec.tasks[0].gang.is_some());
                    if report.is_none() {
                        self.given_up.insert(id);
                    }
                    self.check_end(index, id, *outcome, report.as_ref());
                    if *outcome == Outcome::Preempted {
                        let member = "members of gangs ended for others";
                        self.count(if is_member { member } else { "workers ended for others" });
                    }
                    // A member that is done runs again if another of its world is not.
                    let is_done = *outcome == Outcome::Succeeded && !is_member;
                    if is_done && kind == Some(JobKind::Batch) {
                        self.succeeded.insert(instance(id));
                    }
                }
                (EventKind::AllocationReturned { .. }, Some(id)) => {
                    self.count("attempts that came back");
                    if self.succeeded.contains(&instance(id)) {
                        self.violated(format!("entry {index}: {id} is back, which has succeeded"));
                    }
                }
                (EventKind::AllocationStopping { reason }, _) if reason.contains("guaranteed") => {
                    self.count("workers ended for a guarantee");
                }
                (EventKind::RetryScheduled { .. }, _) => self.count("retries"),
                (EventKind::PlaceReserved { .. }, Some(id)) => {
                    let of_gang = state.is_gang(id.job, id.task);
                    self.count(if of_gang { "places of gangs kept" } else { "places kept" });
                }
                (EventKind::ReservationDropped { .. }, _) => self.count("places kept no longer"),
                (EventKind::DesiredChanged { generation }, _) => {
                    let node = event.node.unwrap_or_default();
                    let before = self.generations.insert(node, *generation).unwrap_or(0);
                    if *generation <= before {
                        self.violated(format!(
                            "node {node} went from generation {before} to {generation}"
                        ));
                    }
                }
                _ => {}
            }
        }
        for node in state.nodes().values() {
            if self.generations.get(&node.id).is_some_and(|known| node.generation < *known) {
                self.violated(format!("generation of node {} went back", node.id));
            }
        }
    }

    /// A member is planned with all others of its world, of which none has begun.
    fn check_gang(&mut self, index: u64, id: AllocationId, state: &ClusterState) {
        let Some(job) = state.jobs().get(&id.job) else { return };
        if job.spec.tasks[0].gang.is_none() {
            return;
        }
        self.gangs.insert(id.job);
        self.count(if id.attempt.0 > 1 { "members begun again" } else { "members planned" });
        let all = job.spec.tasks[0].count;
        let worlds =
            (0..all).map(|instance| AllocationId { instance: InstanceIndex(instance), ..id });
        let missing = worlds.filter(|member| !state.is_live(*member)).count();
        if missing > 0 {
            self.violated(format!("entry {index} plans {id}, and {missing} of its gang are not"));
        }
    }

    fn check_end(
        &mut self,
        index: u64,
        id: AllocationId,
        outcome: Outcome,
        report: Option<&EndReport>,
    ) {
        let Some(report) = report else {
            if outcome == Outcome::Succeeded {
                self.violated(format!("entry {index}: {id} succeeded and nobody saw it"));
            }
            if self.leased.contains(&id) {
                self.violated(format!("entry {index} gives up exclusive {id}, which lives"));
            }
            return;
        };
        if self.live.contains(&id) {
            self.violated(format!("entry {index}: {id} is reported ended and lives"));
        }
        let truth = self.exits.get(&id).copied();
        let clean =
            truth.is_some_and(|exit| exit.recorded && exit.code == Some(0) && !exit.stop_requested);
        let exited = report.cause == EndCause::Exited;
        if exited && truth.is_none_or(|exit| exit.code != report.exit_code) {
            self.violated(format!("entry {index}: {id} ended as {truth:?}, not {report:?}"));
        }
        if clean && !exited {
            let cause = report.cause;
            self.violated(format!("entry {index}: {id} exited with 0, reported as {cause:?}"));
        }
        match report.cause {
            EndCause::HostRebooted => self.count("ends by reboot"),
            EndCause::Fenced => self.count("ends by fencing"),
            EndCause::Unseen => self.count("ends unseen"),
            EndCause::Exited
            | EndCause::Stopped
            | EndCause::CannotStart
            | EndCause::PortTaken
            | EndCause::OutOfMemory
            | EndCause::HostFault => {}
        }
    }

    /// A submit was answered.
    pub fn acknowledge(&mut self, key: &str, job: JobId, version: u32) {
        self.count("submits acknowledged");
        let known = self.acknowledged.insert(key.to_owned(), (job, version));
        if known.is_some_and(|known| known != (job, version)) {
            self.violated(format!("key {key} was answered {known:?}, then {job} {version}"));
        }
        match self.keys.get(key) {
            Some(first) if *first == (job, version) => {}
            first => self.violated(format!("key {key} was answered {job}, applied is {first:?}")),
        }
    }

    pub fn acknowledged_keys(&self) -> Vec<String> {
        self.acknowledged.keys().cloned().collect()
    }

    /// Everything acknowledged by now is in the state of any entry from here
    /// on.
    fn check_acknowledged(&mut self, index: u64, state: &ClusterState) {
        let names = work::NAMESPACES.map(work::name);
        let missing: Vec<String> = self
            .acknowledged
            .iter()
            .filter(|(key, (job, _))| {
                let row = |name: &Name| state.keys().get(&(name.clone(), (*key).clone()));
                let row = names.iter().find_map(row);
                row.is_none_or(|row| row.job != *job) || state.jobs().get(job).is_none()
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in missing {
            self.violated(format!("at entry {index} the acknowledged submit {key} is not there"));
        }
    }

    pub fn restored(&mut self, by: u64, state: &ClusterState) {
        self.count("snapshots restored");
        let index = state.applied_index();
        match self.log.range(..=index).next_back() {
            Some((_, (_, known))) if *known != state.hash() => {
                self.violated(format!("scheduler {by} restored another state at {index}"));
            }
            Some(_) | None => {}
        }
        for broken in invariants::check(state) {
            self.violated(format!("restored at {index}: {broken}"));
        }
    }

    /// A process truly begins.
    pub fn process_started(&mut self, id: AllocationId) {
        self.count("processes started");
        if !self.started.insert(id) {
            self.violated(format!("{id} is started a second time"));
        }
        if !self.planned.contains(&id) {
            self.violated(format!("{id} is started and was never planned"));
        }
        if self.gangs.contains(&id.job) {
            let before = self.live.iter().filter(|other| {
                (other.job, other.task) == (id.job, id.task) && other.attempt < id.attempt
            });
            if let Some(other) = before.copied().find(|other| !self.given_up.contains(other)) {
                self.violated(format!("{id} begins beside {other} of the world before"));
            }
        }
        self.live.insert(id);
    }

    /// Its job is exclusive: it ends with its lease.
    pub fn process_leased(&mut self, id: AllocationId) {
        self.leased.insert(id);
    }

    /// Its shim was killed, so that its lease may end with nobody to see to it.
    pub fn process_unwatched(&mut self, id: AllocationId) {
        self.leased.remove(&id);
    }

    pub fn process_ended(&mut self, id: AllocationId, exit: Exit) {
        self.live.remove(&id);
        self.leased.remove(&id);
        self.exits.insert(id, exit);
    }
}

/// Every entry names a proposer of its own, so this tells entries apart.
pub fn entry_hash(entry: &Entry) -> u64 {
    let mut fold = Fold::default();
    fold.bytes(&log::encode_entry(entry));
    fold.0
}
