//! What is forgotten, and what is not.

use berth_model::{JobId, JobKind, NodeId, StateMs};
use berth_state::{Command, JobChange, Reply, retention};

use crate::world::{World, job, name, submission};

/// The most that the commands of one log entry may take when encoded; an
/// entry has 64 KiB, and some of it is for placements.
const ENTRY_BYTES: usize = 48 << 10;

fn reaped(commands: &[Command]) -> (Vec<JobId>, Vec<NodeId>, Vec<String>) {
    let (mut all_jobs, mut all_nodes, mut all_keys) = (Vec::new(), Vec::new(), Vec::new());
    for command in commands {
        if let Command::Reap { jobs, nodes, keys } = command {
            all_jobs.extend(jobs);
            all_nodes.extend(nodes);
            all_keys.extend(keys.iter().map(|(_, key)| key.clone()));
        }
    }
    (all_jobs, all_nodes, all_keys)
}

/// A job whose instances have all ended at once.
fn ended(world: &mut World, namespace: &str, count: u32) -> JobId {
    let mut spec = job(JobKind::Batch, "done", count);
    spec.namespace = name(namespace);
    let id = world.submit(spec);
    stop(world, id);
    id
}

fn stop(world: &mut World, id: JobId) {
    world.one(order_to_stop(id)).unwrap();
}

fn order_to_stop(job: JobId) -> Command {
    let change = JobChange::Stop { reason: String::new() };
    Command::ChangeJob { job, if_version: None, change }
}

/// Jobs that have ended, in one entry each for all submits and all ends.
fn many_ended(world: &mut World, keys: impl Iterator<Item = Option<String>>) {
    let submits = keys.map(|key| submission(job(JobKind::Batch, "done", 1), key)).collect();
    let replies = world.entry(submits);
    let stops = replies.into_iter().map(|reply| match reply {
        Ok(Reply::Submitted { job, .. }) => order_to_stop(job),
        other => panic!("unexpected {other:?}"),
    });
    world.entry(stops.collect());
}

#[test]
fn an_ended_job_goes_after_its_time_and_its_key_after_that() {
    let mut world = World::new(0);
    let spec = job(JobKind::Batch, "done", 1);
    let id = world.submit_keyed(spec.clone(), Some("once".to_owned()));
    world.now += 2 * retention::JOBS_KEPT.0;
    assert!(world.tick().is_empty(), "an unfinished job is kept for ever");
    stop(&mut world, id);
    world.now += retention::JOBS_KEPT.0 - 1;
    assert!(world.tick().is_empty());
    world.now += 1;
    assert_eq!(reaped(&world.step()), (vec![id], vec![], vec![]));
    assert!(world.state.jobs().get(&id).is_none());
    world.now += retention::KEY_KEPT.0 - 1;
    assert!(world.tick().is_empty());
    assert_eq!(world.submit_keyed(spec, Some("once".to_owned())), id, "still the same answer");
    world.now += 1;
    assert_eq!(reaped(&world.step()), (vec![], vec![], vec!["once".to_owned()]));
    assert!(world.tick().is_empty());
    assert_eq!(world.state.keys().len(), 0);
}

#[test]
fn beyond_so_many_instances_the_oldest_jobs_go_first() {
    let in_namespace = u32::try_from(retention::FINISHED_INSTANCES_IN_NAMESPACE_MAX).unwrap();
    let mut world = World::new(0);
    let first = ended(&mut world, "busy", in_namespace / 2);
    world.now += 10;
    let other = ended(&mut world, "quiet", 10);
    world.now += 10;
    ended(&mut world, "busy", in_namespace / 2);
    assert!(world.tick().is_empty(), "exactly as many as are kept");
    world.now += 10;
    ended(&mut world, "busy", 1);
    assert_eq!(reaped(&world.step()).0, [first]);
    assert!(world.tick().is_empty());
    assert!(world.state.jobs().get(&other).is_some(), "another namespace is not to blame");
}

#[test]
fn the_cluster_has_a_bound_of_its_own() {
    let each = u32::try_from(retention::FINISHED_INSTANCES_IN_NAMESPACE_MAX).unwrap();
    let spaces = retention::FINISHED_INSTANCES_MAX / retention::FINISHED_INSTANCES_IN_NAMESPACE_MAX;
    let mut world = World::new(0);
    let mut jobs = Vec::new();
    for space in 0..spaces {
        jobs.push(ended(&mut world, &format!("space-{space}"), each));
        world.now += 10;
    }
    assert!(world.tick().is_empty());
    ended(&mut world, "last", 1);
    assert_eq!(reaped(&world.step()).0, jobs[..1]);
    assert!(world.tick().is_empty());
    let total: u64 = world.state.finished_instances().map(|(_, count)| count).sum();
    assert!(total <= retention::FINISHED_INSTANCES_MAX);
}

#[test]
fn many_old_jobs_go_in_turns_until_all_are_gone() {
    let mut world = World::new(0);
    many_ended(&mut world, (0..600).map(|_| None));
    world.now += retention::JOBS_KEPT.0;
    let counts: Vec<usize> = (0..4).map(|_| reaped(&world.step()).0.len()).collect();
    assert_eq!(counts, [256, 256, 88, 0]);
}

#[test]
fn long_keys_are_forgotten_in_commands_that_fit_the_log() {
    let mut world = World::new(0);
    let count = 600;
    many_ended(&mut world, (0..count).map(|number| Some(format!("{number:0>256}"))));
    world.now += retention::JOBS_KEPT.0;
    while !world.step().is_empty() {}
    world.now += retention::KEY_KEPT.0;
    let mut forgotten = 0;
    for _ in 0..count {
        let keys = reaped(&world.step()).2;
        let bytes: usize = keys.iter().map(|key| key.len() + "default".len() + 16).sum();
        assert!(bytes <= ENTRY_BYTES, "{bytes} bytes in one command");
        forgotten += keys.len();
        if forgotten == count {
            break;
        }
        assert!(!keys.is_empty(), "{forgotten} of {count}, and then nothing");
    }
    assert_eq!(world.state.keys().len(), 0);
}

#[test]
fn a_node_that_is_down_is_forgotten_after_a_day() {
    let mut world = World::new(4);
    world.now += 20_000;
    for node in 2..=4 {
        world.soft.hear(NodeId(node), StateMs(world.now));
    }
    world.step();
    world.step();
    let down_at = world.state.nodes().get(&NodeId(1)).unwrap().since;
    assert_eq!(down_at, StateMs(world.now));
    world.pass(retention::DOWN_NODES_KEPT.0 - 1);
    assert!(world.tick().is_empty());
    world.pass(1);
    assert_eq!(reaped(&world.step()).1, [NodeId(1)]);
    assert!(world.tick().is_empty());
    assert!(world.state.nodes().get(&NodeId(1)).is_none());
}
