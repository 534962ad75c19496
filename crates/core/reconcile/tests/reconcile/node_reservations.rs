//! Reservations of nodes begin and end by the calendar.

use berth_model::{AtBegin, JobKind, NodeReservation, ReservedNodes, StopIntent, WallMs};
use berth_state::{Command, Reply};

use crate::world::{World, job, name};

#[test]
fn a_reservation_begins_and_ends_when_its_time_has_come_and_each_is_said_once() {
    let mut world = World::new(1);
    let id = world.submit(job(JobKind::Batch, "train", 1));
    let attempt = world.run(id, 0, 1);
    let wall = world.state.cluster().wall_ms.0;
    let spec = NodeReservation {
        name: name("launch"),
        nodes: ReservedNodes::Pool(world.state.nodes().values().next().unwrap().spec.pool.clone()),
        namespaces: [name("launch")].into(),
        priority_min: None,
        from: WallMs(wall + 5_000),
        until: Some(WallMs(wall + 9_000)),
        running: AtBegin::End,
    };
    let set = Command::ReserveNodes { spec: spec.into(), if_version: None };
    assert_eq!(world.one(set), Ok(Reply::NodesReserved { version: 1 }));
    let turn = Command::TurnNodeReservation { name: name("launch") };
    world.pass(4_999);
    assert_eq!(world.tick(), []);
    world.pass(1);
    assert_eq!(world.step(), std::slice::from_ref(&turn));
    assert_eq!(world.tick(), [], "it was said once");
    let row = world.state.allocations().get(&attempt).unwrap();
    assert_eq!(row.state.stop_intent(), Some(StopIntent::Drain));
    world.pass(4_000);
    assert_eq!(world.step(), [turn]);
    assert_eq!(world.tick(), []);
    assert!(world.state.node_reservations().is_empty());
}
