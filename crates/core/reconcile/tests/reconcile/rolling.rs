//! Bringing replicas to a new version.

use berth_model::{AllocationId, DurationMs, JobId, JobKind, JobSpec, StopIntent, WallMs};
use berth_state::{Command, JobChange, Observed, Refusal};

use crate::world::{World, job, stopped};

fn replaced(world: &mut World) -> Vec<AllocationId> {
    stopped(&world.step(), StopIntent::Replace)
}

fn web(version: u32, count: u32) -> JobSpec {
    let mut spec = job(JobKind::Service, "web", count);
    spec.tasks[0].command.push(format!("v{version}"));
    spec
}

/// Three ready replicas of the first version, spread over two nodes.
fn three() -> (World, JobId, Vec<AllocationId>) {
    let mut world = World::new(2);
    let id = world.submit(web(1, 3));
    let rows = (0..3).map(|instance| world.run(id, instance, 1 + u64::from(instance % 2)));
    let rows = rows.collect();
    assert!(world.tick().is_empty());
    (world, id, rows)
}

#[test]
fn replicas_are_replaced_one_after_the_other() {
    let (mut world, id, old) = three();
    world.submit(web(2, 3));
    for (instance, row) in (0..3).zip(&old) {
        assert_eq!(replaced(&mut world), [*row]);
        assert!(replaced(&mut world).is_empty(), "it is still stopping");
        world.exit(*row, 143);
        assert!(replaced(&mut world).is_empty(), "its successor has no place yet");
        let new = world.place(id, instance, 1);
        assert!(replaced(&mut world).is_empty(), "its successor is not ready yet");
        world.ready(new);
    }
    assert!(replaced(&mut world).is_empty());
    let current = world.state.jobs().get(&id).unwrap().version;
    assert!(world.state.allocations_of(id).all(|row| row.job_version == current));
}

#[test]
fn a_version_that_never_gets_ready_stops_the_roll_out() {
    let (mut world, id, old) = three();
    world.submit(web(2, 3));
    assert_eq!(replaced(&mut world), old[..1]);
    world.exit(old[0], 143);
    let broken = world.place(id, 0, 1);
    for _ in 0..10 {
        world.pass(10_000);
        assert!(replaced(&mut world).is_empty(), "two of three still serve");
    }
    // Going back touches only what the broken version reached.
    let back = JobChange::Rollback { to_version: 1 };
    world.one(Command::ChangeJob { job: id, if_version: None, change: back }).unwrap();
    assert_eq!(replaced(&mut world), [broken]);
    world.exit(broken, 1);
    world.run(id, 0, 1);
    assert!(replaced(&mut world).is_empty(), "the others run what is wanted");
}

const LIMIT_MS: u64 = 60_000;

/// Three ready replicas of a version, and the next, which has a minute for each.
fn updating() -> (World, JobId, Vec<AllocationId>) {
    let (mut world, id, old) = three();
    let mut newer = web(2, 3);
    newer.update.progress_deadline = Some(DurationMs(LIMIT_MS));
    world.submit(newer);
    (world, id, old)
}

/// The first of the old replicas gives its place to one of the new version.
fn first_moves(world: &mut World, id: JobId, old: &[AllocationId]) -> AllocationId {
    assert_eq!(replaced(world), old[..1]);
    world.exit(old[0], 143);
    world.place(id, 0, 1)
}

fn failed(commands: &[Command]) -> Vec<(u32, &str)> {
    let mut failed = Vec::new();
    for command in commands {
        if let Command::FailUpdate { version, reason, .. } = command {
            failed.push((*version, reason.as_str()));
        }
    }
    failed
}

#[test]
fn f44_a_version_that_never_gets_ready_fails_and_the_old_one_serves_on() {
    let (mut world, id, old) = updating();
    let broken = first_moves(&mut world, id, &old);
    world.observe(broken, Observed::Running { ready: false, started_at: WallMs(1) });
    world.pass(LIMIT_MS - 1);
    assert!(world.tick().is_empty(), "it has a minute");
    let early = Command::FailUpdate { job: id, version: 2, reason: String::new() };
    assert_eq!(world.one(early), Err(Refusal::TooEarly));
    world.pass(1);
    let commands = world.step();
    let found = "no replica of version 2 got ready within 60 s, while 2 run an older one";
    assert_eq!(failed(&commands), [(2, found)]);
    let said = format!("{found}; it stays as it is until a new version or a rollback");
    assert_eq!(world.state.jobs().get(&id).unwrap().reason, said);
    // Too late: nobody goes on by themselves with what has failed.
    world.ready(broken);
    world.pass(LIMIT_MS);
    assert!(world.tick().is_empty(), "it was said once, and no further place is taken");
    assert!(old[1..].iter().all(|id| world.is_live(*id)));
    let back = JobChange::Rollback { to_version: 1 };
    world.one(Command::ChangeJob { job: id, if_version: None, change: back }).unwrap();
    assert_eq!(world.state.jobs().get(&id).unwrap().reason, "");
    assert_eq!(replaced(&mut world), [broken]);
}

#[test]
fn f44_each_further_replica_that_gets_ready_has_the_whole_time() {
    let (mut world, id, old) = updating();
    for (instance, row) in (0..3).zip(&old) {
        world.pass(1);
        assert_eq!(replaced(&mut world), [*row]);
        world.exit(*row, 143);
        world.pass(LIMIT_MS - 2);
        assert!(world.tick().is_empty());
        world.run(id, instance, 1);
    }
    world.pass(10 * LIMIT_MS);
    assert!(world.tick().is_empty(), "it is through, and cannot fail any more");
}

#[test]
fn f44_one_that_comes_and_goes_is_no_progress() {
    let (mut world, id, old) = updating();
    let flaps = first_moves(&mut world, id, &old);
    world.ready(flaps);
    // Ready for a moment, it lets the next begin, which never gets ready.
    assert_eq!(replaced(&mut world), old[1..2]);
    world.exit(old[1], 143);
    world.place(id, 1, 2);
    for _ in 0..6 {
        world.pass(LIMIT_MS / 6);
        world.observe(flaps, Observed::Running { ready: false, started_at: WallMs(1) });
        world.ready(flaps);
    }
    let commands = world.step();
    let said = failed(&commands);
    assert!(said[0].1.starts_with("only 1 of version 2 got ready"), "{said:?}");
    world.pass(10 * LIMIT_MS);
    assert!(world.tick().is_empty());
    assert!(world.is_live(old[2]), "the old version serves on");
}

#[test]
fn f44_time_in_which_the_job_was_held_does_not_count() {
    let (mut world, id, old) = updating();
    first_moves(&mut world, id, &old);
    let change = |change| Command::ChangeJob { job: id, if_version: None, change };
    world.one(change(JobChange::Hold)).unwrap();
    world.pass(10 * LIMIT_MS);
    assert!(world.tick().is_empty());
    world.one(change(JobChange::Release)).unwrap();
    assert!(world.tick().is_empty());
    world.pass(LIMIT_MS);
    assert_eq!(failed(&world.step()).len(), 1);
}

#[test]
fn one_that_is_not_ready_goes_first() {
    let mut world = World::new(2);
    let id = world.submit(web(1, 2));
    let ready = world.run(id, 0, 1);
    let starting = world.place(id, 1, 1);
    world.submit(web(2, 2));
    assert_eq!(replaced(&mut world), [starting]);
    world.exit(starting, 143);
    world.run(id, 1, 1);
    assert_eq!(replaced(&mut world), [ready]);
}

#[test]
fn only_what_a_replica_would_notice_replaces_it() {
    type Change = fn(&mut JobSpec);
    let changes: [(&str, Change, bool); 8] = [
        ("nothing but its number of replicas", |spec| spec.tasks[0].count = 2, false),
        ("priority", |spec| spec.priority = 90, false),
        ("patience", |spec| spec.max_disconnect.0 += 1, false),
        ("command", |spec| spec.tasks[0].command = vec!["false".to_owned()], true),
        ("memory", |spec| spec.tasks[0].memory.0 += 1, true),
        (
            "environment",
            |spec| {
                spec.tasks[0].env.insert("A".to_owned(), "b".to_owned());
            },
            true,
        ),
        ("time to stop", |spec| spec.tasks[0].stop.grace.0 += 1, true),
        (
            "where it may run",
            |spec| spec.constraints.pool = Some(crate::world::name("default")),
            true,
        ),
    ];
    for (what, change, expected) in changes {
        let (mut world, _, old) = three();
        let mut spec = web(1, 3);
        change(&mut spec);
        world.submit(spec);
        let replaced = replaced(&mut world);
        assert_eq!(replaced == old[..1], expected, "{what}: {replaced:?}");
        assert_eq!(replaced.is_empty(), !expected, "{what}: {replaced:?}");
    }
}

#[test]
fn a_job_on_hold_is_left_as_it_is() {
    let (mut world, id, _) = three();
    world.submit(web(2, 3));
    let hold = Command::ChangeJob { job: id, if_version: None, change: JobChange::Hold };
    world.one(hold).unwrap();
    assert!(world.tick().is_empty());
    let release = Command::ChangeJob { job: id, if_version: None, change: JobChange::Release };
    world.one(release).unwrap();
    assert_eq!(replaced(&mut world).len(), 1);
}

#[test]
fn a_daemon_is_replaced_node_by_node() {
    let mut world = World::new(3);
    let mut spec = job(JobKind::Daemon, "shipper", 1);
    let id = world.submit(spec.clone());
    let old: Vec<AllocationId> =
        (1..=3_u32).map(|node| world.run(id, node, u64::from(node))).collect();
    spec.tasks[0].command.push("v2".to_owned());
    world.submit(spec);
    for (node, row) in (1..=3_u32).zip(&old) {
        assert_eq!(replaced(&mut world), [*row]);
        world.exit(*row, 143);
        assert!(replaced(&mut world).is_empty(), "node {node} has none now");
        let new = world.place(id, node, u64::from(node));
        assert!(replaced(&mut world).is_empty(), "that of node {node} is not ready");
        world.ready(new);
    }
    assert!(replaced(&mut world).is_empty());
}

#[test]
fn a_node_that_is_gone_does_not_hold_up_a_daemon() {
    let mut world = World::new(3);
    let mut spec = job(JobKind::Daemon, "shipper", 1);
    let id = world.submit(spec.clone());
    let old: Vec<AllocationId> =
        (1..=3_u32).map(|node| world.run(id, node, u64::from(node))).collect();
    world.disconnect(1);
    let session = world.session(1);
    let node = berth_model::NodeId(1);
    world.one(Command::DownNode { node, session }).unwrap();
    spec.tasks[0].command.push("v2".to_owned());
    world.submit(spec);
    assert_eq!(replaced(&mut world), [old[1]]);
}
