//! Replicas that are to end while gateways still have requests under way there.

use std::collections::BTreeSet;

use berth_model::{AllocationId, Drain, DurationMs, JobKind, JobSpec, NodeId, StateMs, StopIntent};
use berth_reconcile::{GATEWAY_SILENCE, GATEWAYS_MAX, Gateways, TooManyGateways};
use berth_state::{Command, Purpose};

use crate::world::{World, job, name, stopped};

fn web(version: u32, count: u32) -> JobSpec {
    let mut spec = job(JobKind::Service, "web", count);
    spec.tasks[0].command.push(format!("v{version}"));
    spec.tasks[0].ports = vec![name("http")];
    spec.route.drain = DurationMs::from_secs(60);
    spec
}

/// Replicas that run, and that are told to end. The leader has listened for long.
fn stopping(count: u32) -> (World, Vec<AllocationId>) {
    let mut world = World::new(2);
    let of = world.submit(web(1, count));
    let ids: Vec<AllocationId> = (0..count).map(|instance| world.run(of, instance, 1)).collect();
    world.pass(GATEWAY_SILENCE.0);
    let (allocations, intent) = (ids.clone(), StopIntent::Replace);
    world.one(Command::StopAllocations { allocations, intent, reason: "r".into() }).unwrap();
    (world, ids)
}

/// A gateway that routes by what there is now tells what it has under way.
fn tell(world: &mut World, gateway: &str, busy: &[AllocationId]) {
    let (index, now) = (world.state.applied_index(), StateMs(world.now));
    let busy = busy.iter().copied().collect();
    world.soft.gateways.hear(gateway, index, busy, now).unwrap();
}

/// Those that are let go, and why.
fn gone(world: &mut World) -> Vec<(Vec<AllocationId>, String)> {
    let let_go = |command| {
        let Command::LetGo { allocations, reason } = command else { return None };
        Some((allocations, reason))
    };
    world.step().into_iter().filter_map(let_go).collect()
}

fn quiet(ids: &[AllocationId]) -> Vec<(Vec<AllocationId>, String)> {
    vec![(ids.to_vec(), "nothing that it was asked is under way any more".to_owned())]
}

#[test]
fn who_has_something_under_way_is_waited_for_and_nobody_else() {
    let (mut world, ids) = stopping(2);
    tell(&mut world, "a", &[ids[0]]);
    tell(&mut world, "b", &[]);
    assert_eq!(gone(&mut world), quiet(&ids[1..]));
    assert_eq!(gone(&mut world), [], "it was said once");
    tell(&mut world, "b", &[ids[0]]);
    tell(&mut world, "a", &[]);
    assert_eq!(gone(&mut world), [], "another one has");
    tell(&mut world, "b", &[]);
    assert_eq!(gone(&mut world), quiet(&ids[..1]));
}

#[test]
fn where_nobody_asks_nobody_is_waited_for() {
    let (mut world, ids) = stopping(1);
    assert_eq!(gone(&mut world), quiet(&ids));
}

/// What it has under way at a replica it may still take from a route of before.
#[test]
fn a_gateway_that_has_not_heard_that_it_ends_is_waited_for() {
    let (mut world, ids) = stopping(1);
    let before = world.state.applied_index() - 1;
    let now = StateMs(world.now);
    world.soft.gateways.hear("a", before, BTreeSet::new(), now).unwrap();
    assert_eq!(gone(&mut world), []);
    tell(&mut world, "a", &[]);
    assert_eq!(gone(&mut world), quiet(&ids));
}

#[test]
fn a_gateway_that_is_gone_is_not_waited_for() {
    let (mut world, ids) = stopping(1);
    tell(&mut world, "a", &ids);
    world.pass(GATEWAY_SILENCE.0 - 1);
    assert_eq!(gone(&mut world), []);
    world.pass(1);
    assert_eq!(gone(&mut world), quiet(&ids));
}

/// A leader that has just begun, or has slept, does not know who is there.
#[test]
fn before_all_gateways_had_their_turn_nobody_is_known_to_be_done() {
    let (mut world, ids) = stopping(1);
    let now = StateMs(world.now);
    world.soft.restart_windows(now);
    assert_eq!(gone(&mut world), []);
    world.pass(GATEWAY_SILENCE.0 - 1);
    assert_eq!(gone(&mut world), []);
    world.pass(1);
    assert_eq!(gone(&mut world), quiet(&ids));
}

#[test]
fn callers_have_their_time_and_no_more() {
    let (mut world, ids) = stopping(1);
    for _ in 0..60 {
        tell(&mut world, "a", &ids);
        assert_eq!(gone(&mut world), []);
        world.pass(1_000);
    }
    tell(&mut world, "a", &ids);
    assert_eq!(gone(&mut world), [(ids, "its callers had their time".to_owned())]);
}

#[test]
fn a_node_that_is_to_be_empty_waits_for_nobody() {
    let (mut world, ids) = stopping(1);
    tell(&mut world, "a", &ids);
    let deadline = StateMs(world.now + 1_000);
    world.set(1, Purpose::Draining(Drain { deadline: Some(deadline) }));
    assert_eq!(gone(&mut world), []);
    world.pass(1_000);
    tell(&mut world, "a", &ids);
    assert_eq!(gone(&mut world), [(ids, "its node is to be empty by now".to_owned())]);
    assert_eq!(world.state.nodes().get(&NodeId(1)).unwrap().live.len(), 1);
}

/// F75: what a roll-out takes the place of ends its answers, however long they take, and the
/// version is not late by that.
#[test]
fn f75_a_roll_out_waits_for_callers_and_is_not_late_by_that() {
    let mut world = World::new(2);
    let mut spec = web(1, 2);
    spec.route.drain = DurationMs::from_secs(1_000);
    spec.update.progress_deadline = Some(DurationMs::from_secs(60));
    let of = world.submit(spec.clone());
    let old = [0, 1].map(|instance| world.run(of, instance, 1));
    spec.tasks[0].command = vec!["v2".to_owned()];
    world.submit(spec);
    world.pass(GATEWAY_SILENCE.0);
    assert_eq!(stopped(&world.step(), StopIntent::Replace), old[..1]);
    for _ in 0..900 {
        tell(&mut world, "a", &old[..1]);
        assert_eq!(world.step(), []);
        world.pass(1_000);
    }
    tell(&mut world, "a", &[]);
    assert_eq!(gone(&mut world), quiet(&old[..1]));
    world.exit(old[0], 0);
    let new = world.place(of, 0, 2);
    world.pass(59_000);
    tell(&mut world, "a", &[]);
    assert_eq!(world.step(), [], "it has as long as ever");
    world.ready(new);
    assert_eq!(stopped(&world.step(), StopIntent::Replace), old[1..]);
}

#[test]
fn so_many_gateways_are_heard_of_and_those_that_are_gone_make_room() {
    let mut gateways = Gateways::default();
    let hear = |gateways: &mut Gateways, name: &str, at: u64| {
        gateways.hear(name, 1, BTreeSet::new(), StateMs(at))
    };
    for number in 0..GATEWAYS_MAX {
        hear(&mut gateways, &number.to_string(), 1_000).unwrap();
    }
    assert_eq!(hear(&mut gateways, "more", 1_000), Err(TooManyGateways));
    assert_eq!(hear(&mut gateways, "7", 1_001), Ok(()), "known");
    assert_eq!(gateways.count(StateMs(1_001)), GATEWAYS_MAX);
    let later = 1_000 + GATEWAY_SILENCE.0;
    assert_eq!(gateways.count(StateMs(later)), 1);
    assert_eq!(hear(&mut gateways, "more", later), Ok(()));
    assert_eq!(gateways.count(StateMs(later)), 2);
}
