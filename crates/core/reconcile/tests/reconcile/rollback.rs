//! What becomes of a new version that is broken.

use berth_model::{
    AllocationId, Autoscale, DurationMs, JobId, JobKind, JobSpec, OnFailure, StopIntent,
    UpdatePolicy,
};
use berth_state::{Command, JobChange, JobRow};

use crate::world::{World, job, name, stopped};

const SECOND: u64 = 1_000;
const MIN_READY: u64 = 5 * SECOND;
const DEADLINE: u64 = 60 * SECOND;

fn web(version: u32, count: u32) -> JobSpec {
    let mut spec = job(JobKind::Service, "web", count);
    spec.tasks[0].command.push(format!("v{version}"));
    spec.update = UpdatePolicy {
        progress_deadline: Some(DurationMs(DEADLINE)),
        min_ready: DurationMs(MIN_READY),
        on_failure: OnFailure::Rollback,
    };
    spec
}

/// A service of which the first version has served for an hour.
fn serving(count: u32) -> (World, JobId, Vec<AllocationId>) {
    let mut world = World::new(1);
    let id = world.submit(web(1, count));
    let rows = (0..count).map(|instance| world.run(id, instance, 1)).collect();
    world.pass(3_600 * SECOND);
    (world, id, rows)
}

fn row(world: &World, id: JobId) -> JobRow {
    (**world.state.jobs().get(&id).unwrap()).clone()
}

/// What the current version runs, and which it is.
fn current(world: &World, id: JobId) -> (u32, String) {
    let row = row(world, id);
    (row.version, row.spec.tasks[0].command.last().unwrap().clone())
}

/// The next of the old replicas gives its place to one of the new version.
fn moves(world: &mut World, id: JobId, old: AllocationId) -> AllocationId {
    assert_eq!(stopped(&world.step(), StopIntent::Replace), [old]);
    world.exit(old, 143);
    world.place(id, old.instance.0, 1)
}

/// Fails again and again until the version is given up, and says how often.
fn crash(world: &mut World, id: JobId, mut replica: AllocationId) -> u32 {
    let version = row(world, id).version;
    for times in 1..20 {
        world.ready(replica);
        world.pass(SECOND);
        world.exit(replica, 1);
        if row(world, id).version != version || is_failed(world, id) {
            return times;
        }
        world.pass(6 * SECOND);
        replica = world.place(id, replica.instance.0, 1);
    }
    panic!("version {version} goes on for ever");
}

fn is_failed(world: &World, id: JobId) -> bool {
    row(world, id).rollout.is_some_and(|rollout| rollout.failed)
}

#[test]
fn f44_a_version_that_fails_again_and_again_gives_way_to_the_one_that_served() {
    let (mut world, id, old) = serving(1);
    world.submit(web(2, 1));
    let broken = moves(&mut world, id, old[0]);
    assert_eq!(crash(&mut world, id, broken), UpdatePolicy::FAILURES_MAX + 1);
    assert_eq!(current(&world, id), (3, "v1".to_owned()));
    let said =
        "a replica of version 2 failed 4 times: exit code 1; version 1 comes back as version 3";
    assert_eq!(row(&world, id).reason, said);
    // It has its place at once, whatever its predecessor waited for.
    world.run(id, 0, 1);
    world.pass(10 * DEADLINE);
    assert!(world.tick().is_empty());
    assert_eq!(row(&world, id).reason, said, "who comes in the morning reads it");
}

#[test]
fn a_version_whose_restarts_are_counted_is_no_end_of_the_service() {
    let (mut world, id, old) = serving(1);
    let mut broken = web(2, 1);
    broken.tasks[0].restart.attempts = Some(0);
    world.submit(broken);
    let replica = moves(&mut world, id, old[0]);
    assert_eq!(crash(&mut world, id, replica), 1);
    assert_eq!(current(&world, id), (3, "v1".to_owned()));
    world.run(id, 0, 1);
}

#[test]
fn a_version_that_never_gets_ready_gives_way_after_its_deadline() {
    let (mut world, id, old) = serving(1);
    world.submit(web(2, 1));
    let hangs = moves(&mut world, id, old[0]);
    world.pass(DEADLINE - 1);
    assert!(world.tick().is_empty());
    world.pass(1);
    world.step();
    assert_eq!(current(&world, id), (3, "v1".to_owned()));
    assert_eq!(
        row(&world, id).reason,
        "no replica of version 2 got ready within 60 s; version 1 comes back as version 3"
    );
    assert_eq!(stopped(&world.step(), StopIntent::Replace), [hangs]);
    world.exit(hangs, 137);
    world.run(id, 0, 1);
    assert!(world.tick().is_empty());
}

#[test]
fn of_several_replicas_only_what_the_broken_version_reached_is_replaced() {
    let (mut world, id, old) = serving(3);
    world.submit(web(2, 3));
    let broken = moves(&mut world, id, old[0]);
    crash(&mut world, id, broken);
    assert_eq!(current(&world, id), (3, "v1".to_owned()));
    world.run(id, 0, 1);
    world.pass(10 * DEADLINE);
    assert!(world.tick().is_empty(), "the others run what is wanted");
    assert!(old[1..].iter().all(|id| world.is_live(*id)));
}

#[test]
fn the_next_replica_goes_when_the_one_before_has_run_for_a_while() {
    let (mut world, id, old) = serving(3);
    world.submit(web(2, 3));
    let new = moves(&mut world, id, old[0]);
    world.ready(new);
    world.pass(MIN_READY - 1);
    assert!(world.tick().is_empty(), "it may end yet");
    world.pass(1);
    let new = moves(&mut world, id, old[1]);
    world.ready(new);
    world.pass(MIN_READY);
    moves(&mut world, id, old[2]);
}

#[test]
fn what_came_back_is_not_taken_back_again() {
    let (mut world, id, old) = serving(1);
    world.submit(web(2, 1));
    let broken = moves(&mut world, id, old[0]);
    crash(&mut world, id, broken);
    // The fault is elsewhere: the version that served fails as well now.
    for _ in 0..10 {
        let replica = world.place(id, 0, 1);
        world.exit(replica, 1);
        world.pass(2 * DEADLINE);
        assert!(world.tick().is_empty());
    }
    assert_eq!(current(&world, id), (3, "v1".to_owned()));
    assert!(!is_failed(&world, id), "it is tried until it serves");
}

#[test]
fn without_a_version_that_served_there_is_no_way_back() {
    let mut world = World::new(1);
    let id = world.submit(web(1, 1));
    let first = world.place(id, 0, 1);
    world.submit(web(2, 1));
    let second = moves(&mut world, id, first);
    world.exit(second, 1);
    for _ in 0..10 {
        world.pass(2 * DEADLINE);
        assert!(world.tick().is_empty());
        let replica = world.place(id, 0, 1);
        world.exit(replica, 1);
    }
    assert_eq!(current(&world, id).0, 2);
}

#[test]
fn a_version_that_is_to_stay_keeps_what_it_has() {
    let (mut world, id, old) = serving(2);
    let mut broken = web(2, 2);
    broken.update.on_failure = OnFailure::Hold;
    world.submit(broken);
    let replica = moves(&mut world, id, old[0]);
    crash(&mut world, id, replica);
    let said = "a replica of version 2 failed 4 times: exit code 1; it stays as it is until a new \
                version or a rollback";
    assert_eq!((current(&world, id).0, row(&world, id).reason.as_str()), (2, said));
    world.pass(10 * DEADLINE);
    assert!(world.tick().is_empty());
    assert!(world.is_live(old[1]), "the older version serves on");
}

#[test]
fn a_version_that_has_served_for_its_time_is_not_taken_back() {
    let (mut world, id, old) = serving(1);
    world.submit(web(2, 1));
    let mut replica = moves(&mut world, id, old[0]);
    world.ready(replica);
    world.pass(DEADLINE);
    for _ in 0..10 {
        world.exit(replica, 1);
        world.pass(2 * DEADLINE);
        assert!(world.tick().is_empty());
        replica = world.run(id, 0, 1);
    }
    assert_eq!(current(&world, id), (2, "v2".to_owned()));
}

#[test]
fn more_replicas_that_find_no_place_or_fail_are_no_reason_to_go_back() {
    let (mut world, id, old) = serving(1);
    world.submit(web(1, 2));
    world.pass(10 * DEADLINE);
    assert!(world.tick().is_empty(), "the second has no place yet");
    for _ in 0..10 {
        let second = world.place(id, 1, 1);
        world.exit(second, 1);
        world.pass(2 * DEADLINE);
        assert!(world.tick().is_empty());
    }
    assert_eq!((current(&world, id).0, world.is_live(old[0])), (2, true));
}

#[test]
fn a_version_that_came_and_went_half_way_is_not_gone_back_to() {
    let (mut world, id, old) = serving(2);
    world.submit(web(2, 2));
    let new = moves(&mut world, id, old[0]);
    world.ready(new);
    world.pass(SECOND);
    // One replica of the second version serves, and one of the first does.
    world.submit(web(3, 2));
    assert_eq!(row(&world, id).proven, Some(1));
    let broken = moves(&mut world, id, new);
    crash(&mut world, id, broken);
    assert_eq!(current(&world, id), (4, "v1".to_owned()));
}

#[test]
fn the_version_that_served_is_kept_however_many_follow() {
    let (mut world, id, _) = serving(1);
    for version in 2..30 {
        world.submit(web(version, 1));
    }
    let row = row(&world, id);
    assert_eq!((row.proven, row.way_back()), (Some(1), Ok(1)));
    assert!(row.versions.len() <= 11, "{}", row.versions.len());
}

#[test]
fn a_job_on_hold_is_not_taken_back() {
    let (mut world, id, old) = serving(1);
    world.submit(web(2, 1));
    let broken = moves(&mut world, id, old[0]);
    world.one(Command::ChangeJob { job: id, if_version: None, change: JobChange::Hold }).unwrap();
    world.pass(10 * DEADLINE);
    assert!(world.tick().is_empty());
    world.exit(broken, 1);
    assert_eq!(current(&world, id).0, 2);
}

#[test]
fn a_version_of_a_service_that_sleeps_has_its_time_when_it_wakes() {
    let mut world = World::new(1);
    let scaled = |version: u32| {
        let mut spec = web(version, 1);
        spec.tasks[0].ports = vec![name("http")];
        spec.autoscale = Some(Autoscale::between(0, 1));
        spec
    };
    let scale = |job, from, count| Command::Scale { job, from, count, reason: String::new() };
    let id = world.submit(scaled(1));
    let first = world.run(id, 0, 1);
    world.pass(3_600 * SECOND);
    world.one(scale(id, 1, 0)).unwrap();
    world.exit(first, 143);
    world.submit(scaled(2));
    world.pass(10 * DEADLINE);
    assert!(world.tick().is_empty(), "nobody has asked for it");
    world.one(scale(id, 0, 1)).unwrap();
    let hangs = world.place(id, 0, 1);
    world.pass(DEADLINE - 1);
    assert!(world.tick().is_empty());
    world.pass(1);
    world.step();
    assert_eq!(current(&world, id), (3, "v1".to_owned()));
    assert_eq!(stopped(&world.step(), StopIntent::Replace), [hangs]);
}

#[test]
fn a_daemon_goes_back_too() {
    let mut world = World::new(2);
    let daemon = |version: u32| JobSpec { kind: JobKind::Daemon, ..web(version, 1) };
    let id = world.submit(daemon(1));
    let old = [world.run(id, 1, 1), world.run(id, 2, 2)];
    world.pass(MIN_READY);
    world.submit(daemon(2));
    let broken = moves(&mut world, id, old[0]);
    crash(&mut world, id, broken);
    assert_eq!(current(&world, id), (3, "v1".to_owned()));
    world.run(id, 1, 1);
    assert!(world.tick().is_empty());
    assert!(world.is_live(old[1]));
}
