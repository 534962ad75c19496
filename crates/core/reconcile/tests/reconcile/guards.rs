//! When a node takes nothing new because its host is short of something, and when it does again.

use berth_model::{DurationMs, Guards, NodeId, Shut};
use berth_reconcile::{GuardRules, HostUse, HostWatch, Marks};
use proptest::prelude::*;

use crate::hosts::{BEAT_MS, Hosts};

const NODE: NodeId = NodeId(1);

impl Hosts {
    fn hear(&mut self, cpu_milli: Option<u32>, memory_milli: Option<u32>) {
        self.hear_of(NODE, HostUse { cpu_milli, memory_milli });
    }

    /// What the leader proposes is granted; the node's guards then.
    fn look(&mut self) -> Guards {
        self.guard();
        self.world.state.nodes().get(&NODE).unwrap().guards
    }

    /// The same for so many heartbeats, the first of them at once.
    fn beats(&mut self, count: u64, cpu_milli: Option<u32>, memory_milli: Option<u32>) -> Guards {
        for _ in 0..count {
            self.hear(cpu_milli, memory_milli);
            self.look();
            self.world.pass(BEAT_MS);
        }
        self.look()
    }

    fn cpu(&mut self, count: u64, percent: u32) -> Option<u8> {
        self.beats(count, Some(percent * 10), None).cpu.map(|shut| shut.used_percent)
    }

    fn memory(&mut self, count: u64, percent: u32) -> Option<u8> {
        self.beats(count, None, Some(percent * 10)).memory.map(|shut| shut.used_percent)
    }
}

#[test]
fn between_the_marks_a_node_stays_what_it_was() {
    let mut hosts = Hosts::new(1);
    assert_eq!(hosts.cpu(20, 85), None, "not above the mark");
    let shut = hosts.cpu(30, 91);
    assert!(shut.is_some_and(|used| used > 85), "{shut:?}");
    assert_eq!(hosts.cpu(20, 83), shut, "as it was when it closed");
    assert_eq!(hosts.cpu(20, 80), shut, "not below the mark");
    assert_eq!(hosts.cpu(30, 79), None);
    assert_eq!(hosts.cpu(20, 84), None, "open again, it stays open below the upper mark");
}

#[test]
fn a_moment_of_load_closes_nothing() {
    let check = |usual: u32, beats: u64, is_shut: bool| {
        let mut hosts = Hosts::new(1);
        hosts.cpu(20, usual);
        assert_eq!(hosts.cpu(beats, 100).is_some(), is_shut, "{usual} %, then 100 for {beats}");
    };
    check(80, 1, false);
    check(50, 5, false);
    check(0, 8, false);
    check(80, 4, true);
    check(50, 9, true);
    check(0, 13, true);
}

#[test]
fn memory_is_what_it_is() {
    let mut hosts = Hosts::new(1);
    assert_eq!(hosts.memory(10, 90), None, "not above the mark");
    assert_eq!(hosts.memory(1, 93), Some(93));
    assert_eq!(hosts.memory(10, 86), Some(93));
    assert_eq!(hosts.memory(1, 84), None);
}

#[test]
fn what_nobody_measured_closes_nothing_and_keeps_nothing_closed() {
    let mut hosts = Hosts::new(1);
    assert_eq!(hosts.beats(30, None, None), Guards::default());
    let shut = hosts.cpu(30, 100);
    assert!(shut.is_some());
    // It reports no more, and its leader still has heard what it said.
    hosts.world.pass(13_000);
    assert!(hosts.look().cpu.is_some(), "a late heartbeat is no news");
    hosts.world.pass(3_000);
    assert_eq!(hosts.look().cpu, None);
    // An agent that says no more how busy it is.
    let mut hosts = Hosts::new(1);
    hosts.cpu(30, 100);
    assert_eq!(hosts.beats(1, None, Some(10)).cpu, None);
}

#[test]
fn a_new_leader_leaves_closed_what_was_until_it_has_heard() {
    let mut hosts = Hosts::new(1);
    assert!(hosts.cpu(30, 95).is_some());
    let again = |hosts: &Hosts| HostWatch::new(hosts.now());
    hosts.watch = again(&hosts);
    assert!(hosts.look().cpu.is_some(), "it knows nothing yet");
    assert!(hosts.cpu(3, 83).is_some(), "between the marks, as its predecessor left it");
    hosts.watch = again(&hosts);
    hosts.world.pass(14_000);
    assert!(hosts.look().cpu.is_some());
    hosts.world.pass(2_000);
    assert_eq!(hosts.look().cpu, None, "it should have heard by now");
    // And closes nothing by the first thing that it hears.
    hosts.watch = again(&hosts);
    assert_eq!(hosts.cpu(1, 100), None);
    assert_eq!(hosts.cpu(3, 100), None);
    assert!(hosts.cpu(2, 100).is_some(), "after as long as it averages over");
}

#[test]
fn a_silent_node_is_not_spoken_of() {
    let mut hosts = Hosts::new(1);
    let shut = hosts.cpu(30, 100);
    hosts.world.disconnect(1);
    hosts.world.pass(60_000);
    assert_eq!(hosts.look().cpu.map(|shut| shut.used_percent), shut);
    hosts.world.register(1);
    assert_eq!(hosts.look().cpu, None, "it is back, and nobody knows how busy it is");
}

#[test]
fn marks_are_settings_and_may_be_none() {
    let mut hosts = Hosts::new(1);
    let marks = |high_percent, low_percent| Some(Marks { high_percent, low_percent });
    hosts.rules = GuardRules { cpu: marks(50, 40), memory: None, window: DurationMs(1_000) };
    let guards = hosts.beats(5, Some(600), Some(1_000));
    let shut = Shut { used_percent: 60, opens_below_percent: 40 };
    assert_eq!(guards, Guards { cpu: Some(shut), memory: None });
    hosts.rules.cpu = marks(50, 30);
    hosts.world.pass(15_000);
    hosts.hear(Some(600), None);
    let shut = Shut { opens_below_percent: 30, ..shut };
    assert_eq!(hosts.look().cpu, Some(shut), "what it waits for now");
    hosts.rules.cpu = None;
    hosts.world.pass(15_000);
    assert_eq!(hosts.look(), Guards::default(), "nobody watches any more");
}

proptest! {
    /// Whatever hosts do, a node closes only above its mark, opens only below it, and changes no
    /// more often than four times in a minute.
    #[test]
    fn a_node_changes_only_beyond_its_marks_and_not_often(
        loads in prop::collection::vec((prop::option::of(0..1001_u32), 0..1001_u32, 1..9_u64), 1..60),
    ) {
        let mut hosts = Hosts::new(1);
        let mut changes: Vec<u64> = Vec::new();
        for (cpu, memory, beats) in loads {
            for _ in 0..beats {
                let before = hosts.look();
                hosts.hear(cpu, Some(memory));
                let after = hosts.look();
                let (used_cpu, used_memory) = hosts.watch.used_percent(NODE, hosts.now());
                if before != after {
                    changes.push(hosts.world.now);
                }
                match (before.memory, after.memory) {
                    (None, Some(shut)) => {
                        prop_assert!(memory > 900 && Some(shut.used_percent) == used_memory);
                    }
                    (Some(_), None) => prop_assert!(memory < 850),
                    (None, None) | (Some(_), Some(_)) => {}
                }
                match (before.cpu, after.cpu) {
                    (None, Some(shut)) => prop_assert!(Some(shut.used_percent) == used_cpu
                        && shut.used_percent > 85),
                    (Some(_), None) => prop_assert!(used_cpu.is_none_or(|used| used <= 80)),
                    (None, None) | (Some(_), Some(_)) => {}
                }
                hosts.world.pass(BEAT_MS);
            }
        }
        for pair in changes.windows(5) {
            prop_assert!(pair[4] - pair[0] >= 60_000, "{changes:?}");
        }
        // It ends with what its host comes to.
        let calm = hosts.beats(40, Some(100), Some(100));
        prop_assert_eq!(calm, Guards::default());
    }
}
