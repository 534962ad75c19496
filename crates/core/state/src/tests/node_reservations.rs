//! Nodes that are reserved: whom they let in before, from when on, and until when.

use std::collections::BTreeSet;

use berth_model::{
    AllocationId, AtBegin, DurationMs, JobKind, JobSpec, Misfit, NODE_RESERVATIONS_MAX, NodeId,
    NodeReservation, ReservedNodes, WallMs,
};

use super::world::{World, job, name};
use crate::{Command, EventKind, JobChange, Refusal, Reply, Reservation};

const MINUTE: u64 = 60_000;
/// What the wall clock of these worlds is ahead of the cluster's.
const WALL: u64 = 1_700_000_000_000;

/// From so many minutes after now, for so many.
fn of_node(world: &World, node: usize, (from, lasts): (u64, u64)) -> NodeReservation {
    let at = |minutes: u64| WallMs(WALL + world.now + minutes * MINUTE);
    NodeReservation {
        name: name("launch"),
        nodes: ReservedNodes::Named([name(&format!("node-{node}"))].into()),
        namespaces: [name("launch")].into(),
        priority_min: None,
        from: at(from),
        until: Some(at(from + lasts)),
        running: AtBegin::Keep,
    }
}

fn set(world: &mut World, spec: NodeReservation) -> Result<Reply, Refusal> {
    world.one(Command::ReserveNodes { spec: spec.into(), if_version: None })
}

fn turn(world: &mut World) {
    let turned = world.one(Command::TurnNodeReservation { name: name("launch") });
    assert_eq!(turned, Ok(Reply::Done));
}

fn limited(minutes: u64) -> JobSpec {
    let mut spec = job(JobKind::Batch, "a", 1, 1);
    spec.tasks[0].time_limit = Some(DurationMs(minutes * MINUTE));
    spec.tasks[0].stop.grace = DurationMs(MINUTE / 2);
    spec
}

fn of_launch(spec: JobSpec) -> JobSpec {
    JobSpec { namespace: name("launch"), ..spec }
}

/// Why a job is not let in on the only node; `None`: it is.
fn refused(world: &mut World, spec: &JobSpec) -> Option<Misfit> {
    let job = world.submit(spec);
    match world.place(job, 0) {
        Ok(_) => None,
        Err(refusals) => {
            let Refusal::DoesNotFit { misfit, .. } = &refusals[0] else { panic!("{refusals:?}") };
            Some(misfit.clone())
        }
    }
}

fn soon(minutes: u64) -> Option<Misfit> {
    let left = DurationMs(minutes * MINUTE);
    Some(Misfit::ReservedSoon { reservation: "launch".to_owned(), left })
}

fn closed() -> Option<Misfit> {
    Some(Misfit::Reserved { reservation: "launch".to_owned() })
}

#[test]
fn before_it_begins_only_what_ends_in_time_is_let_in_and_then_only_whom_it_is_for() {
    let mut world = World::new(1);
    let spec = of_node(&world, 0, (30, 60));
    assert_eq!(set(&mut world, spec), Ok(Reply::NodesReserved { version: 1 }));
    let endless = job(JobKind::Batch, "a", 1, 1);
    assert_eq!(refused(&mut world, &endless), soon(30));
    // Half a minute to start, and half a minute of grace.
    assert_eq!(refused(&mut world, &limited(29)), None);
    world.now += 1;
    assert!(refused(&mut world, &limited(29)).is_some());
    assert_eq!(refused(&mut world, &of_launch(endless.clone())), None);
    // It is in force once the log says so; that says it no sooner than it is.
    turn(&mut world);
    assert!(!world.state.node_reservations().values().next().unwrap().begun);
    world.now += 30 * MINUTE;
    turn(&mut world);
    assert!(world.state.allocations().values().all(|row| row.state.stop_intent().is_none()));
    let ends: Vec<AllocationId> = world.state.allocations().values().map(|row| row.id).collect();
    ends.into_iter().for_each(|id| assert_eq!(world.exit(id, 0), 1));
    assert_eq!(refused(&mut world, &limited(1)), closed());
    assert_eq!(refused(&mut world, &of_launch(limited(1))), None);
    let daemon = job(JobKind::Daemon, "watch", 1, 0);
    let daemon = world.submit(&daemon);
    let node = u32::try_from(NodeId(1).0).unwrap();
    assert!(world.place(daemon, node).is_ok());
    world.now += 60 * MINUTE;
    turn(&mut world);
    assert!(world.state.node_reservations().is_empty());
    assert_eq!(refused(&mut world, &endless), None);
    let told: Vec<&str> = world.events.iter().map(|event| event.kind.name()).collect();
    let told: Vec<&str> =
        told.into_iter().filter(|name| name.contains("reserv") || name.contains("freed")).collect();
    assert_eq!(told, ["nodes-reserved", "reservation-begun", "nodes-freed"]);
}

#[test]
fn what_is_not_let_in_is_asked_to_end_once_if_that_was_said() {
    let mut world = World::new(1);
    let runs = job(JobKind::Batch, "a", 1, 1);
    let stays = world.submit(&of_launch(runs.clone()));
    let goes = world.submit(&runs);
    let (stays, goes) = (world.place(stays, 0).unwrap(), world.place(goes, 0).unwrap());
    let spec = NodeReservation { running: AtBegin::End, ..of_node(&world, 0, (30, 60)) };
    set(&mut world, spec).unwrap();
    // Until then anything may run there.
    assert_eq!(world.exit(goes, 0), 1);
    let goes = world.submit(&runs);
    let goes = world.place(goes, 0).unwrap();
    world.now += 30 * MINUTE;
    turn(&mut world);
    turn(&mut world);
    let is_asked = |world: &World, id| {
        world.state.allocations().get(&id).unwrap().state.stop_intent().is_some()
    };
    assert!(is_asked(&world, goes) && !is_asked(&world, stays));
    let row = world.state.allocations().get(&goes).unwrap();
    assert_eq!(row.reason, "its node is reserved now (`launch`), and not for such jobs");
    let begun = world.events.iter().filter(|event| event.kind.name() == "reservation-begun");
    assert_eq!(begun.count(), 1);
    // It waits again.
    assert_eq!(world.exit(goes, 1), 1);
    assert_eq!(world.job_state(goes.job), "queued");
}

#[test]
fn what_was_stopped_before_it_begins_does_not_come_back() {
    let mut world = World::new(1);
    let id = world.submit(&job(JobKind::Batch, "a", 1, 1));
    let runs = world.place(id, 0).unwrap();
    let spec = NodeReservation { running: AtBegin::End, ..of_node(&world, 0, (30, 60)) };
    set(&mut world, spec).unwrap();
    let change = JobChange::Stop { reason: "enough".to_owned() };
    world.one(Command::ChangeJob { job: id, if_version: None, change }).unwrap();
    world.now += 30 * MINUTE;
    turn(&mut world);
    assert_eq!(world.exit(runs, 143), 1);
    assert_eq!(world.job_state(id), "cancelled");
}

/// What fills the only node, and a place there for what is urgent and awaits its end.
fn place_after(world: &mut World) -> (AllocationId, Reservation) {
    let runs = world.submit(&job(JobKind::Batch, "a", 1, 2));
    let runs = world.place(runs, 0).unwrap();
    world.now += MINUTE;
    let urgent = JobSpec { priority: 90, ..limited(1) };
    let urgent = world.submit(&urgent);
    let mut placement = world.placement(urgent, 0, NodeId(1));
    let device = &world.state.nodes().get(&NodeId(1)).unwrap().spec.devices[0];
    placement.devices = vec![berth_model::DeviceClaim {
        uuid: device.uuid.clone(),
        share: berth_model::ShareMilli::WHOLE,
        memory: device.memory,
    }];
    (runs, Reservation { placement, awaits: [runs].into(), patient: false })
}

#[test]
fn no_place_is_kept_for_whom_it_does_not_let_in() {
    let mut world = World::new(1);
    let (_, reservation) = place_after(&mut world);
    let reserve = |world: &mut World| {
        let reservations = vec![reservation.clone()];
        let reply = world.one(Command::Reserve { reservations }).unwrap();
        let Reply::Placed { refused, .. } = reply else { panic!("unexpected {reply:?}") };
        refused
    };
    // When it would begin nobody knows, however short it is.
    let spec = of_node(&world, 0, (30, 60));
    set(&mut world, spec.clone()).unwrap();
    let refused = reserve(&mut world);
    let Refusal::DoesNotFit { misfit, .. } = &refused[0] else { panic!("{refused:?}") };
    assert_eq!(Some(misfit.clone()), soon(30));
    let end = NodeReservation { running: AtBegin::End, ..spec.clone() };
    assert_eq!(set(&mut world, end.clone()), Ok(Reply::NodesReserved { version: 2 }));
    assert_eq!(reserve(&mut world), []);
    assert_eq!(world.state.reservations().count(), 1);
    // One that was kept before is let go as soon as it is felt.
    assert_eq!(set(&mut world, spec), Ok(Reply::NodesReserved { version: 3 }));
    assert_eq!(world.state.reservations().count(), 0);
    assert_eq!(set(&mut world, end), Ok(Reply::NodesReserved { version: 4 }));
    assert_eq!(reserve(&mut world), []);
    world.now += 30 * MINUTE;
    turn(&mut world);
    assert_eq!(world.state.reservations().count(), 0);
}

#[test]
fn what_is_wrong_with_one_is_told() {
    let mut world = World::new(3);
    let spec = of_node(&world, 0, (30, 60));
    let over = NodeReservation { from: WallMs(1), until: Some(WallMs(2)), ..spec.clone() };
    let told = set(&mut world, over).unwrap_err().to_string();
    assert_eq!(told, "until: expected a time that is not over yet");
    set(&mut world, spec.clone()).unwrap();
    assert_eq!(set(&mut world, spec.clone()), Ok(Reply::NodesReserved { version: 1 }));
    let other = |nodes| NodeReservation { name: name("other"), nodes, ..spec.clone() };
    let twice = |both: &str| {
        Err(Refusal::ReservedTwice {
            name: name("other"),
            other: name("launch"),
            both: both.to_owned(),
        })
    };
    let named = |nodes: &[&str]| {
        ReservedNodes::Named(nodes.iter().map(|one| name(one)).collect::<BTreeSet<_>>())
    };
    assert_eq!(set(&mut world, other(named(&["node-0", "node-1"]))), twice("node `node-0`"));
    let pool = ReservedNodes::Pool(name("default"));
    assert_eq!(set(&mut world, other(pool)), twice("node `node-0`"));
    set(&mut world, other(named(&["node-1"]))).unwrap();
    let later = NodeReservation {
        name: name("later"),
        from: spec.until.unwrap(),
        until: None,
        ..spec.clone()
    };
    set(&mut world, later).unwrap();
    let conflict = world.one(Command::FreeNodes { name: name("launch"), if_version: Some(4) });
    assert_eq!(
        conflict.unwrap_err().to_string(),
        "the reservation `launch` of nodes is at version 1, not 4"
    );
    for nobody in ["gone", "launch"] {
        let _ = world.one(Command::FreeNodes { name: name(nobody), if_version: None });
    }
    let gone = world.one(Command::FreeNodes { name: name("launch"), if_version: None });
    assert_eq!(gone, Err(Refusal::NoSuchNodeReservation(name("launch"))));
    let gone = world.one(Command::TurnNodeReservation { name: name("launch") });
    assert_eq!(gone, Err(Refusal::NoSuchNodeReservation(name("launch"))));
    let freed = EventKind::NodesFreed { name: name("launch"), over: false };
    assert!(world.events.iter().any(|event| event.kind == freed));
    for number in 2..NODE_RESERVATIONS_MAX {
        let nodes = named(&[&format!("host-{number}")]);
        let one = NodeReservation { name: name(&format!("r{number}")), nodes, ..spec.clone() };
        set(&mut world, one).unwrap();
    }
    let one_more = other(named(&["host-1"]));
    let one_more = NodeReservation { name: name("more"), ..one_more };
    assert_eq!(set(&mut world, one_more), Err(Refusal::TooManyNodeReservations));
}

#[test]
fn a_node_that_comes_into_a_reserved_pool_is_reserved() {
    let mut world = World::new(0);
    let nodes = ReservedNodes::Pool(name("default"));
    let spec = NodeReservation { nodes, ..of_node(&world, 0, (0, 60)) };
    set(&mut world, spec).unwrap();
    world.register(0);
    assert_eq!(refused(&mut world, &limited(1)), closed());
    assert_eq!(refused(&mut world, &of_launch(limited(1))), None);
}

#[test]
fn a_node_that_moves_into_a_reserved_pool_keeps_no_place_and_runs_what_it_ran() {
    let mut world = World::new(1);
    let nodes = ReservedNodes::Pool(name("gold"));
    let running = AtBegin::End;
    let spec = NodeReservation { nodes, running, ..of_node(&world, 0, (0, 60)) };
    set(&mut world, spec).unwrap();
    let (runs, reservation) = place_after(&mut world);
    world.one(Command::Reserve { reservations: vec![reservation] }).unwrap();
    assert_eq!(world.state.reservations().count(), 1);
    let mut spec = super::world::node_spec("node-0", 2);
    spec.pool = name("gold");
    let register = Command::RegisterNode {
        name: name("node-0"),
        instance_key: [0; 16],
        spec: std::sync::Arc::new(spec),
    };
    world.one(register).unwrap();
    assert_eq!(world.state.reservations().count(), 0);
    assert!(world.state.allocations().get(&runs).is_some());
    assert_eq!(refused(&mut world, &limited(1)), closed());
}

#[test]
fn one_in_force_stays_so_under_a_clock_that_is_behind() {
    let mut world = World::new(1);
    let spec = of_node(&world, 0, (30, 60));
    set(&mut world, spec.clone()).unwrap();
    world.now += 30 * MINUTE;
    turn(&mut world);
    let begun = |world: &World| world.state.node_reservations().values().next().unwrap().begun;
    assert!(begun(&world));
    world.now -= MINUTE;
    let longer = NodeReservation { until: spec.until.map(|at| WallMs(at.0 + MINUTE)), ..spec };
    assert_eq!(set(&mut world, longer.clone()), Ok(Reply::NodesReserved { version: 2 }));
    assert!(begun(&world));
    assert_eq!(refused(&mut world, &limited(1)), closed());
    // Changed to `end`, whom it does not let in is asked to; it does not begin again.
    let begins = world.events.iter().filter(|event| event.kind.name() == "reservation-begun");
    assert_eq!(begins.count(), 1);
    // Moved into the future it is ahead.
    let later = NodeReservation { from: WallMs(WALL + world.now + MINUTE * 5), ..longer };
    assert_eq!(set(&mut world, later), Ok(Reply::NodesReserved { version: 3 }));
    assert!(!begun(&world));
}
