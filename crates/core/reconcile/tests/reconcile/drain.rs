//! The order in which a node is emptied.

use std::collections::BTreeSet;

use berth_model::{
    AllocationId, Drain, DurationMs, JobKind, NodeId, OnReturn, StateMs, StopIntent,
};
use berth_reconcile::{DrainWait, drain_waits, turn_of};
use berth_state::{Command, JobChange, Observation, Observed, Purpose};

use crate::world::{World, exited, job, stopped};

const DRAIN: Purpose = Purpose::Draining(Drain { deadline: None });

fn moved(world: &mut World) -> Vec<AllocationId> {
    stopped(&world.step(), StopIntent::Drain)
}

#[test]
fn nothing_moves_where_nothing_is_drained() {
    let mut world = World::new(2);
    let web = world.submit(job(JobKind::Service, "web", 2));
    world.run(web, 0, 1);
    world.run(web, 1, 1);
    world.set(1, Purpose::Cordoned);
    assert!(world.tick().is_empty());
}

#[test]
fn replicas_of_a_task_move_one_after_the_other() {
    let mut world = World::new(2);
    let web = world.submit(job(JobKind::Service, "web", 3));
    let here: Vec<AllocationId> = (0..3).map(|instance| world.run(web, instance, 1)).collect();
    world.set(1, DRAIN);
    for (position, old) in here.iter().enumerate() {
        assert_eq!(moved(&mut world), [*old]);
        assert!(moved(&mut world).is_empty(), "it is still stopping");
        world.exit(*old, 143);
        assert!(moved(&mut world).is_empty(), "its successor has no place yet");
        let new = world.place(web, u32::try_from(position).unwrap(), 2);
        assert!(moved(&mut world).is_empty(), "its successor is not ready yet");
        world.ready(new);
    }
    assert!(moved(&mut world).is_empty());
}

#[test]
fn tasks_of_different_jobs_move_at_the_same_time() {
    let mut world = World::new(2);
    let ids: Vec<AllocationId> = ["one", "two"]
        .iter()
        .map(|name| {
            let id = world.submit(job(JobKind::Service, name, 1));
            world.run(id, 0, 1)
        })
        .collect();
    world.set(1, DRAIN);
    assert_eq!(moved(&mut world), ids);
}

#[test]
fn two_nodes_that_are_drained_together_move_one_replica_at_a_time() {
    let mut world = World::new(3);
    let web = world.submit(job(JobKind::Service, "web", 2));
    let first = world.run(web, 0, 1);
    let second = world.run(web, 1, 2);
    world.set(1, DRAIN);
    world.set(2, DRAIN);
    assert_eq!(moved(&mut world), [first]);
    world.exit(first, 143);
    assert!(moved(&mut world).is_empty());
    world.run(web, 0, 3);
    assert_eq!(moved(&mut world), [second]);
}

#[test]
fn a_drain_and_a_new_version_together_take_one_replica_at_a_time() {
    let mut world = World::new(3);
    let mut spec = job(JobKind::Service, "web", 2);
    let web = world.submit(spec.clone());
    let elsewhere = world.run(web, 0, 2);
    let here = world.run(web, 1, 1);
    spec.tasks[0].command.push("v2".to_owned());
    world.submit(spec);
    world.set(1, DRAIN);
    let commands = world.step();
    assert_eq!(stopped(&commands, StopIntent::Drain), [here]);
    assert_eq!(stopped(&commands, StopIntent::Replace), []);
    assert!(world.step().is_empty());
    world.exit(here, 143);
    world.run(web, 1, 3);
    assert_eq!(stopped(&world.step(), StopIntent::Replace), [elsewhere]);
}

#[test]
fn a_replica_that_is_out_of_time_counts_as_gone() {
    let mut world = World::new(3);
    let mut spec = job(JobKind::Service, "web", 2);
    spec.tasks[0].time_limit = Some(berth_model::DurationMs(5_000));
    let web = world.submit(spec);
    let over = world.run(web, 0, 2);
    world.pass(4_000);
    world.run(web, 1, 1);
    world.pass(1_000);
    world.set(1, DRAIN);
    let commands = world.step();
    assert_eq!(stopped(&commands, StopIntent::TimeOut), [over]);
    assert_eq!(stopped(&commands, StopIntent::Drain), []);
}

#[test]
fn a_replica_that_is_not_ready_anyway_moves_at_once() {
    let mut world = World::new(2);
    let web = world.submit(job(JobKind::Service, "web", 2));
    let ready = world.run(web, 0, 1);
    let starting = world.place(web, 1, 1);
    world.set(1, DRAIN);
    assert_eq!(moved(&mut world), [starting], "it serves nobody");
    assert!(moved(&mut world).is_empty(), "the other one is all there is");
    world.exit(starting, 143);
    world.run(web, 1, 2);
    assert_eq!(moved(&mut world), [ready]);
}

#[test]
fn batch_work_may_finish_until_the_deadline() {
    let mut world = World::new(1);
    let train = world.submit(job(JobKind::Batch, "train", 2));
    let both = [world.run(train, 0, 1), world.place(train, 1, 1)];
    let deadline = Some(StateMs(world.now + 60_000));
    world.set(1, Purpose::Draining(Drain { deadline }));
    world.pass(59_999);
    assert!(moved(&mut world).is_empty());
    world.pass(1);
    assert_eq!(moved(&mut world), both);
    assert!(moved(&mut world).is_empty(), "it was said once");
    // Nothing is held against an instance whose node was emptied.
    world.exit(both[0], 143);
    assert_eq!(world.state.queue_len(), 1);
}

#[test]
fn the_deadline_is_stronger_than_the_wish_to_keep_replicas() {
    let mut world = World::new(1);
    let web = world.submit(job(JobKind::Service, "web", 3));
    let all: Vec<AllocationId> = (0..3).map(|instance| world.run(web, instance, 1)).collect();
    let deadline = Some(StateMs(world.now + 1_000));
    world.set(1, Purpose::Draining(Drain { deadline }));
    assert_eq!(moved(&mut world), all[..1]);
    world.pass(1_000);
    assert_eq!(moved(&mut world), all[1..]);
}

#[test]
fn daemons_go_when_everything_else_is_gone() {
    let mut world = World::new(2);
    let shipper = world.submit(job(JobKind::Daemon, "shipper", 1));
    let web = world.submit(job(JobKind::Service, "web", 1));
    let train = world.submit(job(JobKind::Batch, "train", 1));
    let daemon = world.run(shipper, 1, 1);
    let replica = world.run(web, 0, 1);
    let batch = world.run(train, 0, 1);
    world.set(1, DRAIN);
    assert_eq!(moved(&mut world), [replica]);
    world.exit(batch, 0);
    assert!(moved(&mut world).is_empty(), "the replica is still stopping");
    world.exit(replica, 143);
    assert_eq!(moved(&mut world), [daemon]);
    world.exit(daemon, 143);
    assert!(moved(&mut world).is_empty());
    assert_eq!(world.try_place(shipper, 1, 1), None, "a draining node takes nothing");
}

#[test]
fn f45_a_replica_without_a_place_elsewhere_stays_until_the_deadline() {
    let mut world = World::new(2);
    let web = world.submit(job(JobKind::Service, "web", 2));
    let here = world.run(web, 0, 1);
    let starting = world.place(web, 1, 1);
    world.room_elsewhere = false;
    let deadline = Some(StateMs(world.now + 60_000));
    world.set(1, Purpose::Draining(Drain { deadline }));
    assert_eq!(waits(&world, 1), [(here, OtherReplicas), (starting, Place)]);
    assert!(moved(&mut world).is_empty(), "not even one that serves nobody");
    world.ready(starting);
    assert_eq!(waits(&world, 1), [(here, Place), (starting, OtherReplicas)]);
    world.pass(59_000);
    assert!(moved(&mut world).is_empty());
    world.room_elsewhere = true;
    assert_eq!(waits(&world, 1), [(starting, OtherReplicas)]);
    assert_eq!(moved(&mut world), [here], "as soon as there is a place");
    world.room_elsewhere = false;
    world.pass(1_000);
    assert_eq!(moved(&mut world), [starting], "nothing waits for longer than the deadline");
}

#[test]
fn f45_those_without_a_place_keep_nobody_from_asking() {
    const TASKS: u32 = 40;
    let mut world = World::new(2);
    let mut ids = BTreeSet::new();
    for number in 0..TASKS {
        let web = world.submit(job(JobKind::Service, &format!("web-{number}"), 1));
        ids.insert(world.run(web, 0, 1));
    }
    world.set(1, DRAIN);
    let mut asked = BTreeSet::new();
    // A leader to whom all was refused asks no more than once in a turn.
    for _ in 0..TASKS / 8 {
        let turn = turn_of(StateMs(world.now));
        world.pass(1_000);
        assert_ne!(turn_of(StateMs(world.now)), turn);
        let mut asked_now = 0;
        let commands = world.tick_with(&mut |id| {
            asked_now += 1;
            asked.insert(id);
            false
        });
        assert!(commands.is_empty() && asked_now <= 8, "{asked_now} in one tick");
    }
    assert_eq!(asked, ids);
}

#[test]
fn f45_a_silent_node_is_drained_when_it_is_back_or_given_up() {
    let mut world = World::new(2);
    let mut spec = job(JobKind::Service, "web", 2);
    spec.max_disconnect = DurationMs::from_secs(3_600);
    let web = world.submit(spec);
    let here = world.run(web, 0, 1);
    let there = world.run(web, 1, 2);
    let deadline = Some(StateMs(world.now + 60_000));
    world.set(1, Purpose::Draining(Drain { deadline }));
    world.disconnect(1);
    let silent = |world: &mut World, ms: u64| {
        world.now += ms;
        world.soft.hear(NodeId(2), StateMs(world.now));
    };
    silent(&mut world, 50_000);
    assert_eq!(waits(&world, 1), [(here, SilentNode)]);
    assert!(world.tick().is_empty(), "nobody could carry an order out");
    // It is back before the deadline, and is emptied.
    let mut back = world.clone();
    back.register(1);
    assert_eq!(moved(&mut back), [here]);
    // It is not, and nobody waits for longer than the deadline.
    silent(&mut world, 10_000);
    world.step();
    world.step();
    assert!(!world.is_live(here) && world.is_live(there));
    let again = world.run(web, 0, 2);
    assert!(world.is_live(again));
}

#[test]
fn f45_in_place_of_what_is_held_nothing_comes_and_it_stays_until_the_deadline() {
    let mut world = World::new(2);
    let web = world.submit(job(JobKind::Service, "web", 1));
    let here = world.run(web, 0, 1);
    let change = JobChange::Hold;
    world.one(Command::ChangeJob { job: web, if_version: None, change }).unwrap();
    let deadline = Some(StateMs(world.now + 60_000));
    world.set(1, Purpose::Draining(Drain { deadline }));
    assert_eq!(waits(&world, 1), [(here, Held)]);
    let asks = world.tick_with(&mut |id| panic!("{id} is held"));
    assert!(asks.is_empty());
    world.pass(60_000);
    assert_eq!(moved(&mut world), [here]);
}

#[test]
fn f45_what_is_told_of_a_drain_is_what_happens_and_costs_no_more_than_a_tick() {
    let mut world = World::new(3);
    let web = world.submit(job(JobKind::Service, "web", 2));
    let first = world.run(web, 0, 1);
    let second = world.run(web, 1, 2);
    for number in 0..12 {
        let other = world.submit(job(JobKind::Service, &format!("other-{number}"), 1));
        world.run(other, 0, 1);
    }
    world.set(1, DRAIN);
    world.set(2, DRAIN);
    world.room_elsewhere = false;
    assert_eq!(waits(&world, 2), [(second, OtherReplicas)], "the first of them moves first");
    let told = waits(&world, 1);
    assert_eq!(told[0], (first, Place));
    let of = |wanted: DrainWait| told.iter().filter(|(_, wait)| *wait == wanted).count();
    assert_eq!((told.len(), of(Place), of(Turn)), (13, 8, 5));
    let row = world.state.nodes().get(&NodeId(1)).unwrap();
    let seen = drain_waits(&world.state, row, |id| id == first, &mut |id| {
        assert_eq!(id, first, "nobody asks about what is not shown");
        false
    });
    assert_eq!(seen, [(first, Place)]);
}

#[test]
fn f45_a_worker_that_was_given_up_and_has_not_ended_is_told_of() {
    let mut world = World::new(2);
    let mut spec = job(JobKind::Service, "web", 1);
    spec.on_return = OnReturn::KeepReplacement;
    let web = world.submit(spec);
    let here = world.run(web, 0, 1);
    world.disconnect(1);
    let (allocations, reason) = (vec![here], "silent".to_owned());
    let (node, session) = (NodeId(1), world.session(1));
    world.one(Command::LoseAllocations { node, session, allocations, reason }).unwrap();
    world.run(web, 0, 2);
    world.set(1, DRAIN);
    assert_eq!(waits(&world, 1), [(here, SilentNode)]);
    world.register(1);
    assert_eq!(waits(&world, 1), [(here, ItsWorker)]);
    let observations = vec![Observation { allocation: here, observed: Observed::Ended(exited(1)) }];
    world.one(Command::Observe { node, observations }).unwrap();
    assert_eq!(waits(&world, 1), []);
}

#[test]
fn f45_a_replica_on_a_silent_node_serves_nobody() {
    let mut world = World::new(3);
    let mut spec = job(JobKind::Service, "web", 2);
    spec.max_disconnect = DurationMs::from_secs(3_600);
    let web = world.submit(spec);
    let here = world.run(web, 0, 1);
    world.run(web, 1, 2);
    world.set(1, DRAIN);
    world.disconnect(2);
    assert!(moved(&mut world).is_empty(), "it may be the last one that serves");
    assert_eq!(waits(&world, 1), [(here, OtherReplicas)]);
    world.register(2);
    assert_eq!(moved(&mut world), [here]);
}

use DrainWait::{Held, ItsWorker, OtherReplicas, Place, SilentNode, Turn};

fn waits(world: &World, node: u64) -> Vec<(AllocationId, DrainWait)> {
    let row = world.state.nodes().get(&NodeId(node)).unwrap();
    drain_waits(&world.state, row, |_| true, &mut |_| world.room_elsewhere)
}
