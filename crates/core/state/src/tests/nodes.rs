use std::sync::Arc;

use berth_model::{
    AllocationState, DeviceHealth, EndCause, EndReport, JobKind, Name, NodeId, NodeState,
    PortRange, StopIntent,
};

use super::world::{World, exited, job, name, node_spec};
use crate::{
    ClusterState, Command, DevicePurpose, Observed, Purpose, Refusal, Reply, Seat, Stored,
};

/// A device that takes nothing new keeps its work; one that is lost does not, and what
/// is on the others of its node stays.
#[test]
fn work_leaves_a_lost_device_and_stays_on_one_that_takes_nothing_new() {
    let mut world = World::new(1);
    let id = world.submit(&job(JobKind::Batch, "a", 2, 1));
    let first = world.place(id, 0).unwrap();
    let second = world.place(id, 1).unwrap();
    let used = world.state.allocations().get(&first).unwrap().claim.devices[0].uuid.clone();
    let mut told = |health: DeviceHealth| {
        let mut spec = node_spec("node-0", 2);
        spec.devices.iter_mut().filter(|device| device.uuid == used).for_each(|device| {
            device.health = health;
        });
        let spec = Arc::new(spec);
        let command = Command::RegisterNode { name: name("node-0"), instance_key: [0; 16], spec };
        world.one(command).unwrap();
        [first, second].map(|id| {
            let state = world.state.allocations().get(&id).unwrap().state;
            state.stop_intent()
        })
    };
    assert_eq!(told(DeviceHealth::Cordoned), [None, None]);
    assert_eq!(told(DeviceHealth::Healthy), [None, None]);
    assert_eq!(told(DeviceHealth::Lost), [Some(StopIntent::Drain), None]);
}

/// An operator's word outlives what the agent says of the device, also while it is away.
#[test]
fn a_cordoned_device_stays_cordoned_whatever_its_agent_says() {
    let mut world = World::new(1);
    let node = only(&world);
    let set = |uuid: &str, purpose| {
        let uuid = uuid.to_owned();
        Command::SetDevicePurpose { node, uuid, purpose }
    };
    let (own, stranger) = ("GPU-node-0-0", "GPU-elsewhere");
    let refused = world.one(set(stranger, DevicePurpose::Cordoned)).unwrap_err();
    assert_eq!(refused, Refusal::NoSuchDevice { uuid: stranger.to_owned(), node });
    world.one(set(own, DevicePurpose::Cordoned)).unwrap();
    let before = world.state.hash();
    world.one(set(own, DevicePurpose::Cordoned)).unwrap();
    let id = world.submit(&job(JobKind::Batch, "a", 2, 1));
    let placed = world.place(id, 0).unwrap();
    let held = &world.state.allocations().get(&placed).unwrap().claim.devices[0];
    assert_eq!(held.uuid, "GPU-node-0-1");
    assert!(world.place(id, 1).is_err(), "nothing else is free");

    world.one(register("node-0", 0, 0)).unwrap();
    world.one(register("node-0", 0, 2)).unwrap();
    assert!(world.place(id, 1).is_err(), "it was away meanwhile");
    world.one(set(own, DevicePurpose::Work)).unwrap();
    assert_ne!(world.state.hash(), before);
    world.place(id, 1).unwrap();
    assert_eq!(world.one(set(stranger, DevicePurpose::Work)), Ok(Reply::Done), "it is none");
}

fn only(world: &World) -> NodeId {
    *world.state.nodes().iter().next().unwrap().0
}

fn register(text: &str, key: u8, gpus: u32) -> Command {
    Command::RegisterNode {
        name: name(text),
        instance_key: [key; 16],
        spec: Arc::new(node_spec(text, gpus)),
    }
}

#[test]
fn a_name_belongs_to_one_machine() {
    let mut world = World::new(1);
    let node = only(&world);
    let refused = world.one(register("node-0", 99, 2)).unwrap_err();
    assert_eq!(refused, Refusal::NodeNameTaken { name: name("node-0"), node });
    let again = world.one(register("node-0", 0, 2)).unwrap();
    assert_eq!(again, Reply::Registered { node, session: 2 });
}

#[test]
fn a_device_is_on_one_node() {
    let mut world = World::new(1);
    let first = only(&world);
    let same = |text: &str, key: u8| Command::RegisterNode {
        name: name(text),
        instance_key: [key; 16],
        spec: Arc::new(node_spec("node-0", 2)),
    };
    let refused = |text: &str| {
        let uuid = "GPU-node-0-0".to_owned();
        Err(Refusal::DeviceElsewhere { uuid, name: name(text) })
    };
    assert_eq!(world.one(same("second", 1)), refused("node-0"), "two agents on one host");
    world.one(Command::DisconnectNode { node: first, session: 1 }).unwrap();
    assert_eq!(world.one(same("second", 1)), refused("node-0"), "it may be running there");
    world.one(Command::DownNode { node: first, session: 1 }).unwrap();
    world.one(same("second", 1)).unwrap();
    assert_eq!(world.one(same("node-0", 0)), refused("second"), "the device was moved");
    world.one(register("node-0", 0, 0)).unwrap();
    // A device that a node no longer has is free for others.
    let second = world.state.node_named(&name("second")).unwrap();
    let without = Command::RegisterNode {
        name: name("second"),
        instance_key: [1; 16],
        spec: Arc::new(node_spec("second", 1)),
    };
    world.one(without).unwrap();
    world.one(same("node-0", 0)).unwrap();
    assert_ne!(first, second);
}

#[test]
fn a_silent_node_loses_its_work_only_in_order_and_in_its_session() {
    let mut world = World::new(1);
    let node = only(&world);
    let id = world.submit(&job(JobKind::Batch, "a", 1, 1));
    let first = world.place(id, 0).unwrap();
    let down = Command::DownNode { node, session: 1 };
    assert_eq!(world.one(down.clone()), Err(Refusal::StaleSession { node }), "not silent yet");
    world.one(Command::DisconnectNode { node, session: 1 }).unwrap();
    assert!(world.place(id, 0).is_err());
    world.one(register("node-0", 0, 2)).unwrap();
    assert_eq!(world.one(down), Err(Refusal::StaleSession { node }), "it has come back");
    assert!(world.state.allocations().contains(&first), "and nothing was lost");
    world.one(Command::DisconnectNode { node, session: 2 }).unwrap();
    world.one(Command::DownNode { node, session: 2 }).unwrap();
    assert_eq!(world.state.nodes().get(&node).unwrap().state, NodeState::Down);
    assert_eq!(world.job_state(id), "queued");
    world.one(register("node-0", 0, 2)).unwrap();
    assert_eq!(world.place(id, 0).unwrap().attempt.0, 2);
}

#[test]
fn cordoned_and_draining_nodes_take_nothing_new() {
    let mut world = World::new(1);
    let node = only(&world);
    let id = world.submit(&job(JobKind::Batch, "a", 2, 0));
    world.place(id, 0).unwrap();
    world.one(Command::SetSchedulable { node, purpose: Purpose::Cordoned }).unwrap();
    assert!(world.place(id, 1).is_err());
    world.one(Command::SetSchedulable { node, purpose: Purpose::Work }).unwrap();
    assert!(world.place(id, 1).is_ok());
}

#[test]
fn a_gpu_that_vanishes_moves_its_work() {
    let mut world = World::new(1);
    let id = world.submit(&job(JobKind::Batch, "a", 1, 2));
    let allocation = world.place(id, 0).unwrap();
    world.one(register("node-0", 0, 1)).unwrap();
    let row = world.state.allocations().get(&allocation).unwrap();
    assert_eq!(row.state, AllocationState::Stopping(StopIntent::Drain));
    assert!(row.reason.contains("GPU-node-0-1"), "{}", row.reason);
}

#[test]
fn a_taken_port_is_left_alone_and_costs_no_attempt() {
    let mut world = World::new(0);
    let mut spec = node_spec("n", 0);
    spec.ports = PortRange { first: 20_000, last: 20_000 };
    world
        .one(Command::RegisterNode { name: name("n"), instance_key: [1; 16], spec: Arc::new(spec) })
        .unwrap();
    let mut web = job(JobKind::Batch, "web", 1, 0);
    web.tasks[0].ports = vec![name("http")];
    let id = world.submit(&web);
    let node = only(&world);
    let placement = |world: &World| {
        let mut placement = world.placement(id, 0, node);
        placement.ports = vec![berth_model::PortClaim { name: name("http"), port: 20_000 }];
        Command::Place { placements: vec![placement] }
    };
    let command = placement(&world);
    let Reply::Placed { granted, .. } = world.one(command).unwrap() else { unreachable!() };
    let taken = EndReport { cause: EndCause::PortTaken, exit_code: None, ..exited(0) };
    world.observe(granted[0], Observed::Ended(taken));
    let command = placement(&world);
    let Reply::Placed { refused, .. } = world.one(command).unwrap() else { unreachable!() };
    assert_eq!(refused.len(), 1, "blocked for ten minutes");
    world.now += 10 * 60 * 1000;
    let command = placement(&world);
    let Reply::Placed { granted, .. } = world.one(command).unwrap() else { unreachable!() };
    assert_eq!(granted[0].attempt.0, 2);
    assert_eq!(world.state.tasks().values().next().unwrap().failures.len(), 0);
}

#[test]
fn a_node_that_could_start_nothing_rests_and_its_work_goes_elsewhere() {
    let mut world = World::new(2);
    let mut batch = job(JobKind::Batch, "a", 2, 1);
    batch.tasks[0].restart.attempts = Some(0);
    let id = world.submit(&batch);
    let sick = world.place(id, 0).unwrap();
    let fault = EndReport { cause: EndCause::HostFault, exit_code: None, ..exited(0) };
    world.observe(sick, Observed::Ended(fault));
    let task = world.state.tasks().values().next().unwrap();
    assert_eq!((task.pending.len(), task.failed.len(), task.failures.len()), (2, 0, 0));
    assert_eq!(task.retries[&0].failures, 0, "it costs no attempt");

    let nodes: Vec<NodeId> = world.state.nodes().iter().map(|(id, _)| *id).collect();
    let place = |world: &mut World, node| {
        let placements = vec![world.placement(id, 0, node)];
        let Reply::Placed { granted, refused, .. } =
            world.one(Command::Place { placements }).unwrap()
        else {
            unreachable!()
        };
        (granted.len(), refused)
    };
    let (granted, refused) = place(&mut world, nodes[0]);
    assert_eq!(granted, 0);
    assert!(format!("{refused:?}").contains("Resting"), "{refused:?}");
    world.now += crate::rows::NODE_REST_MS;
    assert_eq!(place(&mut world, nodes[0]).0, 1);
}

#[test]
fn rows_make_the_same_state_again_and_wrong_rows_are_refused() {
    let mut world = World::new(3);
    let id = world.submit(&job(JobKind::Batch, "a", 5, 1));
    let done = world.place(id, 0).unwrap();
    world.exit(done, 0);
    world.place(id, 1).unwrap();
    let service = world.submit(&job(JobKind::Service, "s", 2, 0));
    world.place(service, 1).unwrap();
    let rows: Vec<Stored> = world.state.rows().collect();
    let back = ClusterState::from_rows(world.state.applied_index(), rows.clone()).unwrap();
    assert_eq!(back.hash(), world.state.hash());
    assert_eq!(back.index, world.state.index);
    for missing in 0..rows.len() {
        let mut fewer = rows.clone();
        let gone = fewer.remove(missing);
        let restored = ClusterState::from_rows(9, fewer);
        // A node without work may be missing without contradiction.
        let idle = matches!(&gone, Stored::Node(node) if node.live.is_empty());
        // Nothing else says what was held before.
        let past = matches!(&gone, Stored::Average(..));
        assert_eq!(restored.is_ok(), idle || past, "without {gone:?}");
    }
    let mut twice = rows.clone();
    twice.push(rows[1].clone());
    assert!(ClusterState::from_rows(9, twice).is_err());
}

#[test]
fn a_found_node_is_found_by_name_or_id() {
    let world = World::new(2);
    assert_eq!(world.state.find_node("node-1").unwrap().id, NodeId(2));
    assert_eq!(world.state.find_node("2").unwrap().name, Name::new("node-1").unwrap());
    assert!(world.state.find_node("node-9").is_none());
}

#[test]
fn a_scheduler_is_admitted_once() {
    let mut world = World::new(0);
    let admit = |key| admit(key, Seat::Voter);
    assert_eq!(world.one(admit(1)), Ok(Reply::Admitted { scheduler: 2 }));
    assert_eq!(world.one(admit(2)), Ok(Reply::Admitted { scheduler: 3 }));
    assert_eq!(world.one(admit(1)), Ok(Reply::Admitted { scheduler: 2 }));
    // The members of Raft are reached where they said first.
    let address = "127.0.0.1:9".to_owned();
    let instance_key = [1; 16];
    let moved = Command::AdmitScheduler { instance_key, address, seat: Seat::Voter, proof: None };
    let address = "127.0.0.1:7070".to_owned();
    assert_eq!(world.one(moved), Err(Refusal::SchedulerElsewhere { scheduler: 2, address }));
}

fn admit(key: u8, seat: Seat) -> Command {
    let address = "127.0.0.1:7070".to_owned();
    Command::AdmitScheduler { instance_key: [key; 16], address, seat, proof: None }
}

#[test]
fn a_removed_scheduler_never_comes_back_and_its_id_is_not_given_again() {
    let mut world = World::new(0);
    for key in [1, 2] {
        world.one(admit(key, Seat::Voter)).unwrap();
    }
    let remove = |scheduler| Command::RemoveScheduler { scheduler };
    let promote = |scheduler| Command::PromoteScheduler { scheduler };
    assert_eq!(world.one(remove(3)), Ok(Reply::Done));
    assert_eq!(world.one(remove(3)), Ok(Reply::Done), "it is done already");
    assert_eq!(world.one(admit(2, Seat::Voter)), Err(Refusal::SchedulerRemoved(3)));
    assert_eq!(world.one(promote(3)), Err(Refusal::SchedulerRemoved(3)));
    assert_eq!(world.one(admit(3, Seat::Voter)), Ok(Reply::Admitted { scheduler: 4 }));
    assert_eq!(world.one(remove(9)), Err(Refusal::NoSuchScheduler(9)));
    // The founder goes like any other.
    assert_eq!(world.one(remove(1)), Ok(Reply::Done));
    assert_eq!(world.state.cluster().seat(1), Err(Refusal::SchedulerRemoved(1)));
    assert_eq!(world.state.cluster().voter_count(), 2);
}

#[test]
fn the_last_vote_stays_and_a_learner_is_no_vote() {
    let mut world = World::new(0);
    world.one(admit(1, Seat::Learner)).unwrap();
    assert_eq!(world.state.cluster().seat(2), Ok(Seat::Learner));
    let remove = |scheduler| Command::RemoveScheduler { scheduler };
    assert_eq!(world.one(remove(1)), Err(Refusal::LastVoter(1)));
    assert_eq!(world.one(Command::PromoteScheduler { scheduler: 2 }), Ok(Reply::Done));
    assert_eq!(world.one(remove(1)), Ok(Reply::Done));
    assert_eq!(world.one(remove(2)), Err(Refusal::LastVoter(2)));
}

#[test]
fn a_node_that_is_new_begins_above_every_generation_there_ever_was() {
    let mut world = World::new(1);
    let id = world.submit(&job(JobKind::Batch, "a", 300, 0));
    for instance in 0..30 {
        let allocation = world.place(id, instance).unwrap();
        world.exit(allocation, 0);
    }
    let highest = world.state.nodes().values().map(|node| node.generation).max().unwrap();
    world.register(7);
    let newest = world.state.node_named(&name("node-7")).unwrap();
    assert!(world.state.nodes().get(&newest).unwrap().generation > highest);
}

/// F59: GPUs are sliced anew, or come up in another order. A plan goes by what it names.
#[test]
fn f59_plans_on_an_older_inventory_are_refused_and_uuids_keep_their_work() {
    let mut world = World::new(1);
    let node = only(&world);
    let id = world.submit(&job(JobKind::Batch, "a", 2, 1));
    let planned = world.placement(id, 0, node);
    assert_eq!(planned.devices[0].uuid, "GPU-node-0-0");
    let mut sliced = node_spec("node-0", 2);
    sliced.devices[0].uuid = "MIG-0".to_owned();
    let told = |spec: berth_model::NodeSpec| Command::RegisterNode {
        name: name("node-0"),
        instance_key: [0; 16],
        spec: Arc::new(spec),
    };
    world.one(told(sliced)).unwrap();
    let placed = world.one(Command::Place { placements: vec![planned] }).unwrap();
    let Reply::Placed { granted, refused } = placed else { panic!("{placed:?}") };
    assert_eq!(granted, []);
    assert!(format!("{refused:?}").contains("DeviceGone"), "{refused:?}");

    world.one(told(node_spec("node-0", 2))).unwrap();
    let first = world.place(id, 0).unwrap();
    let mut turned = node_spec("node-0", 2);
    turned.devices.swap(0, 1);
    (0..).zip(&mut turned.devices).for_each(|(index, device)| device.index = index);
    world.one(told(turned)).unwrap();
    let second = world.place(id, 1).unwrap();
    let uuid = |allocation| {
        let row = world.state.allocations().get(&allocation).unwrap();
        assert_eq!(row.state.stop_intent(), None);
        row.claim.devices[0].uuid.clone()
    };
    assert_eq!([uuid(first), uuid(second)], ["GPU-node-0-0", "GPU-node-0-1"]);
}
