use berth_model::{
    AllocationId, AllocationState, Attempt, DurationMs, JobId, JobKind, JobSpec, NodeId, NodeState,
    Preemption, StopIntent, WallMs,
};

use proptest::prelude::*;

use super::namespaces::limits;
use super::world::{World, job};
use crate::movable::Stays;
use crate::{
    Command, EventKind, JobChange, NotAVictim, Observed, Purpose, Refusal, Reply, Reservation,
};

const THERE: NodeId = NodeId(2);

fn movable(text: &str, kind: JobKind, count: u32) -> JobSpec {
    let mut spec = job(kind, text, count, 1);
    spec.preemption = Preemption { min_run: DurationMs(0), ..Preemption::default() };
    spec.tasks[0].restart.attempts = None;
    spec
}

fn run(world: &mut World, job: JobId, instance: u32) -> AllocationId {
    let id = world.place(job, instance).unwrap();
    world.observe(id, Observed::Running { ready: true, started_at: WallMs(1) });
    id
}

/// Two nodes of two GPUs, and one that runs on the first.
fn one_on_two() -> (World, AllocationId) {
    let mut world = World::new(2);
    let of = world.submit(&movable("one", JobKind::Batch, 1));
    let here = run(&mut world, of, 0);
    assert_eq!(world.state.allocations().get(&here).unwrap().node, NodeId(1));
    (world, here)
}

fn to(world: &World, mover: AllocationId, node: NodeId) -> Reservation {
    let mut placement = world.placement(mover.job, mover.instance.0, node);
    placement.attempt = world.state.attempt_after(mover).unwrap();
    Reservation { placement, awaits: vec![mover], patient: false }
}

fn moved(world: &mut World, reservation: Reservation) -> Result<AllocationId, Refusal> {
    let reply = world.one(Command::Reserve { reservations: vec![reservation] }).unwrap();
    let Reply::Placed { granted, refused } = reply else { panic!("unexpected {reply:?}") };
    granted.first().copied().ok_or_else(|| refused[0].clone())
}

#[test]
fn a_mover_begins_where_its_place_is_kept_as_it_ends() {
    let (mut world, here) = one_on_two();
    let kept = to(&world, here, THERE);
    let next = moved(&mut world, kept).unwrap();
    assert_eq!(next, AllocationId { attempt: Attempt(2), ..here });
    let row = world.state.allocations().get(&here).unwrap();
    assert_eq!(row.state, AllocationState::Stopping(StopIntent::Drain));
    assert!(row.reason.starts_with("moved to node node-1, so that"), "{}", row.reason);
    // Both places are held meanwhile.
    let wide = world.submit(&job(JobKind::Batch, "wide", 1, 2));
    for node in [NodeId(1), THERE] {
        let one = world.placement(wide, 0, node);
        let reply = world.one(Command::Place { placements: vec![one] }).unwrap();
        assert!(matches!(reply, Reply::Placed { granted, .. } if granted.is_empty()));
    }
    world.exit(here, 143);
    let row = world.state.allocations().get(&next).unwrap();
    assert_eq!((row.node, row.state), (THERE, AllocationState::Planned));
    assert_eq!(world.state.reservations().count(), 0);
    let task = world.state.tasks().get(&(here.job, here.task)).unwrap();
    assert_eq!((task.live, task.pending.len(), task.failures_of(0)), (1, 0, 0));
}

#[test]
fn a_mover_without_a_place_is_not_asked_to_end() {
    type Change = fn(&mut World, AllocationId, &mut Reservation);
    let check = |what: &str, change: Change, expected: fn(AllocationId) -> Option<NotAVictim>| {
        let (mut world, here) = one_on_two();
        let mut kept = to(&world, here, THERE);
        change(&mut world, here, &mut kept);
        let before = world.state.hash();
        let refused = moved(&mut world, kept).unwrap_err();
        if let Some(why) = expected(here) {
            assert_eq!(refused, Refusal::NotAVictim { victim: here, why }, "{what}");
        }
        assert_eq!(world.state.hash(), before, "{what}: nothing has changed");
    };
    check(
        "its own node",
        |_, _, kept| kept.placement.node = NodeId(1),
        |_| Some(NotAVictim::Elsewhere),
    );
    check("no such node", |_, _, kept| kept.placement.node = NodeId(9), |_| None);
    check("another attempt", |_, _, kept| kept.placement.attempt = Attempt(7), |_| None);
    check("no devices", |_, _, kept| kept.placement.devices.clear(), |_| None);
    let gone = |world: &mut World, here, _: &mut Reservation| {
        world.exit(here, 0);
    };
    check("one that has gone", gone, |_| None);
    let ends = |world: &mut World, here, _: &mut Reservation| {
        let (allocations, reason) = (vec![here], String::new());
        let intent = StopIntent::Drain;
        world.one(Command::StopAllocations { allocations, intent, reason }).unwrap();
    };
    check("one that ends", ends, |_| Some(NotAVictim::Stays(Stays::NotRunning)));
    let cordon = |world: &mut World, _, _: &mut Reservation| {
        let purpose = Purpose::Cordoned;
        world.one(Command::SetSchedulable { node: THERE, purpose }).unwrap();
    };
    check("a node that is cordoned", cordon, |_| None);
    let hold = |world: &mut World, here: AllocationId, _: &mut Reservation| {
        let change = JobChange::Hold;
        world.one(Command::ChangeJob { job: here.job, if_version: None, change }).unwrap();
    };
    check("a job that is held", hold, |_| None);
}

#[test]
fn a_mover_is_asked_once() {
    let (mut world, here) = one_on_two();
    let kept = to(&world, here, THERE);
    moved(&mut world, kept.clone()).unwrap();
    let again = moved(&mut world, kept).unwrap_err();
    let why = NotAVictim::Stays(Stays::NotRunning);
    assert_eq!(again, Refusal::NotAVictim { victim: here, why });
}

#[test]
fn who_must_stay_is_not_moved() {
    let mut world = World::new(2);
    let web = world.submit(&movable("web", JobKind::Service, 1));
    let only = run(&mut world, web, 0);
    let kept = to(&world, only, THERE);
    let why = NotAVictim::Stays(Stays::OnlyReplica);
    assert_eq!(moved(&mut world, kept), Err(Refusal::NotAVictim { victim: only, why }));
}

#[test]
fn a_place_that_is_let_go_of_leaves_its_mover_to_be_placed_as_everything_is() {
    let silent = |world: &mut World| {
        let session = world.state.nodes().get(&THERE).unwrap().session;
        world.one(Command::DisconnectNode { node: THERE, session }).unwrap();
    };
    let cordoned = |world: &mut World| {
        let purpose = Purpose::Cordoned;
        world.one(Command::SetSchedulable { node: THERE, purpose }).unwrap();
    };
    for change in [&silent as &dyn Fn(&mut World), &cordoned] {
        let (mut world, here) = one_on_two();
        let kept = to(&world, here, THERE);
        moved(&mut world, kept).unwrap();
        change(&mut world);
        assert_eq!(world.state.reservations().count(), 0);
        world.exit(here, 143);
        let task = world.state.tasks().get(&(here.job, here.task)).unwrap();
        assert_eq!((task.live, task.pending.len()), (0, 1), "it waits as everything does");
    }
}

#[test]
fn one_that_finishes_or_falls_silent_on_the_way_is_neither_lost_nor_twice() {
    // What it did is done: nothing begins in the place that was kept.
    let (mut world, here) = one_on_two();
    let kept = to(&world, here, THERE);
    moved(&mut world, kept).unwrap();
    world.exit(here, 0);
    assert_eq!(world.state.allocations().len(), 0);
    assert_eq!(world.state.reservations().count(), 0);
    let dropped = |kind: &EventKind| matches!(kind, EventKind::ReservationDropped { .. });
    assert!(world.events.iter().any(|event| dropped(&event.kind)));
    // Its node is silent and it is given up: it goes on where its place is.
    let (mut world, here) = one_on_two();
    let kept = to(&world, here, THERE);
    let next = moved(&mut world, kept).unwrap();
    let session = world.state.nodes().get(&NodeId(1)).unwrap().session;
    world.one(Command::DisconnectNode { node: NodeId(1), session }).unwrap();
    assert!(world.state.allocations().get(&next).is_none());
    world.one(Command::DownNode { node: NodeId(1), session }).unwrap();
    assert_eq!(world.state.nodes().get(&NodeId(1)).unwrap().state, NodeState::Down);
    assert_eq!(world.state.allocations().get(&next).map(|row| row.node), Some(THERE));
    assert_eq!(world.state.allocations().len(), 1);
}

#[test]
fn a_quota_that_is_full_lets_its_own_move() {
    let (mut world, here) = one_on_two();
    let full = limits("default", &[(berth_model::Resource::Gpus, 1000)]);
    world.one(Command::ApplyNamespace { spec: full.into(), if_version: None }).unwrap();
    let kept = to(&world, here, THERE);
    let next = moved(&mut world, kept).unwrap();
    world.exit(here, 143);
    assert_eq!(world.state.allocations().get(&next).map(|row| row.node), Some(THERE));
}

/// One thing that happens to a job while its instances move.
#[derive(Clone, Debug)]
enum Happens {
    Moves { instance: u32, node: u64 },
    Ends { instance: u32 },
    IsPlaced { instance: u32 },
    FallsSilent { node: u64 },
    IsGivenUp { node: u64 },
    ComesBack { node: u64 },
    LetsGo,
    Passes,
}

fn happens() -> impl Strategy<Value = Happens> {
    let (instance, node) = (|| 0..4_u32, || 1..4_u64);
    prop_oneof![
        6 => (instance(), node()).prop_map(|(instance, node)| Happens::Moves { instance, node }),
        4 => instance().prop_map(|instance| Happens::Ends { instance }),
        3 => instance().prop_map(|instance| Happens::IsPlaced { instance }),
        1 => node().prop_map(|node| Happens::FallsSilent { node }),
        1 => node().prop_map(|node| Happens::IsGivenUp { node }),
        2 => node().prop_map(|node| Happens::ComesBack { node }),
        1 => Just(Happens::LetsGo),
        1 => Just(Happens::Passes),
    ]
}

fn attempt_of(world: &World, job: JobId, instance: u32) -> Option<AllocationId> {
    world.state.allocations_of(job).map(|row| row.id).find(|id| id.instance.0 == instance)
}

fn happen(world: &mut World, job: JobId, what: &Happens) {
    let session =
        |world: &World, node| world.state.nodes().get(&NodeId(node)).map_or(0, |row| row.session);
    match *what {
        Happens::Moves { instance, node } => {
            if let Some(mover) = attempt_of(world, job, instance) {
                let kept = to(world, mover, NodeId(node));
                // Refused of one that ends, or that has no room there.
                let _ = moved(world, kept);
            }
        }
        Happens::Ends { instance } => {
            let ends = |id: &AllocationId| {
                world.state.allocations().get(id).unwrap().state.stop_intent().is_some()
            };
            if let Some(id) = attempt_of(world, job, instance).filter(ends) {
                world.exit(id, 143);
            }
        }
        Happens::IsPlaced { instance } => {
            if attempt_of(world, job, instance).is_none() {
                // Where nobody has room it waits on.
                let _ = world.place(job, instance);
            }
        }
        Happens::FallsSilent { node } => {
            let session = session(world, node);
            let _ = world.one(Command::DisconnectNode { node: NodeId(node), session });
        }
        Happens::IsGivenUp { node } => {
            let session = session(world, node);
            let _ = world.one(Command::DownNode { node: NodeId(node), session });
        }
        Happens::ComesBack { node } => world.register(usize::try_from(node).unwrap() - 1),
        Happens::LetsGo => {
            let allocations = world.state.reservations().map(|(id, ..)| id).collect();
            world.one(Command::Unreserve { allocations, reason: String::new() }).unwrap();
        }
        Happens::Passes => {
            world.now += 60_000;
            let all: Vec<AllocationId> =
                world.state.allocations().values().map(|row| row.id).collect();
            for id in all {
                world.observe(id, Observed::Running { ready: true, started_at: WallMs(1) });
            }
        }
    }
}

proptest! {
    /// Whatever happens on the way, each instance lives once or waits, and the place that is kept
    /// for one is another node's than where it is. Every invariant is checked after each step.
    #[test]
    fn no_mover_is_lost_or_twice(steps in prop::collection::vec(happens(), 1..60)) {
        let mut world = World::new(3);
        let of = world.submit(&movable("one", JobKind::Batch, 4));
        for instance in 0..4 {
            run(&mut world, of, instance);
        }
        for what in &steps {
            happen(&mut world, of, what);
            let task = world.state.tasks().values().next().unwrap();
            for instance in 0..4 {
                let rows = world.state.allocations_of(of);
                let live = rows.filter(|row| row.id.instance.0 == instance).count();
                let waits = usize::from(task.pending.contains(instance));
                prop_assert_eq!(live + waits, 1, "instance {} after {:?}", instance, what);
            }
            for (id, node, kept) in world.state.reservations() {
                prop_assert!(kept.is_move());
                let mover = attempt_of(&world, of, id.instance.0).unwrap();
                prop_assert!(mover.attempt < id.attempt);
                prop_assert_ne!(world.state.allocations().get(&mover).unwrap().node, node);
            }
        }
    }
}
