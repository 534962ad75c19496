//! Who leaves a host that runs out of memory, and when.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::{
    AllocationId, Attempt, Claim, CpuMilli, DurationMs, Gang, InstanceIndex, JobKind, JobSpec,
    Limits, MemoryBytes, NodeId, PortClaim, Preemption, QualityClass, StateMs, StopIntent,
    TaskIndex,
};
use berth_reconcile::{HostUse, reliefs};
use berth_state::{Command, Placement, Purpose, ScoreParts};
use proptest::prelude::*;

use crate::hosts::{BEAT_MS, Hosts};
use crate::world::{job, name, stopped};

impl Hosts {
    fn hear_memory(&mut self, node: u64, percent: u32) {
        let used = HostUse { cpu_milli: None, memory_milli: Some(percent * 10) };
        self.hear_of(NodeId(node), used);
    }

    /// What the leader proposes is granted; who leaves.
    fn leaving(&mut self) -> Vec<AllocationId> {
        self.leaving_where(|_| true)
    }

    fn leaving_where(
        &mut self,
        mut has_place: impl FnMut(AllocationId) -> bool,
    ) -> Vec<AllocationId> {
        let now = self.now();
        self.guard();
        let (nobody, view) = (BTreeSet::new(), self.world.state.clone());
        let found = reliefs(&view, &self.watch, &self.rules, &nobody, &mut has_place, now);
        let mut leaving = Vec::new();
        for relief in found {
            self.watch.has_moved(relief.node, now);
            leaving.extend(stopped(std::slice::from_ref(&relief.command), StopIntent::Drain));
            self.world.one(relief.command).unwrap();
        }
        leaving
    }

    /// Who leaves in so many heartbeats of the first node.
    fn memory_beats(&mut self, count: u64, percent: u32) -> Vec<AllocationId> {
        let mut leaving = Vec::new();
        for _ in 0..count {
            self.world.pass(BEAT_MS);
            self.hear_memory(1, percent);
            leaving.extend(self.leaving());
        }
        leaving
    }
}

/// May be moved at once, and as often as one likes.
fn movable(name: &str, priority: u8, quality: QualityClass) -> JobSpec {
    let mut spec = job(JobKind::Batch, name, 1);
    spec.priority = priority;
    spec.preemption = Preemption { min_run: DurationMs(0), ..Preemption::default() };
    let task = &mut spec.tasks[0];
    task.restart.attempts = None;
    (task.cpu, task.memory) = (JobSpec::CPU_DEFAULT, JobSpec::MEMORY_DEFAULT);
    match quality {
        QualityClass::BestEffort => {}
        QualityClass::Burstable => task.cpu = CpuMilli(200),
        QualityClass::Guaranteed => {
            (task.cpu, task.memory) = (CpuMilli(1_000), MemoryBytes(1 << 30));
            let (cpu, memory) = (Some(task.cpu), Some(task.memory));
            task.limits = Limits { cpu, memory, ..Limits::default() };
        }
    }
    assert_eq!(task.quality(), quality);
    spec
}

#[test]
fn who_can_best_be_spared_leaves_first() {
    use QualityClass::{BestEffort, Burstable, Guaranteed};
    let check = |jobs: &[(u8, QualityClass)], expected: &[usize]| {
        let mut hosts = Hosts::new(2);
        let mut here = Vec::new();
        for (number, (priority, quality)) in jobs.iter().enumerate() {
            let spec = movable(&format!("job-{number}"), *priority, *quality);
            let id = hosts.world.submit(spec);
            here.push(hosts.world.run(id, 0, 1));
            // Who has run for longer loses more.
            hosts.world.pass(1_000);
        }
        let mut left = Vec::new();
        while left.len() < expected.len() {
            let leaving = hosts.memory_beats(20, 95);
            let [one] = leaving.as_slice() else { panic!("one leaves at a time: {leaving:?}") };
            left.push(here.iter().position(|id| id == one).unwrap());
            hosts.world.exit(*one, 143);
        }
        assert_eq!(left, expected, "{jobs:?}");
    };
    check(&[(50, Guaranteed), (50, Burstable), (50, BestEffort)], &[2, 1, 0]);
    check(&[(10, Guaranteed), (90, BestEffort)], &[1, 0]);
    check(&[(50, BestEffort), (10, BestEffort), (30, BestEffort)], &[1, 2, 0]);
    check(&[(50, Burstable), (50, Burstable)], &[1, 0]);
}

#[test]
fn nobody_else_is_asked_before_what_left_shows() {
    let mut hosts = Hosts::new(2);
    let mut here = Vec::new();
    for number in 0..4 {
        let spec = movable(&format!("job-{number}"), 50, QualityClass::BestEffort);
        let id = hosts.world.submit(spec);
        here.push(hosts.world.run(id, 0, 1));
    }
    assert_eq!(hosts.memory_beats(5, 95), [], "it has not been watched for long enough");
    let first = hosts.memory_beats(1, 95);
    assert_eq!(first.len(), 1);
    assert_eq!(hosts.memory_beats(30, 95), [], "the first has not ended");
    hosts.world.exit(first[0], 143);
    assert_eq!(hosts.memory_beats(4, 95), [], "it has just ended");
    assert_eq!(hosts.memory_beats(2, 95).len(), 1);
    // A worker that ends within a beat was asked to all the same.
    let ids: Vec<AllocationId> =
        hosts.world.state.allocations().values().map(|row| row.id).collect();
    let ending = |id: &&AllocationId| {
        hosts.world.state.allocations().get(*id).unwrap().state.stop_intent().is_some()
    };
    let second = *ids.iter().find(ending).unwrap();
    hosts.world.exit(second, 143);
    assert_eq!(hosts.memory_beats(4, 95), []);
    assert_eq!(hosts.memory_beats(10, 84), [], "there is enough again");
    assert_eq!(hosts.memory_beats(30, 89), [], "between the marks of a node that is open");
}

#[test]
fn a_moved_instance_waits_again_and_has_lost_no_attempt() {
    let mut hosts = Hosts::new(2);
    let id = hosts.world.submit(movable("one", 50, QualityClass::BestEffort));
    let here = hosts.world.run(id, 0, 1);
    hosts.hear_memory(1, 93);
    assert_eq!(hosts.memory_beats(9, 93), [here]);
    let row = hosts.world.state.allocations().get(&here).unwrap();
    for part in ["93 % of the memory of node node-1", "above 90 %", "best-effort", "priority 50"] {
        assert!(row.reason.contains(part), "{}", row.reason);
    }
    hosts.world.exit(here, 143);
    let task = hosts.world.state.tasks().get(&(id, here.task)).unwrap();
    assert!(task.pending.contains(0));
    assert_eq!(task.failures_of(0), 0);
    assert!(hosts.world.try_place(id, 0, 2).is_some());
}

#[test]
fn who_must_stay_stays() {
    type Change = fn(&mut JobSpec);
    let check = |what: &str, change: Change, leaves: bool| {
        let mut hosts = Hosts::new(2);
        let mut spec = movable("one", 50, QualityClass::BestEffort);
        change(&mut spec);
        let count = spec.tasks[0].count;
        let id = hosts.world.submit(spec);
        for instance in 0..count {
            hosts.world.run(id, instance, 1);
        }
        assert_eq!(!hosts.memory_beats(20, 99).is_empty(), leaves, "{what}");
    };
    check("what may move", |_| {}, true);
    check("not preemptible", |spec| spec.preemption.preemptible = false, false);
    check("too young", |spec| spec.preemption.min_run = DurationMs(3_600_000), false);
    check("no further attempt", |spec| spec.tasks[0].restart.attempts = Some(0), false);
    check("a service's only replica", |spec| spec.kind = JobKind::Service, false);
}

#[test]
fn a_gang_is_left_alone() {
    let mut hosts = Hosts::new(2);
    let mut spec = movable("gang", 50, QualityClass::BestEffort);
    spec.tasks[0].gang = Some(Gang {});
    let id = hosts.world.submit(spec);
    let member = AllocationId::first_of(id, TaskIndex(0), InstanceIndex(0));
    let member = AllocationId { attempt: Attempt::FIRST, ..member };
    let ports = vec![PortClaim { name: name("master"), port: 20_000 }];
    let claim = Claim { ports, ..Claim::default() };
    let placement = Placement::new(member, NodeId(1), claim, ScoreParts::default());
    hosts.world.one(Command::Place { placements: vec![placement] }).unwrap();
    hosts.world.ready(member);
    assert!(hosts.world.is_live(member));
    assert_eq!(hosts.memory_beats(20, 99), []);
}

#[test]
fn nobody_leaves_without_a_place_or_one_that_is_emptied() {
    let mut hosts = Hosts::new(2);
    let first = hosts.world.submit(movable("first", 10, QualityClass::BestEffort));
    let second = hosts.world.submit(movable("second", 20, QualityClass::BestEffort));
    let (first, second) = (hosts.world.run(first, 0, 1), hosts.world.run(second, 0, 1));
    for _ in 0..20 {
        hosts.world.pass(BEAT_MS);
        hosts.hear_memory(1, 99);
        assert_eq!(hosts.leaving_where(|_| false), []);
    }
    let deadline = Some(StateMs(1 << 40));
    hosts.world.set(1, Purpose::Draining(berth_model::Drain { deadline }));
    assert_eq!(hosts.memory_beats(10, 99), [], "it is being emptied");
    hosts.world.set(1, Purpose::Cordoned);
    hosts.world.pass(BEAT_MS);
    hosts.hear_memory(1, 99);
    // Who has a place elsewhere goes instead of one who has none.
    assert_eq!(hosts.leaving_where(|id| id != first), [second]);
}

proptest! {
    /// Hosts whose memory is what runs on them: all of them come to have enough, no more than
    /// needed leave, and six in a minute at the most.
    #[test]
    fn hosts_come_to_have_enough(
        jobs in prop::collection::vec((1..30_u32, 0..100_u8), 1..14),
    ) {
        let mut hosts = Hosts::new(2);
        let mut sizes: BTreeMap<AllocationId, u32> = BTreeMap::new();
        for (number, (percent, priority)) in jobs.iter().enumerate() {
            let id = hosts.world.submit(movable(&format!("job-{number}"), *priority, QualityClass::BestEffort));
            sizes.insert(hosts.world.run(id, 0, 1), *percent);
        }
        let mut left: Vec<u64> = Vec::new();
        for _ in 0..400 {
            hosts.world.pass(BEAT_MS);
            let used: u32 = sizes.values().sum::<u32>().min(100);
            hosts.hear_memory(1, used);
            let was_short = hosts.world.state.nodes().get(&NodeId(1)).unwrap().guards.memory.is_some();
            for id in hosts.leaving() {
                prop_assert!(used > 90 || (was_short && used >= 85), "{used} %");
                left.push(hosts.world.now);
                hosts.world.exit(id, 143);
                sizes.remove(&id);
            }
        }
        let used: u32 = sizes.values().sum();
        prop_assert!(used <= 90, "{used} %");
        for pair in left.windows(7) {
            prop_assert!(pair[6] - pair[0] >= 60_000, "{left:?}");
        }
    }
}
