//! A backup restored while the workers of a later time still run: none of them
//! is lost sight of, nothing is given out twice, no id comes back.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::{
    AllocationId, DeviceWay, DurationMs, JobKind, NodeId, NodeState, PcieWay, StopIntent,
    TaskIndex, WallMs,
};

use super::world::{World, exited, job, name, node_spec};
use crate::{
    ClusterState, Command, JobChange, Refusal, Reply, Restoration, RestorationError, Seat, Stock,
    Unknown,
};

fn restoration(incarnation: u64) -> Restoration {
    Restoration {
        incarnation,
        id: [9; 16],
        instance_key: [8; 16],
        address: "10.0.0.9:7070".to_owned(),
        await_for: DurationMs::from_secs(600),
        await_at_least: DurationMs(0),
    }
}

/// The cluster of `backup` in its next incarnation.
pub fn restored(backup: &ClusterState) -> World {
    let (state, _) = backup.restored(&restoration(backup.cluster().incarnation + 1)).unwrap();
    World::of(state)
}

/// Everything live in `later` on the node called `text`, as its agent would
/// tell it to a cluster restored from `backup`.
pub fn stock_of(backup: &ClusterState, later: &ClusterState, text: &str) -> Stock {
    let live_on = |state: &ClusterState| -> Vec<AllocationId> {
        let node = state.node_named(&name(text));
        let row = node.and_then(|node| state.nodes().get(&node));
        row.map_or(Vec::new(), |row| row.live.iter().copied().collect())
    };
    let (known, here) = (live_on(backup), live_on(later));
    let gone = known.iter().filter(|id| !here.contains(id));
    let (even, odd): (Vec<&AllocationId>, Vec<&AllocationId>) =
        gone.partition(|id| id.instance.0 % 2 == 0);
    let unknown = here.iter().filter(|id| !known.contains(id)).map(|id| {
        let row = later.allocations().get(id).unwrap();
        Unknown {
            allocation: *id,
            namespace: "default".to_owned(),
            job_name: later.jobs().get(&id.job).unwrap().name().to_string(),
            spec_digest: row.spec_digest,
            claim: row.claim.clone(),
        }
    });
    Stock {
        ended: even.into_iter().map(|id| (*id, exited(0))).collect(),
        absent: odd.into_iter().copied().collect(),
        unknown: unknown.collect(),
        complete: true,
    }
}

pub fn take_stock(world: &mut World, number: usize, stock: Stock) -> Result<Reply, Refusal> {
    let text = format!("node-{number}");
    world.one(Command::TakeStock {
        name: name(&text),
        instance_key: [u8::try_from(number).unwrap(); 16],
        spec: Arc::new(node_spec(&text, 2)),
        stock,
    })
}

pub fn orphans(world: &World) -> BTreeMap<AllocationId, String> {
    let rows = world.state.nodes().values();
    rows.flat_map(|row| row.orphans.iter().map(|(id, orphan)| (*id, orphan.why.clone()))).collect()
}

#[test]
fn every_counter_moves_beyond_what_the_lost_time_can_have_used() {
    let mut world = World::new(2);
    let id = world.submit(&job(JobKind::Batch, "a", 2, 0));
    let address = "127.0.0.1:1".to_owned();
    let instance_key = [1; 16];
    let admit = Command::AdmitScheduler { instance_key, address, seat: Seat::Voter, proof: None };
    world.one(admit).unwrap();
    let (state, scheduler) = world.state.restored(&restoration(2)).unwrap();
    assert_eq!(scheduler, 1_001);
    assert_eq!(state.cluster().job_counter, 1_000_000);
    assert_eq!(state.cluster().node_counter, 1_000_000);
    let seats: Vec<_> =
        state.cluster().schedulers.iter().map(|(id, row)| (*id, row.seat)).collect();
    assert_eq!(seats, [(1, None), (2, None), (1_001, Some(Seat::Voter))]);
    let task = state.tasks().get(&(id, TaskIndex(0))).unwrap();
    assert_eq!(state.next_attempt(id, task, 0).0, 1_000_001);
    for (id, row) in state.nodes().iter() {
        assert_eq!(row.state, NodeState::Disconnected);
        let before = world.state.nodes().get(id).unwrap().generation;
        assert_eq!(row.generation, before + (1 << 20));
    }
    assert_eq!(state.awaited(), 2);
    // The same backup once more: what the first restore gave out comes not again.
    let (again, scheduler) = world.state.restored(&restoration(3)).unwrap();
    assert_eq!((again.cluster().job_counter, scheduler), (2_000_000, 2_001));
    let refused = state.restored(&restoration(2)).unwrap_err();
    assert_eq!(refused, RestorationError::Incarnation { found: 2, asked: 2 });
    let nothing = ClusterState::default().restored(&restoration(2)).unwrap_err();
    assert_eq!(nothing, RestorationError::NotFounded);
    let far = world.state.restored(&restoration(1_002)).unwrap_err();
    assert_eq!(far, RestorationError::TooFar { found: 1, asked: 1_002 });
    // A counter that is about to cross its million leaves no room for what came.
    for (counter, expected) in [(499_999, 1_000_000), (999_990, 2_000_000), (1_000_000, 2_000_000)]
    {
        let mut near = world.state.clone();
        near.cluster.job_counter = counter;
        let (near, _) = near.restored(&restoration(2)).unwrap();
        assert_eq!(near.cluster().job_counter, expected, "{counter}");
    }
}

#[test]
fn nothing_is_placed_until_every_node_has_said_what_is_on_it() {
    let mut world = World::new(2);
    let id = world.submit(&job(JobKind::Batch, "a", 1, 1));
    let mut world = restored(&world.state);
    assert_eq!(world.place(id, 0).unwrap_err()[0], Refusal::Awaiting { awaited: 2 });
    let register = Command::RegisterNode {
        name: name("node-0"),
        instance_key: [0; 16],
        spec: Arc::new(node_spec("node-0", 2)),
    };
    let refused = world.one(register).unwrap_err();
    assert_eq!(refused, Refusal::StockNotTaken { name: name("node-0") });
    let (node, session) = (NodeId(1), 1);
    for silence in [Command::DownNode { node, session }, Command::DisconnectNode { node, session }]
    {
        assert_eq!(world.one(silence), Err(Refusal::Awaiting { awaited: 2 }));
    }
    take_stock(&mut world, 0, Stock { complete: true, ..Stock::default() }).unwrap();
    world.register(0);
    assert_eq!(world.place(id, 0).unwrap_err()[0], Refusal::Awaiting { awaited: 1 });
    world.now += 1;
    world.one(Command::StopAwaiting).unwrap();
    assert_eq!(world.place(id, 0).unwrap().attempt.0, 1_000_001);
    // The other one may still come, and new ones too.
    for number in [1, 7] {
        let text = name(&format!("node-{number}"));
        take_stock(&mut world, number, Stock { complete: true, ..Stock::default() }).unwrap();
        world.register(number);
        let node = world.state.node_named(&text).unwrap();
        assert_eq!(world.state.nodes().get(&node).unwrap().state, NodeState::Ready);
        assert_eq!(node, NodeId(if number == 1 { 2 } else { 1_000_001 }));
    }
}

#[test]
fn nodes_that_the_backup_does_not_know_have_a_while_to_come() {
    let mut world = World::new(1);
    let id = world.submit(&job(JobKind::Batch, "a", 1, 0));
    let patient = Restoration { await_at_least: DurationMs(5_000), ..restoration(2) };
    let mut world = World::of(world.state.restored(&patient).unwrap().0);
    take_stock(&mut world, 0, Stock { complete: true, ..Stock::default() }).unwrap();
    world.register(0);
    assert_eq!(world.place(id, 0).unwrap_err()[0], Refusal::Awaiting { awaited: 0 });
    world.now += 5_000;
    world.place(id, 0).unwrap();
}

/// An update after a restore brings no id back, nor does a job that had ended.
#[test]
fn the_floor_of_attempts_outlives_updates_and_ends() {
    for ended in [false, true] {
        let mut world = World::new(1);
        let spec = job(JobKind::Service, "a", 1, 0);
        let id = world.submit(&spec);
        let first = world.place(id, 0).unwrap();
        if ended {
            let change = JobChange::Stop { reason: "r".to_owned() };
            world.one(Command::ChangeJob { job: id, if_version: None, change }).unwrap();
            world.exit(first, 0);
        }
        let mut world = restored(&world.state);
        let stock = Stock { absent: vec![first], complete: true, ..Stock::default() };
        take_stock(&mut world, 0, stock).unwrap();
        world.register(0);
        let mut newer = spec.clone();
        newer.priority += 1;
        newer.tasks[0].count = 3;
        newer.tasks.push(berth_model::TaskSpec { name: name("second"), ..newer.tasks[0].clone() });
        assert_eq!(world.submit(&newer), id);
        for instance in 0..3 {
            let placed = world.place(id, instance).unwrap();
            assert_eq!(placed.attempt.0, 1_000_001, "{ended} {placed}");
        }
        let second = world.state.tasks().get(&(id, TaskIndex(1))).unwrap();
        assert_eq!(world.state.next_attempt(id, second, 0).0, 1_000_001);
        // What is new is counted from the beginning.
        let fresh = world.submit(&job(JobKind::Batch, "fresh", 1, 0));
        assert_eq!(world.place(fresh, 0).unwrap().attempt.0, 1);
    }
}

/// The instance was on node 0 when the backup was made, and moved to node 1.
fn check_moved(order: [usize; 2], spec: &berth_model::JobSpec) {
    let mut world = World::new(2);
    let id = world.submit(spec);
    let first = world.place(id, 0).unwrap();
    let backup = world.state.clone();
    let (intent, reason) = (StopIntent::Drain, "r".to_owned());
    let stop = Command::StopAllocations { allocations: vec![first], intent, reason };
    world.one(stop).unwrap();
    world.exit(first, 1);
    let other = *world.state.nodes().iter().last().unwrap().0;
    let moved = Command::Place { placements: vec![world.placement(id, 0, other)] };
    world.one(moved).unwrap();
    let second = *world.state.allocations().iter().next().unwrap().0;
    assert_ne!(first, second);
    let mut after = restored(&backup);
    for number in order {
        let stock = stock_of(&backup, &world.state, &format!("node-{number}"));
        let stock = Stock {
            ended: Vec::new(),
            absent: [first].into_iter().filter(|_| number == 0).collect(),
            ..stock
        };
        take_stock(&mut after, number, stock).unwrap();
        after.register(number);
    }
    assert_eq!(orphans(&after), BTreeMap::new(), "{order:?} {}", spec.exclusive);
    assert!(after.state.allocations().contains(&second), "{order:?} {}", spec.exclusive);
}

#[test]
fn the_order_in_which_nodes_come_does_not_matter() {
    for exclusive in [false, true] {
        let spec = berth_model::JobSpec { exclusive, ..job(JobKind::Batch, "a", 1, 1) };
        check_moved([0, 1], &spec);
        check_moved([1, 0], &spec);
    }
}

/// Ways are said by position: they go with the devices that are not the node's.
#[test]
fn a_node_keeps_the_ways_between_those_devices_that_are_its_own() {
    let world = World::new(1);
    let mut after = restored(&world.state);
    let mut spec = node_spec("renamed", 3);
    spec.devices[1].uuid = "GPU-node-0-0".to_owned();
    let way = |nvlinks| DeviceWay { pcie: PcieWay::Switch, nvlinks };
    spec.devices[1].ways = vec![way(1)];
    spec.devices[2].ways = vec![way(2), way(3)];
    let stock = stock_of(&world.state, &world.state, "node-0");
    let (text, spec) = (name("renamed"), Arc::new(spec));
    after
        .one(Command::TakeStock { name: text.clone(), instance_key: [9; 16], spec, stock })
        .unwrap();
    let node = after.state.node_named(&text).unwrap();
    let devices = &after.state.nodes().get(&node).unwrap().spec.devices;
    let told: Vec<_> = devices.iter().map(|one| (one.uuid.as_str(), one.ways.clone())).collect();
    let expected = [("GPU-renamed-0", vec![]), ("GPU-renamed-2", vec![way(2)])];
    assert_eq!(told, expected);
}

/// The host of node 0 comes back under another name: what runs on it is heard
/// although its devices are still node 0's.
#[test]
fn what_a_renamed_agent_runs_is_known_before_its_devices_are_its_own() {
    let mut world = World::new(1);
    let backup = world.state.clone();
    let late = world.submit(&job(JobKind::Batch, "late", 1, 1));
    let ran = world.place(late, 0).unwrap();
    let mut after = restored(&backup);
    let stock = stock_of(&backup, &world.state, "node-0");
    let renamed = |stock| Command::TakeStock {
        name: name("renamed"),
        instance_key: [9; 16],
        spec: Arc::new(node_spec("node-0", 2)),
        stock,
    };
    after.one(renamed(stock)).unwrap();
    assert_eq!(orphans(&after).into_keys().collect::<Vec<_>>(), [ran]);
    let node = after.state.node_named(&name("renamed")).unwrap();
    assert_eq!(after.state.nodes().get(&node).unwrap().spec.devices, []);
    let register = Command::RegisterNode {
        name: name("renamed"),
        instance_key: [9; 16],
        spec: Arc::new(node_spec("node-0", 2)),
    };
    let refused = after.one(register).unwrap_err();
    assert!(matches!(refused, Refusal::DeviceElsewhere { .. }), "{refused:?}");
}

/// The agent has less to give than the backup knows, and some of what runs
/// holds what is gone.
#[test]
fn a_smaller_inventory_breaks_nothing_and_frees_nothing_that_is_held() {
    let mut world = World::new(1);
    let id = world.submit(&job(JobKind::Batch, "known", 1, 1));
    world.place(id, 0).unwrap();
    let backup = world.state.clone();
    let late = world.submit(&job(JobKind::Batch, "late", 1, 1));
    world.place(late, 0).unwrap();
    let mut stock = stock_of(&backup, &world.state, "node-0");
    stock.unknown[0].claim.cpu.0 = u64::MAX;
    let mut after = restored(&backup);
    let mut spec = node_spec("node-0", 1);
    spec.cpu.0 = 50;
    let key = [0; 16];
    let told = |stock| Command::TakeStock {
        name: name("node-0"),
        instance_key: key,
        spec: Arc::new(spec.clone()),
        stock,
    };
    after.one(told(stock)).unwrap();
    let node = after.state.nodes().values().next().unwrap();
    assert_eq!(node.orphans.values().next().unwrap().claim.devices.len(), 1);
    assert_eq!(node.used.devices.len(), 2);
    let register = Command::RegisterNode {
        name: name("node-0"),
        instance_key: key,
        spec: Arc::new(spec.clone()),
    };
    after.one(register).unwrap();
    assert_eq!(orphans(&after).len(), 1);
}

/// What becomes of a worker that was placed after the backup, when `between`
/// changes the job after the backup and before the placement.
fn check_unknown(kind: JobKind, change: &[&str], expected: Result<(), &str>) {
    let mut world = World::new(1);
    let spec = job(kind, "a", 2, 1);
    let id = world.submit(&spec);
    if change.contains(&"started before") {
        world.place(id, 0).unwrap();
    }
    let backup = world.state.clone();
    if change.contains(&"new job") {
        let newer = world.submit(&job(kind, "b", 2, 1));
        world.place(newer, 0).unwrap();
    } else {
        if change.contains(&"new version") {
            let mut newer = spec.clone();
            newer.priority += 1;
            assert_eq!(world.submit(&newer), id);
        }
        if change.contains(&"started before") {
            let first = world.state.allocations().iter().next().unwrap().0;
            let allocations = vec![*first];
            let (intent, reason) = (StopIntent::Drain, "r".to_owned());
            world.one(Command::StopAllocations { allocations, intent, reason }).unwrap();
            world.exit(*world.state.allocations().clone().iter().next().unwrap().0, 1);
        }
        world.place(id, 0).unwrap();
    }
    let running = *world.state.allocations().iter().next().unwrap().0;
    let mut after = restored(&backup);
    let mut stock = stock_of(&backup, &world.state, "node-0");
    if change.contains(&"worker first") {
        // As if the agent could not say what has become of the earlier one.
        (stock.ended, stock.absent) = (Vec::new(), Vec::new());
    }
    take_stock(&mut after, 0, stock).unwrap();
    after.register(0);
    let found = orphans(&after);
    match expected {
        Ok(()) => {
            assert_eq!(found, BTreeMap::new(), "{change:?}");
            assert!(after.state.allocations().contains(&running), "{change:?}");
            assert_eq!(after.exit(running, 0), 1);
        }
        Err(why) => {
            let said = found.get(&running).cloned().unwrap_or_default();
            assert!(said.contains(why), "{change:?}: {said}");
            assert!(!after.state.allocations().contains(&running), "{change:?}");
        }
    }
}

#[test]
fn a_worker_that_the_backup_does_not_know_is_taken_back_or_kept_as_an_orphan() {
    check_unknown(JobKind::Batch, &[], Ok(()));
    check_unknown(JobKind::Service, &[], Ok(()));
    check_unknown(JobKind::Batch, &["new job"], Err("does not know its job"));
    check_unknown(JobKind::Service, &["new version"], Err("by another specification"));
    check_unknown(JobKind::Service, &["started before"], Ok(()));
    check_unknown(JobKind::Service, &["started before", "worker first"], Err("does not wait"));
}

#[test]
fn an_inventory_is_told_in_pieces_and_again() {
    let mut world = World::new(1);
    let id = world.submit(&job(JobKind::Batch, "a", 2, 0));
    let backup = world.state.clone();
    for instance in [0, 1] {
        world.place(id, instance).unwrap();
    }
    let whole = stock_of(&backup, &world.state, "node-0");
    let mut after = restored(&backup);
    let piece = |at: usize| Stock {
        unknown: vec![whole.unknown[at].clone()],
        complete: at == 1,
        ..Stock::default()
    };
    // A new leader begins again.
    for at in [0, 0, 1, 1] {
        take_stock(&mut after, 0, piece(at)).unwrap();
    }
    assert_eq!(after.state.allocations().len(), 2);
    assert_eq!(after.state.awaited(), 1, "it has not come yet, it has only said what is on it");
    after.register(0);
    assert_eq!(after.state.awaited(), 0);
}

/// It was taken back, and given up before its agent had heard so much.
#[test]
fn a_worker_that_was_given_up_is_told_again_when_its_node_returns() {
    let mut world = World::new(1);
    let id = world.submit(&job(JobKind::Batch, "a", 1, 1));
    let backup = world.state.clone();
    let running = world.place(id, 0).unwrap();
    let stock = stock_of(&backup, &world.state, "node-0");
    let mut after = restored(&backup);
    take_stock(&mut after, 0, stock.clone()).unwrap();
    after.register(0);
    let node = only_node(&after);
    let session = after.state.nodes().get(&node).unwrap().session;
    after.one(Command::DisconnectNode { node, session }).unwrap();
    let allocations = vec![running];
    let reason = "silent".to_owned();
    after.one(Command::LoseAllocations { node, session, allocations, reason }).unwrap();
    assert!(!after.state.allocations().contains(&running));
    take_stock(&mut after, 0, stock).unwrap();
    after.register(0);
    // Nothing has taken its place.
    assert!(orphans(&after).is_empty());
    let runs = crate::Observed::Running { ready: true, started_at: WallMs(5) };
    assert_eq!(after.observe_from(node, running, runs), 1);
    assert!(after.state.allocations().contains(&running));
}

fn only_node(world: &World) -> NodeId {
    *world.state.nodes().iter().next().unwrap().0
}
