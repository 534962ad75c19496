//! Silence, and what it is taken for.

use berth_model::{DurationMs, JobKind, NodeId, NodeState, StateMs};
use berth_reconcile::Liveness;
use berth_state::Command;

use crate::world::{World, job};

/// Silent from here on is everything but `heard`.
fn silence(world: &mut World, ms: u64, heard: &[u64]) {
    world.now += ms;
    for node in heard {
        world.soft.hear(NodeId(*node), StateMs(world.now));
    }
}

fn state_of(world: &World, node: u64) -> NodeState {
    world.state.nodes().get(&NodeId(node)).unwrap().state
}

/// The first moment, in milliseconds of silence, at which `id` is given up.
fn given_up_after(world: &mut World, node: u64, others: &[u64]) -> u64 {
    let begin = world.now;
    loop {
        silence(world, 50, others);
        assert!(world.now - begin < 1_000_000, "never given up");
        world.step();
        if world.state.nodes().get(&NodeId(node)).unwrap().live.is_empty() {
            return world.now - begin;
        }
    }
}

#[test]
fn an_idle_node_is_disconnected_and_then_down() {
    let mut world = World::new(2);
    for (silent_ms, expected) in [
        (5_999, NodeState::Ready),
        (6_000, NodeState::Disconnected),
        (9_999, NodeState::Disconnected),
        (10_000, NodeState::Down),
        (1_000_000, NodeState::Down),
    ] {
        let wait_ms = 1_000 + silent_ms - world.now;
        silence(&mut world, wait_ms, &[2]);
        world.step();
        assert_eq!(state_of(&world, 1), expected, "after {silent_ms} ms of silence");
        assert_eq!(state_of(&world, 2), NodeState::Ready);
        assert!(world.tick().is_empty(), "it was said once");
    }
}

#[test]
fn a_job_decides_how_long_its_work_waits_for_a_silent_node() {
    let grace_ms = 30_000;
    // Lease, margin, and the grace with 5 % for clocks that drift apart.
    let certain_ms = 10_000 + 2_000 + grace_ms + grace_ms / 20;
    for (max_disconnect_ms, exclusive, expected_ms) in [
        (10_000, false, 10_000),
        (60_000, false, 60_000),
        // Never before the node counts as silent at all.
        (0, false, 6_000),
        (10_000, true, certain_ms),
        (60_000, true, 60_000),
        (0, true, certain_ms),
    ] {
        let mut world = World::new(3);
        let mut spec = job(JobKind::Service, "web", 1);
        spec.max_disconnect = DurationMs(max_disconnect_ms);
        spec.exclusive = exclusive;
        spec.tasks[0].stop.grace = DurationMs(grace_ms);
        let id = world.submit(spec);
        world.run(id, 0, 1);
        let after = given_up_after(&mut world, 1, &[2, 3]);
        let bounds = expected_ms..=expected_ms + 100;
        let of = format!("max_disconnect {max_disconnect_ms}, exclusive {exclusive}");
        assert!(bounds.contains(&after), "{of}: given up after {after}, not {expected_ms}");
        // Its replica waits for another place.
        assert_eq!(world.state.queue_len(), 1);
    }
}

#[test]
fn a_new_version_does_not_shorten_the_wait_for_what_runs_an_older_one() {
    let grace_ms = 30_000;
    let certain_ms = 10_000 + 2_000 + grace_ms + grace_ms / 20;
    let mut world = World::new(3);
    let mut spec = job(JobKind::Service, "web", 1);
    spec.exclusive = true;
    spec.tasks[0].stop.grace = DurationMs(grace_ms);
    let id = world.submit(spec.clone());
    world.run(id, 0, 1);
    spec.exclusive = false;
    spec.tasks[0].stop.grace = DurationMs(0);
    world.submit(spec);
    let after = given_up_after(&mut world, 1, &[2, 3]);
    let bounds = certain_ms..=certain_ms + 100;
    assert!(bounds.contains(&after), "given up after {after}, not {certain_ms}");
}

#[test]
fn a_silent_node_that_holds_patient_work_is_not_down() {
    let mut world = World::new(3);
    let mut spec = job(JobKind::Service, "patient", 1);
    spec.max_disconnect = DurationMs::from_secs(3_600);
    let patient = world.submit(spec);
    let hasty = world.submit(job(JobKind::Service, "hasty", 1));
    let kept = world.run(patient, 0, 1);
    let lost = world.run(hasty, 0, 1);
    silence(&mut world, 60_000, &[2, 3]);
    world.step();
    world.step();
    assert!(world.is_live(kept) && !world.is_live(lost));
    assert_eq!(state_of(&world, 1), NodeState::Disconnected);
    silence(&mut world, 3_600_000, &[2, 3]);
    world.step();
    world.step();
    assert!(!world.is_live(kept));
    assert_eq!(state_of(&world, 1), NodeState::Down);
}

#[test]
fn a_node_that_came_back_is_left_alone() {
    let mut world = World::new(3);
    let id = world.submit(job(JobKind::Service, "web", 1));
    let kept = world.run(id, 0, 1);
    silence(&mut world, 8_000, &[2, 3]);
    world.step();
    assert_eq!(state_of(&world, 1), NodeState::Disconnected);
    world.register(1);
    for _ in 0..10 {
        world.pass(1_000);
        assert!(world.step().is_empty());
    }
    assert!(world.is_live(kept));
    assert_eq!(state_of(&world, 1), NodeState::Ready);
}

#[test]
fn an_order_about_an_earlier_session_is_refused() {
    let mut world = World::new(3);
    silence(&mut world, 7_000, &[2, 3]);
    let commands = world.tick();
    assert!(matches!(commands[..], [Command::DisconnectNode { .. }]), "{commands:?}");
    world.register(1);
    assert!(world.entry(commands)[0].is_err(), "the silence was over when it arrived");
    assert_eq!(state_of(&world, 1), NodeState::Ready);
}

#[test]
fn many_nodes_silent_together_slow_expiry_down() {
    use Liveness::{Braked, Normal};
    for (total, silent, expected) in [
        (1, 1, Normal),
        (2, 2, Normal),
        (3, 2, Normal),
        (3, 3, Braked),
        (6, 2, Normal),
        (6, 3, Braked),
        (10, 3, Normal),
        (10, 4, Braked),
        (100, 30, Normal),
        (100, 31, Braked),
    ] {
        let mut world = World::new(total);
        let heard: Vec<u64> = (silent + 1..=total).collect();
        silence(&mut world, 6_000, &heard);
        let (now, of) = (StateMs(world.now), format!("{silent} of {total}"));
        assert_eq!(Liveness::judge(&world.state, &world.soft, &world.rules, now), expected, "{of}");
        let disconnected = world.step().len() as u64;
        assert_eq!(disconnected, if expected == Normal { silent } else { 0 }, "{of}");
        // The brake delays; it does not keep dead nodes for ever.
        silence(&mut world, 60_000 - 6_000, &heard);
        world.step();
        for node in 1..=silent {
            assert_ne!(state_of(&world, node), NodeState::Ready, "{of}");
        }
        silence(&mut world, 40_000, &heard);
        world.step();
        for node in 1..=silent {
            assert_eq!(state_of(&world, node), NodeState::Down, "{of}");
        }
    }
}

#[test]
fn nodes_that_are_down_already_do_not_pull_the_brake() {
    let mut world = World::new(10);
    for dead in [2, 4, 6, 8] {
        let heard: Vec<u64> = (dead + 1..=10).collect();
        silence(&mut world, 10_000, &heard);
        world.step();
        world.step();
        assert_eq!(state_of(&world, dead), NodeState::Down);
    }
    assert_eq!(state_of(&world, 9), NodeState::Ready);
}

#[test]
fn a_leader_that_was_asleep_begins_every_window_again() {
    let mut world = World::new(5);
    let id = world.submit(job(JobKind::Service, "web", 1));
    let kept = world.run(id, 0, 1);
    // It did not run for an hour, and heard nobody.
    world.now += 3_600_000;
    world.soft.restart_windows(StateMs(world.now));
    assert!(world.tick().is_empty());
    silence(&mut world, 5_999, &[]);
    assert!(world.tick().is_empty());
    // One of them is dead in truth, and found out in the usual time.
    silence(&mut world, 1, &[2, 3, 4, 5]);
    world.step();
    assert_eq!(state_of(&world, 1), NodeState::Disconnected);
    silence(&mut world, 4_000, &[2, 3, 4, 5]);
    world.step();
    assert!(!world.is_live(kept));
}

#[test]
fn a_new_leader_expires_nobody_it_has_not_itself_found_silent() {
    let mut world = World::new(4);
    silence(&mut world, 100_000, &[]);
    world.soft = berth_reconcile::SoftState::new(StateMs(world.now));
    assert!(world.tick().is_empty());
    assert_eq!(world.soft.last_heard(NodeId(1)), None);
    silence(&mut world, 6_000, &[1, 2, 3]);
    world.step();
    assert_eq!(state_of(&world, 4), NodeState::Disconnected);
}

#[test]
fn what_was_heard_of_a_node_can_be_forgotten() {
    let mut world = World::new(1);
    world.now += 1_000;
    world.soft.hear(NodeId(1), StateMs(world.now));
    assert_eq!(world.soft.silent_since(NodeId(1)), StateMs(world.now));
    world.soft.forget(NodeId(1));
    assert_eq!(world.soft.last_heard(NodeId(1)), None);
    assert_eq!(world.soft.silent_since(NodeId(1)), StateMs(1_000), "since the watch began");
}

/// The agents of a restored cluster have to be told where it is now.
#[test]
fn a_node_that_a_restored_cluster_awaits_may_be_silent_until_the_waiting_ends() {
    let mut world = World::new(3);
    let restoration = berth_state::Restoration {
        incarnation: 2,
        id: [1; 16],
        instance_key: [2; 16],
        address: "127.0.0.1:7070".to_owned(),
        await_for: DurationMs(60_000),
        await_at_least: DurationMs(0),
    };
    world.state = world.state.restored(&restoration).unwrap().0;
    let begin = world.now;
    silence(&mut world, 59_999, &[]);
    assert_eq!(world.tick(), []);
    silence(&mut world, 1, &[]);
    assert_eq!(world.step()[0], Command::StopAwaiting);
    assert_eq!(world.now - begin, 60_000);
    // From now on they are as silent as any other. So many at once are taken
    // for the leader's own trouble.
    silence(&mut world, 40_000, &[]);
    world.step();
    assert_eq!(state_of(&world, 1), NodeState::Down);
}

#[test]
fn a_leader_that_hears_late_waits_for_that_much_longer() {
    let mut world = World::new(2);
    world.rules = world.rules.heard_late(DurationMs(4_000));
    for (silent_ms, expected) in [
        (9_999, NodeState::Ready),
        (10_000, NodeState::Disconnected),
        (13_999, NodeState::Disconnected),
        (14_000, NodeState::Down),
    ] {
        let wait_ms = 1_000 + silent_ms - world.now;
        silence(&mut world, wait_ms, &[2]);
        world.step();
        assert_eq!(state_of(&world, 1), expected, "after {silent_ms} ms of silence");
    }
}
