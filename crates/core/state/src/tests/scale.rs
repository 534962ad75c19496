//! Services whose replicas follow their load.

use berth_model::{
    AllocationId, AllocationState, Autoscale, DurationMs, JobId, JobKind, JobSpec, Route,
    StopIntent, WallMs,
};

use super::world::{World, job, name, submit};
use crate::{Command, EventKind, JobChange, Observed, Refusal, Reply};

/// 1 to 4 replicas, of a GPU each, that end at once.
fn service(min: u32, max: u32) -> JobSpec {
    let mut spec = job(JobKind::Service, "chat", 1, 1);
    spec.tasks[0].ports = vec![name("http")];
    spec.route = Route { drain: DurationMs::ZERO, ..Route::default() };
    let rule = Autoscale::between(min, max);
    spec.tasks[0].count = rule.count(None);
    spec.autoscale = Some(rule);
    spec
}

fn scale(world: &mut World, job: JobId, from: u32, count: u32) -> Result<Reply, Refusal> {
    let reason = "the load asks for it".to_owned();
    world.one(Command::Scale { job, from, count, reason })
}

fn run(world: &mut World, job: JobId, instance: u32) -> AllocationId {
    let id = world.place(job, instance).unwrap();
    world.observe(id, Observed::Running { ready: true, started_at: WallMs(1) });
    id
}

fn count(world: &World, job: JobId) -> u32 {
    world.state.jobs().get(&job).unwrap().spec.tasks[0].count
}

fn pending(world: &World, job: JobId) -> Vec<u32> {
    world.state.tasks().get(&(job, berth_model::TaskIndex(0))).unwrap().pending.iter().collect()
}

#[test]
fn replicas_are_added_and_taken_away_without_a_new_version() {
    let mut world = World::new(2);
    let job = world.submit(&service(1, 4));
    let first = run(&mut world, job, 0);
    scale(&mut world, job, 1, 3).unwrap();
    assert_eq!(pending(&world, job), [1, 2]);
    let row = world.state.jobs().get(&job).unwrap();
    assert_eq!((row.version, row.versions.len()), (1, 0));
    let told = world.events.iter().any(|event| {
        event.kind
            == EventKind::ReplicasScaled {
                from: 1,
                to: 3,
                reason: "the load asks for it".to_owned(),
            }
    });
    assert!(told);
    let second = run(&mut world, job, 1);
    scale(&mut world, job, 3, 1).unwrap();
    assert_eq!(pending(&world, job), Vec::<u32>::new());
    let state = |id| world.state.allocations().get(&id).unwrap().state;
    assert_eq!(state(first), AllocationState::Running { ready: true });
    assert_eq!(state(second), AllocationState::Stopping(StopIntent::Cancel));
    world.exit(second, 0);
    assert_eq!(pending(&world, job), Vec::<u32>::new(), "it is wanted no more");
    assert_eq!(count(&world, job), 1);
}

#[test]
fn one_that_is_wanted_again_while_it_ends_comes_again() {
    let mut world = World::new(2);
    let job = world.submit(&service(1, 4));
    run(&mut world, job, 0);
    scale(&mut world, job, 1, 2).unwrap();
    let second = run(&mut world, job, 1);
    scale(&mut world, job, 2, 1).unwrap();
    scale(&mut world, job, 1, 3).unwrap();
    let state = world.state.allocations().get(&second).unwrap().state;
    assert_eq!(state, AllocationState::Stopping(StopIntent::Replace));
    assert_eq!(pending(&world, job), [2]);
    world.exit(second, 0);
    assert_eq!(pending(&world, job), [1, 2]);
    let again = run(&mut world, job, 1);
    assert_eq!(again.attempt, second.attempt.next(), "no id is used twice");
}

#[test]
fn none_at_all_waits_for_nobody_and_comes_back() {
    let mut world = World::new(1);
    let job = world.submit(&service(0, 4));
    let only = run(&mut world, job, 0);
    scale(&mut world, job, 1, 0).unwrap();
    world.exit(only, 0);
    let row = world.state.jobs().get(&job).unwrap();
    assert!(!row.is_ended() && world.state.queue_is_empty());
    scale(&mut world, job, 0, 1).unwrap();
    assert_eq!(pending(&world, job), [0]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut world = World::new(1);
    let job = world.submit(&service(1, 4));
    let meanwhile = Refusal::ScaledMeanwhile { job, asked: 2, found: 1 };
    assert_eq!(scale(&mut world, job, 2, 3), Err(meanwhile));
    for count in [0, 1, 5] {
        let why = format!("expected other than 1 replicas, 1 to 4; found {count}");
        assert_eq!(scale(&mut world, job, 1, count), Err(Refusal::Invalid(why)));
    }
    let change = JobChange::Stop { reason: "done".to_owned() };
    world.one(Command::ChangeJob { job, if_version: None, change }).unwrap();
    assert_eq!(scale(&mut world, job, 1, 2), Err(Refusal::JobEnded(job)));
    let mut fixed = JobSpec { autoscale: None, ..service(1, 4) };
    fixed.name = name("fixed");
    let fixed = world.submit(&fixed);
    assert!(matches!(scale(&mut world, fixed, 1, 2), Err(Refusal::Invalid(_))));
    assert_eq!(scale(&mut world, JobId(99), 1, 2), Err(Refusal::NoSuchJob(JobId(99))));
}

#[test]
fn a_version_goes_on_with_as_many_replicas_as_there_are() {
    let mut world = World::new(2);
    let job = world.submit(&service(1, 4));
    scale(&mut world, job, 1, 3).unwrap();
    // The same file again is nothing new.
    let same = world.one(submit(&service(1, 4), None)).unwrap();
    assert_eq!(same, Reply::Submitted { job, version: 1, existed: true });
    assert_eq!(count(&world, job), 3);
    let mut changed = service(1, 4);
    changed.priority = 51;
    world.submit(&changed);
    assert_eq!((count(&world, job), pending(&world, job)), (3, vec![0, 1, 2]));
    // In the range that it has now.
    world.submit(&service(1, 2));
    assert_eq!(count(&world, job), 2);
    let back = JobChange::Rollback { to_version: 2 };
    world.one(Command::ChangeJob { job, if_version: None, change: back }).unwrap();
    assert_eq!(count(&world, job), 2);
    // One that was stopped begins anew.
    let stop = JobChange::Stop { reason: "done".to_owned() };
    world.one(Command::ChangeJob { job, if_version: None, change: stop }).unwrap();
    world.submit(&service(1, 4));
    assert_eq!(count(&world, job), 1);
}
