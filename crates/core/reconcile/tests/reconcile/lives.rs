//! Random clusters: whatever happened to them, apply refuses nothing that the
//! leader proposes, and when nothing else happens the leader soon falls silent.

use std::collections::BTreeSet;

use berth_model::{
    AllocationId, AllocationState, Drain, DurationMs, JobId, JobKind, NodeId, StateMs, StopIntent,
};
use berth_state::{Command, JobChange, NodeRow, Observed, Purpose};
use proptest::prelude::*;

use crate::world::{World, job};

#[derive(Clone, Debug)]
enum Move {
    Submit {
        kind: u8,
        name: u8,
        variant: u8,
    },
    Change {
        job: u8,
        change: u8,
    },
    Place {
        job: u8,
        instance: u32,
        node: u64,
    },
    Observe {
        allocation: u8,
        what: u8,
    },
    Purpose {
        node: u64,
        what: u8,
    },
    Register {
        node: u64,
    },
    /// Time passes; bit `n` of `heard` says whether node `n` spoke.
    Wait {
        ms: u64,
        heard: u8,
    },
    Pause {
        ms: u64,
    },
    Tick,
}

const NODES: u64 = 5;

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        3 => (0..3u8, 0..3u8, 0..8u8)
            .prop_map(|(kind, name, variant)| Move::Submit { kind, name, variant }),
        1 => (any::<u8>(), 0..5u8).prop_map(|(job, change)| Move::Change { job, change }),
        8 => (any::<u8>(), 0..6u32, 1..=NODES)
            .prop_map(|(job, instance, node)| Move::Place { job, instance, node }),
        6 => (any::<u8>(), 0..7u8)
            .prop_map(|(allocation, what)| Move::Observe { allocation, what }),
        2 => (1..=NODES, 0..4u8).prop_map(|(node, what)| Move::Purpose { node, what }),
        1 => (1..=NODES).prop_map(|node| Move::Register { node }),
        5 => (prop_oneof![0..9_000u64, 0..200_000u64, 0..900_000_000u64], any::<u8>())
            .prop_map(|(ms, heard)| Move::Wait { ms, heard }),
        1 => (0..100_000u64).prop_map(|ms| Move::Pause { ms }),
        6 => Just(Move::Tick),
    ]
}

fn pick<T: Copy>(list: &[T], seed: u8) -> Option<T> {
    (!list.is_empty()).then(|| list[usize::from(seed) % list.len()])
}

fn play(world: &mut World, step: &Move) {
    let jobs: Vec<JobId> = world.state.jobs().iter().map(|(id, _)| *id).collect();
    let live: Vec<AllocationId> = world.state.allocations().iter().map(|(id, _)| *id).collect();
    match *step {
        Move::Submit { kind, name, variant } => submit(world, kind, name, variant),
        Move::Change { job, change } => {
            let Some(job) = pick(&jobs, job) else { return };
            let change = [
                JobChange::Stop { reason: String::new() },
                JobChange::Restart,
                JobChange::Hold,
                JobChange::Release,
                JobChange::Rollback { to_version: 0 },
            ][usize::from(change)]
            .clone();
            let _ = world.one(Command::ChangeJob { job, if_version: None, change });
        }
        Move::Place { job, instance, node } => {
            let Some(job) = pick(&jobs, job) else { return };
            let daemon = world.state.jobs().get(&job).unwrap().kind() == JobKind::Daemon;
            let instance = if daemon { u32::try_from(node).unwrap() } else { instance };
            world.try_place(job, instance, node);
        }
        Move::Observe { allocation, what } => {
            let Some(id) = pick(&live, allocation) else { return };
            match what {
                0 | 1 => world.exit(id, i32::from(what)),
                2 => world.observe(id, Observed::Unhealthy { detail: "x".to_owned() }),
                3 => world.observe(id, Observed::Unkillable),
                _ => world.ready(id),
            }
        }
        Move::Purpose { node, what } => {
            let deadline = Some(StateMs(world.now + 30_000));
            let purposes = [
                Purpose::Work,
                Purpose::Cordoned,
                Purpose::Draining(Drain { deadline: None }),
                Purpose::Draining(Drain { deadline }),
            ];
            let purpose = purposes[usize::from(what)];
            let _ = world.one(Command::SetSchedulable { node: NodeId(node), purpose });
        }
        // A node that was forgotten comes back under another number.
        Move::Register { node } => {
            let known = world.state.nodes().get(&NodeId(node)).is_some();
            if known {
                world.register(node);
            }
        }
        Move::Wait { ms, heard } => {
            world.now += ms;
            for node in (1..=NODES).filter(|node| heard & (1 << node) != 0) {
                world.soft.hear(NodeId(node), StateMs(world.now));
            }
        }
        Move::Pause { ms } => {
            world.now += ms;
            world.soft.restart_windows(StateMs(world.now));
        }
        Move::Tick => {
            step_and_check(world);
        }
    }
}

fn submit(world: &mut World, kind: u8, name: u8, variant: u8) {
    let kind = [JobKind::Batch, JobKind::Service, JobKind::Daemon][usize::from(kind)];
    let count = if kind == JobKind::Daemon { 1 } else { 1 + u32::from(variant % 4) };
    // A name stands for one kind: an update may not change it.
    let mut spec = job(kind, &format!("{}-{name}", kind.name()), count);
    spec.tasks[0].command.push(format!("{}", variant / 2));
    spec.exclusive = variant.is_multiple_of(3);
    spec.max_disconnect = DurationMs(u64::from(variant) * 20_000);
    let limit = DurationMs(1 + u64::from(variant) * 20_000);
    spec.update.progress_deadline = kind.is_named().then_some(limit);
    spec.tasks[0].time_limit = (variant % 2 == 1).then_some(DurationMs(50_000));
    if kind == JobKind::Batch {
        spec.deadline = (variant > 5).then_some(DurationMs(100_000));
    }
    world.submit(spec);
}

/// One tick, of which apply refuses nothing, and which takes no more replicas
/// than it may.
fn step_and_check(world: &mut World) -> usize {
    let before = world.state.clone();
    let commands = world.step();
    let mut ordered = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for command in &commands {
        let Command::StopAllocations { allocations, intent, reason } = command else { continue };
        assert!(!reason.is_empty());
        for id in allocations {
            assert!(ordered.insert(*id), "two orders about {id} in {commands:?}");
            let row = before.allocations().get(id).expect("only what lives is stopped");
            assert_eq!(row.state.stop_intent(), None, "{id} was being stopped");
            let gentle = match intent {
                StopIntent::Replace => true,
                StopIntent::Drain => !is_drain_over(world, row.node),
                StopIntent::Cancel
                | StopIntent::TimeOut
                | StopIntent::Unhealthy
                | StopIntent::Preempt => false,
            };
            let service = before.jobs().get(&id.job).unwrap().kind() == JobKind::Service;
            if gentle && service && row.state == (AllocationState::Running { ready: true }) {
                assert!(taken.insert((id.job, id.task)), "two of one task in {commands:?}");
            }
        }
    }
    commands.len()
}

fn is_drain_over(world: &World, node: NodeId) -> bool {
    let row = world.state.nodes().get(&node).unwrap();
    let Purpose::Draining(drain) = row.purpose else { return false };
    drain.deadline.is_some_and(|deadline| deadline <= StateMs(world.now))
}

/// More ticks than any chain of consequences at one moment is long: silent,
/// given up, down, and what follows from each.
const TICKS_TO_REST_MAX: usize = 12;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_refused_and_the_leader_comes_to_rest(
        steps in proptest::collection::vec(moves(), 1..80),
    ) {
        let mut world = World::new(NODES);
        for step in &steps {
            play(&mut world, step);
        }
        let mut ticks = 0;
        while step_and_check(&mut world) > 0 {
            ticks += 1;
            prop_assert!(ticks < TICKS_TO_REST_MAX, "still orders: {:?}", world.tick());
        }
        let again = world.tick();
        prop_assert!(again.is_empty(), "the same view, other orders: {again:?}");
    }

    #[test]
    fn a_drained_node_is_empty_in_the_end(
        steps in proptest::collection::vec(moves(), 1..60),
        node in 1..=NODES,
    ) {
        let mut world = World::new(NODES);
        for step in &steps {
            play(&mut world, step);
        }
        let Some(row) = world.state.nodes().get(&NodeId(node)) else { return Ok(()) };
        let name = row.name.clone();
        let deadline = Some(StateMs(world.now + 10_000));
        world.set(node, Purpose::Draining(Drain { deadline }));
        // Agents end what they are told to end; nothing else is done.
        for _ in 0..20 {
            world.pass(1_000);
            step_and_check(&mut world);
            let stopping: Vec<AllocationId> = world
                .state
                .allocations()
                .values()
                .filter(|row| row.state.stop_intent().is_some())
                .map(|row| row.id)
                .collect();
            for id in stopping {
                world.exit(id, 143);
            }
        }
        let left = world.state.nodes().values().find(|row| row.name == name);
        prop_assert!(left.is_none_or(|row: &std::sync::Arc<NodeRow>| row.live.is_empty()));
    }
}
