//! Places that are kept for what moves.

use berth_model::{AllocationId, DurationMs, JobKind, NodeId, Preemption};
use berth_state::{Command, Observed, Placement, Reservation, ScoreParts};

use crate::world::{World, job};

/// One that runs on the first node and has a place on the second.
fn moving() -> (World, AllocationId, AllocationId) {
    let mut world = World::new(2);
    let mut spec = job(JobKind::Batch, "one", 1);
    spec.preemption = Preemption { min_run: DurationMs(0), ..Preemption::default() };
    spec.tasks[0].restart.attempts = None;
    let of = world.submit(spec);
    let here = world.run(of, 0, 1);
    let next = AllocationId { attempt: here.attempt.next(), ..here };
    let placement = Placement::new(next, NodeId(2), Default::default(), ScoreParts::default());
    let reservations = vec![Reservation { placement, awaits: vec![here], patient: false }];
    world.one(Command::Reserve { reservations }).unwrap();
    assert_eq!(world.state.reservations().count(), 1);
    (world, here, next)
}

#[test]
fn the_place_of_what_moves_is_kept_until_it_has_ended() {
    let (mut world, here, next) = moving();
    world.pass(1_000);
    assert_eq!(world.tick(), []);
    world.observe(here, Observed::Stopping);
    assert_eq!(world.tick(), []);
    world.exit(here, 143);
    assert_eq!(world.state.allocations().get(&next).map(|row| row.node), Some(NodeId(2)));
    assert_eq!(world.tick(), []);
}

#[test]
fn the_place_of_what_cannot_be_ended_is_let_go_of() {
    let (mut world, here, next) = moving();
    world.observe(here, Observed::Unkillable);
    let commands = world.step();
    let [Command::Unreserve { allocations, .. }] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    assert_eq!(allocations, &[next]);
    assert_eq!(world.state.reservations().count(), 0);
}
