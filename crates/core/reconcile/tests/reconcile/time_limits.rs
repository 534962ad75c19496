//! Limits in time.

use berth_model::{AllocationState, DurationMs, JobKind, JobState, StopIntent};
use berth_reconcile::ALLOCATIONS_IN_COMMAND_MAX;
use berth_state::Command;

use crate::world::{World, job, stopped};

#[test]
fn an_attempt_is_stopped_at_its_limit_and_counted_from_its_start() {
    let mut world = World::new(1);
    let mut spec = job(JobKind::Batch, "train", 1);
    spec.tasks[0].time_limit = Some(DurationMs(5_000));
    let id = world.submit(spec);
    let attempt = world.place(id, 0, 1);
    // Fetching and launching do not count.
    world.pass(60_000);
    assert!(world.tick().is_empty());
    world.ready(attempt);
    for (passed_ms, expected) in [(4_999, vec![]), (1, vec![attempt])] {
        world.pass(passed_ms);
        assert_eq!(stopped(&world.tick(), StopIntent::TimeOut), expected);
    }
    world.step();
    assert!(world.tick().is_empty(), "it was said once");
    world.exit(attempt, 143);
    assert_eq!(world.state.jobs().get(&id).unwrap().state(), JobState::TimedOut);
}

#[test]
fn a_limit_is_no_reason_to_stop_what_is_being_stopped() {
    let mut world = World::new(1);
    let mut spec = job(JobKind::Service, "web", 1);
    spec.tasks[0].time_limit = Some(DurationMs(5_000));
    let id = world.submit(spec);
    let attempt = world.run(id, 0, 1);
    let stop = Command::StopAllocations {
        allocations: vec![attempt],
        intent: StopIntent::Drain,
        reason: "moved".to_owned(),
    };
    world.one(stop).unwrap();
    world.pass(60_000);
    assert!(world.tick().is_empty());
    let state = world.state.allocations().get(&attempt).unwrap().state;
    assert_eq!(state, AllocationState::Stopping(StopIntent::Drain));
}

#[test]
fn more_attempts_than_fit_one_command_are_stopped_in_turns() {
    let count = u32::try_from(ALLOCATIONS_IN_COMMAND_MAX).unwrap() + 10;
    let mut world = World::new(1);
    let mut spec = job(JobKind::Batch, "many", count);
    spec.tasks[0].time_limit = Some(DurationMs(5_000));
    let id = world.submit(spec);
    for instance in 0..count {
        world.run(id, instance, 1);
    }
    world.pass(5_000);
    let mut counts = Vec::new();
    for _ in 0..3 {
        counts.push(stopped(&world.step(), StopIntent::TimeOut).len());
    }
    assert_eq!(counts, [ALLOCATIONS_IN_COMMAND_MAX, 10, 0]);
}

#[test]
fn a_job_ends_at_its_deadline_whatever_it_is_doing() {
    let mut world = World::new(1);
    let mut spec = job(JobKind::Batch, "late", 2);
    spec.deadline = Some(DurationMs(10_000));
    let id = world.submit(spec);
    let running = world.run(id, 0, 1);
    world.pass(9_999);
    assert!(world.tick().is_empty());
    world.pass(1);
    assert_eq!(world.step(), [Command::ExpireJob { job: id }]);
    assert!(world.tick().is_empty(), "it was said once");
    let row = world.state.allocations().get(&running).unwrap();
    assert_eq!(row.state.stop_intent(), Some(StopIntent::TimeOut));
    world.exit(running, 143);
    assert_eq!(world.state.jobs().get(&id).unwrap().state(), JobState::TimedOut);
    assert!(world.state.queue_is_empty());
}

#[test]
fn a_deadline_in_the_past_of_an_ended_job_is_nothing() {
    let mut world = World::new(1);
    let mut spec = job(JobKind::Batch, "quick", 1);
    spec.deadline = Some(DurationMs(10_000));
    let id = world.submit(spec);
    let only = world.run(id, 0, 1);
    world.exit(only, 0);
    world.pass(60_000);
    assert!(world.tick().is_empty());
    assert_eq!(world.state.jobs().get(&id).unwrap().state(), JobState::Succeeded);
}
