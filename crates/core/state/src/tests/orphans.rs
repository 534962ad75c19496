//! Workers that a restored cluster finds and cannot take back: they hold what
//! they hold until they end, and nothing begins beside them.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::{AllocationId, JobKind, NodeId, StopIntent};

use super::restores::{orphans, restored, stock_of, take_stock};
use super::world::{World, exited, job, name, node_spec};
use crate::{Command, Observed, Refusal, Reply, Stock};

/// A cluster with one orphan that holds a GPU of its only node of two.
fn with_orphan() -> (World, NodeId, AllocationId) {
    let mut world = World::new(1);
    let backup = world.state.clone();
    let id = world.submit(&job(JobKind::Batch, "later", 1, 1));
    let orphan = world.place(id, 0).unwrap();
    let mut after = restored(&backup);
    take_stock(&mut after, 0, stock_of(&backup, &world.state, "node-0")).unwrap();
    after.register(0);
    let node = after.state.node_named(&name("node-0")).unwrap();
    (after, node, orphan)
}

#[test]
fn what_an_orphan_holds_is_given_to_nobody_until_it_ends() {
    let (mut world, node, orphan) = with_orphan();
    let both = world.submit(&job(JobKind::Batch, "both", 1, 2));
    assert!(world.place(both, 0).is_err());
    let one = world.submit(&job(JobKind::Batch, "one", 1, 1));
    let placed = world.place(one, 0).unwrap();
    world.exit(placed, 0);
    assert_eq!(world.observe_from(node, orphan, Observed::Stopping), 0);
    assert_eq!(world.observe_from(node, orphan, Observed::Ended(exited(0))), 1);
    assert_eq!(world.observe_from(node, orphan, Observed::Ended(exited(0))), 0);
    world.place(both, 0).unwrap();
}

#[test]
fn an_operator_ends_an_orphan_and_an_agent_that_has_it_no_more_forgets_it() {
    let (mut world, node, orphan) = with_orphan();
    let other = AllocationId { instance: berth_model::InstanceIndex(9), ..orphan };
    let reason = || "asked for by an operator".to_owned();
    let stop = |orphans| Command::StopOrphans { node, orphans, reason: reason() };
    let before = world.state.nodes().get(&node).unwrap().generation;
    for _ in 0..2 {
        world.one(stop(vec![orphan, other])).unwrap();
        let row = world.state.nodes().get(&node).unwrap();
        assert_eq!(row.orphans[&orphan].stop, Some(reason()));
        assert_eq!(row.generation, before + 1);
    }
    let session = world.state.nodes().get(&node).unwrap().session;
    let forget = |session| Command::ForgetOrphans { node, session, orphans: vec![orphan] };
    let stale = world.one(forget(session + 1)).unwrap_err();
    assert_eq!(stale, Refusal::StaleSession { node });
    world.one(forget(session)).unwrap();
    assert_eq!(orphans(&world), BTreeMap::new());
}

#[test]
fn an_exclusive_orphan_is_ended_at_once() {
    let mut world = World::new(1);
    let mut spec = job(JobKind::Service, "a", 1, 1);
    spec.exclusive = true;
    let id = world.submit(&spec);
    world.place(id, 0).unwrap();
    let backup = world.state.clone();
    let first = *world.state.allocations().iter().next().unwrap().0;
    world.exit(first, 1);
    world.now += 1_000_000;
    world.place(id, 0).unwrap();
    let mut after = restored(&backup);
    let stock = stock_of(&backup, &world.state, "node-0");
    // The backup has the first attempt live, and nobody can say how it ended.
    take_stock(&mut after, 0, Stock { ended: Vec::new(), absent: Vec::new(), ..stock }).unwrap();
    after.register(0);
    let node = after.state.nodes().values().next().unwrap().clone();
    let (_, orphan) = node.orphans.iter().next().unwrap();
    assert!(orphan.stop.as_ref().is_some_and(|why| why.contains("must not run twice")));
    // And until it is gone nothing else is what it is.
    after.exit(first, 1);
    after.now += 1_000_000;
    assert!(after.place(id, 0).is_err());
    let ended = Observed::Ended(exited(1));
    assert_eq!(after.observe_from(node.id, *node.orphans.iter().next().unwrap().0, ended), 1);
    after.place(id, 0).unwrap();
}

/// Of an orphan whose node is silent, or down, nothing is believed until the
/// node speaks again.
#[test]
fn an_orphan_of_a_silent_node_is_not_taken_back() {
    let mut world = World::new(2);
    let id = world.submit(&job(JobKind::Batch, "a", 1, 1));
    let first = world.place(id, 0).unwrap();
    let backup = world.state.clone();
    let (intent, reason) = (StopIntent::Drain, "r".to_owned());
    let allocations = vec![first];
    world.one(Command::StopAllocations { allocations, intent, reason }).unwrap();
    world.exit(first, 1);
    let other = *world.state.nodes().iter().last().unwrap().0;
    world.one(Command::Place { placements: vec![world.placement(id, 0, other)] }).unwrap();
    let second = *world.state.allocations().iter().next().unwrap().0;
    let mut after = restored(&backup);
    let moved = stock_of(&backup, &world.state, "node-1");
    take_stock(&mut after, 1, moved.clone()).unwrap();
    after.register(1);
    assert_eq!(orphans(&after).len(), 1);
    let session = after.state.nodes().get(&other).unwrap().session;
    after.one(Command::DisconnectNode { node: other, session }).unwrap();
    let gone = Stock { absent: vec![first], complete: true, ..Stock::default() };
    take_stock(&mut after, 0, gone).unwrap();
    after.register(0);
    assert_eq!(orphans(&after).len(), 1, "it is as it was");
    after.one(Command::DownNode { node: other, session }).unwrap();
    assert_eq!(orphans(&after), BTreeMap::new());
    // It says again what is on it, and now that is wanted.
    let register = Command::RegisterNode {
        name: name("node-1"),
        instance_key: [1; 16],
        spec: Arc::new(node_spec("node-1", 2)),
    };
    assert_eq!(after.one(register), Err(Refusal::StockNotTaken { name: name("node-1") }));
    take_stock(&mut after, 1, moved).unwrap();
    after.register(1);
    assert!(after.state.allocations().contains(&second));
}

#[test]
fn no_daemon_begins_beside_an_orphan_of_its_job() {
    let mut world = World::new(1);
    let id = world.submit(&job(JobKind::Daemon, "d", 1, 0));
    let backup = world.state.clone();
    world.register(3);
    let late = world.state.node_named(&name("node-3")).unwrap();
    let instance = u32::try_from(late.0).unwrap();
    world.one(Command::Place { placements: vec![world.placement(id, instance, late)] }).unwrap();
    let running = *world.state.allocations().iter().next().unwrap().0;
    let mut after = restored(&backup);
    for number in [0, 3] {
        let stock = stock_of(&backup, &world.state, &format!("node-{number}"));
        take_stock(&mut after, number, stock).unwrap();
        after.register(number);
    }
    let node = after.state.node_named(&name("node-3")).unwrap();
    assert!(node.0 > 1_000_000 && orphans(&after).contains_key(&running));
    let beside = after.placement(id, u32::try_from(node.0).unwrap(), node);
    let place = Command::Place { placements: vec![beside] };
    let Reply::Placed { granted, .. } = after.one(place.clone()).unwrap() else { unreachable!() };
    assert_eq!(granted, []);
    after.observe_from(node, running, Observed::Ended(exited(0)));
    let Reply::Placed { granted, .. } = after.one(place).unwrap() else { unreachable!() };
    assert_eq!(granted.len(), 1);
}
