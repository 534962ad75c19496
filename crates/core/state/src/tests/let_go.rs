//! Callers of a replica are let go before it ends.

use berth_model::{
    AllocationId, AllocationState, DeviceHealth, DurationMs, Gang, JobKind, JobSpec, NodeId,
    Preemption, Route, StateMs, StopIntent, WallMs,
};

use super::world::{World, job, name, node_spec};
use crate::{Command, Draining, EventKind, JobChange, Observed, Purpose, Rollout};

/// Asked through `http`, with a minute for its callers.
fn service(count: u32) -> JobSpec {
    let mut spec = job(JobKind::Service, "chat", count, 1);
    spec.tasks[0].ports = vec![name("http")];
    spec.tasks[0].stop.grace = DurationMs::from_secs(10);
    spec.route = Route { drain: DurationMs::from_secs(60), ..Route::default() };
    spec
}

fn run(world: &mut World, spec: &JobSpec, instance: u32) -> AllocationId {
    let known = world.state.jobs().values().map(|row| row.id).next();
    let of = known.unwrap_or_else(|| world.submit(spec));
    let id = world.place(of, instance).unwrap();
    world.observe(id, Observed::Running { ready: true, started_at: WallMs(1) });
    id
}

fn stop(world: &mut World, id: AllocationId, intent: StopIntent) {
    let (allocations, reason) = (vec![id], "no use".to_owned());
    world.one(Command::StopAllocations { allocations, intent, reason }).unwrap();
}

fn let_go(world: &mut World, id: AllocationId) {
    let reason = "nothing is under way".to_owned();
    world.one(Command::LetGo { allocations: vec![id], reason }).unwrap();
}

fn draining(world: &World, id: AllocationId) -> Option<Draining> {
    world.state.allocations().get(&id).unwrap().draining
}

/// How much longer its callers have.
fn left(world: &World, id: AllocationId) -> Option<u64> {
    draining(world, id).map(|draining| draining.by.0 - world.state.cluster().state_ms.0)
}

fn generation(world: &World) -> u64 {
    world.state.nodes().get(&NodeId(1)).unwrap().generation
}

#[test]
fn an_agent_is_told_once_the_callers_are_gone() {
    let mut world = World::new(1);
    let id = run(&mut world, &service(1), 0);
    stop(&mut world, id, StopIntent::Replace);
    let index = world.state.applied_index();
    let by = StateMs(world.state.cluster().state_ms.0 + 60_000);
    assert_eq!(draining(&world, id), Some(Draining { by, since_index: index }));
    let stopping = AllocationState::Stopping(StopIntent::Replace);
    assert_eq!(world.state.allocations().get(&id).unwrap().state, stopping);
    // Behind it stands only that the node's orders have changed.
    let told = |world: &World| {
        let mut events = world.events.iter().rev();
        assert!(matches!(events.next().unwrap().kind, EventKind::DesiredChanged { .. }));
        events.next().unwrap().kind.clone()
    };
    let reason = "no use; its callers have up to 60 s".to_owned();
    assert_eq!(told(&world), EventKind::AllocationStopping { reason });
    let before = generation(&world);
    let_go(&mut world, id);
    assert_eq!(draining(&world, id), None);
    assert!(generation(&world) > before, "the agent is told by that");
    let reason = "nothing is under way".to_owned();
    assert_eq!(told(&world), EventKind::AllocationStopping { reason });
    // Said again it is nothing new.
    let (before, events) = (generation(&world), world.events.len());
    let_go(&mut world, id);
    assert_eq!((generation(&world), world.events.len()), (before, events));
    // Its callers are gone for good.
    stop(&mut world, id, StopIntent::Cancel);
    assert_eq!(draining(&world, id), None);
    world.exit(id, 0);
    assert!(world.state.allocations().is_empty());
}

#[test]
fn how_long_depends_on_why_it_ends() {
    let check = |intent: StopIntent, expected: Option<u64>| {
        let mut world = World::new(1);
        let id = run(&mut world, &service(1), 0);
        stop(&mut world, id, intent);
        assert_eq!(left(&world, id), expected, "{intent:?}");
    };
    check(StopIntent::Cancel, Some(60_000));
    check(StopIntent::Drain, Some(60_000));
    check(StopIntent::Replace, Some(60_000));
    check(StopIntent::Preempt, Some(10_000));
    check(StopIntent::Unhealthy, None);
    check(StopIntent::TimeOut, None);
}

/// What is asked by nobody, has begun to be asked by nobody, or never waits.
#[test]
fn what_has_no_callers_ends_at_once() {
    let check = |change: fn(&mut JobSpec), runs: bool| {
        let mut world = World::new(1);
        let mut spec = service(1);
        change(&mut spec);
        let of = world.submit(&spec);
        let id = world.place(of, 0).unwrap();
        if runs {
            world.observe(id, Observed::Running { ready: false, started_at: WallMs(1) });
        }
        stop(&mut world, id, StopIntent::Cancel);
        draining(&world, id).is_some()
    };
    assert!(check(|_| (), true), "not ready any more, and something may be under way");
    assert!(!check(|_| (), false), "it never ran");
    let without_ports: fn(&mut JobSpec) = |spec| {
        spec.tasks[0].ports.clear();
        spec.route = Route::default();
    };
    assert!(!check(without_ports, true));
    assert!(!check(|spec| spec.route.drain = DurationMs::ZERO, true));
    let asked_by_nobody: fn(&mut JobSpec) = |spec| {
        spec.kind = JobKind::Batch;
        spec.route = Route::default();
    };
    assert!(!check(asked_by_nobody, true));
}

#[test]
fn the_time_only_gets_shorter() {
    let mut world = World::new(1);
    let id = run(&mut world, &service(1), 0);
    stop(&mut world, id, StopIntent::Drain);
    world.now += 30_000;
    stop(&mut world, id, StopIntent::Cancel);
    assert_eq!(left(&world, id), Some(30_000), "a later order gives no more");
    stop(&mut world, id, StopIntent::Preempt);
    assert_eq!(left(&world, id), Some(10_000), "a more urgent one gives less");
    stop(&mut world, id, StopIntent::TimeOut);
    assert_eq!(left(&world, id), Some(0));
    // It may end by itself.
    world.exit(id, 0);
    assert!(world.state.allocations().is_empty());
}

#[test]
fn a_gpu_with_a_fault_is_left_at_once() {
    let mut world = World::new(10);
    world.now += 3_600_000;
    let id = run(&mut world, &service(1), 0);
    let mut spec = node_spec("node-0", 2);
    for device in &mut spec.devices {
        device.health = DeviceHealth::Fenced;
        device.reason = "XID 79".to_owned();
    }
    let register = Command::RegisterNode {
        name: name("node-0"),
        instance_key: [0; 16],
        spec: std::sync::Arc::new(spec),
    };
    world.one(register).unwrap();
    let row = world.state.allocations().get(&id).unwrap();
    assert_eq!(row.state, AllocationState::Stopping(StopIntent::Drain), "{}", row.reason);
    assert_eq!(row.draining, None);
}

/// The members of a gang answer together; once one is gone the others answer nobody.
#[test]
fn a_gang_is_let_go_as_a_whole_and_ends_at_once_when_it_is_broken() {
    let begun = || {
        let mut world = World::new(1);
        let mut spec = service(2);
        spec.tasks[0].gang = Some(Gang {});
        spec.tasks[0].restart.attempts = None;
        let of = world.submit(&spec);
        let placements = world.gang(of, 0);
        world.one(Command::Place { placements }).unwrap();
        let ids: Vec<AllocationId> = world.state.allocations_of(of).map(|row| row.id).collect();
        for id in &ids {
            world.observe(*id, Observed::Running { ready: true, started_at: WallMs(1) });
        }
        (world, ids)
    };
    let (mut world, ids) = begun();
    stop(&mut world, ids[0], StopIntent::Cancel);
    assert_eq!([left(&world, ids[0]), left(&world, ids[1])], [Some(60_000); 2]);
    let (mut world, ids) = begun();
    world.exit(ids[0], 1);
    let row = world.state.allocations().get(&ids[1]).unwrap();
    assert_eq!((row.state.stop_intent(), row.draining), (Some(StopIntent::Replace), None));
}

/// What takes a place begins when it is free, and so does the time in which it is to be ready.
#[test]
fn an_update_is_not_late_while_callers_are_let_go() {
    let mut world = World::new(2);
    let mut spec = service(2);
    spec.update.progress_deadline = Some(DurationMs::from_secs(60));
    let ids = [0, 1].map(|instance| run(&mut world, &spec, instance));
    spec.tasks[0].command.push("--new".to_owned());
    let of = world.submit(&spec);
    assert_eq!(of, ids[0].job);
    stop(&mut world, ids[0], StopIntent::Replace);
    world.now += 50_000;
    let_go(&mut world, ids[0]);
    let rollout = world.state.jobs().get(&of).unwrap().rollout.unwrap();
    let now = world.state.cluster().state_ms;
    assert_eq!(rollout, Rollout { progressed_at: now, ready_max: 0, failed: false });
}

/// A kept place is counted on when those before it are gone, and not earlier.
#[test]
fn what_is_waited_for_is_known_to_take_longer() {
    let mut world = World::new(1);
    let id = run(&mut world, &service(1), 0);
    let spec = service(1);
    let ends = |world: &World| {
        let row = world.state.allocations().get(&id).unwrap();
        let now = world.state.cluster().state_ms;
        let by = crate::reservation::ends_by(&spec, row, now, now).map(|by| by.0 - now.0);
        (crate::reservation::time_left(&spec, row, now), by)
    };
    stop(&mut world, id, StopIntent::Replace);
    assert_eq!(ends(&world), (60_000, Some(70_000)));
    let_go(&mut world, id);
    assert_eq!(ends(&world), (0, Some(10_000)));
}

#[test]
fn what_is_given_up_and_comes_back_has_no_callers_to_wait_for() {
    let mut world = World::new(1);
    let spec = JobSpec { preemption: Preemption::default(), ..service(1) };
    let id = run(&mut world, &spec, 0);
    stop(&mut world, id, StopIntent::Drain);
    world.one(Command::SetSchedulable { node: NodeId(1), purpose: Purpose::Work }).unwrap();
    let change = JobChange::Stop { reason: "r".to_owned() };
    world.one(Command::ChangeJob { job: id.job, if_version: None, change }).unwrap();
    world.observe(id, Observed::Unkillable);
    let row = world.state.allocations().get(&id).unwrap();
    assert_eq!((row.state, row.draining), (AllocationState::Unkillable(StopIntent::Cancel), None));
}
