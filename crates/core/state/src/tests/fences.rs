use std::sync::Arc;

use DeviceHealth::{Cordoned, Fenced, Healthy, Lost, Suspect};
use berth_model::{DeviceHealth, DeviceSlice, JobKind, StopIntent};

use super::world::{World, job, name, node_spec};
use crate::{Command, EventKind};

/// What node `number` says of its two devices, and how the cluster takes it.
fn say(world: &mut World, number: u8, health: [DeviceHealth; 2]) -> [DeviceHealth; 2] {
    let text = format!("node-{number}");
    let mut spec = node_spec(&text, 2);
    for (device, health) in spec.devices.iter_mut().zip(health) {
        device.health = health;
        device.reason = if health == Healthy { String::new() } else { "XID 48".to_owned() };
    }
    let spec = Arc::new(spec);
    let command =
        Command::RegisterNode { name: name(&text), instance_key: [number; 16], spec: spec.clone() };
    world.one(command).unwrap();
    let node = world.state.node_named(&name(&text)).unwrap();
    let row = world.state.nodes().get(&node).unwrap();
    [0, 1].map(|index| row.spec.devices[index].health)
}

/// F61: a health check that is wrong everywhere at once does not stop the cluster.
#[test]
fn f61_no_more_than_a_tenth_of_the_gpus_is_fenced_in_ten_minutes() {
    let mut world = World::new(15);
    let hour = 3_600_000;
    world.now += hour;
    // Three of thirty.
    assert_eq!(say(&mut world, 0, [Fenced, Fenced]), [Fenced, Fenced]);
    assert_eq!(say(&mut world, 1, [Fenced, Fenced]), [Fenced, Suspect]);
    let row = world.state.nodes().iter().nth(1).unwrap().1;
    assert_eq!(
        row.spec.devices[1].reason, "not fenced, too many were in ten minutes: XID 48",
        "whoever looks at it is told"
    );
    for number in 2..15 {
        assert_eq!(say(&mut world, number, [Fenced, Healthy]), [Suspect, Healthy]);
    }
    // What is lost is no opinion, and what is fenced stays so.
    assert_eq!(say(&mut world, 2, [Lost, Lost]), [Lost, Lost]);
    assert_eq!(say(&mut world, 0, [Fenced, Cordoned]), [Fenced, Cordoned]);
    // One that was mended counts for as long as any.
    assert_eq!(say(&mut world, 0, [Healthy, Healthy]), [Healthy, Healthy]);
    world.now += 599_999;
    assert_eq!(say(&mut world, 3, [Fenced, Healthy]), [Suspect, Healthy]);
    world.now += 1;
    assert_eq!(say(&mut world, 3, [Fenced, Healthy]), [Fenced, Healthy], "asked again");
    assert_eq!(world.state.cluster().fences.len(), 1);
}

/// One GPU that is fenced again and again leaves the others their share, and one that is held
/// back takes no more than before.
#[test]
fn f61_one_that_comes_and_goes_counts_once_and_nothing_is_let_loose() {
    let mut world = World::new(2);
    for _ in 0..5 {
        assert_eq!(say(&mut world, 0, [Fenced, Healthy]), [Fenced, Healthy]);
        assert_eq!(say(&mut world, 0, [Cordoned, Healthy]), [Cordoned, Healthy]);
    }
    assert_eq!(say(&mut world, 1, [Fenced, Healthy]), [Fenced, Healthy]);
    assert_eq!(say(&mut world, 1, [Fenced, Cordoned]), [Fenced, Cordoned]);
    assert_eq!(say(&mut world, 1, [Fenced, Fenced]), [Fenced, Cordoned]);
}

#[test]
fn in_a_small_cluster_two_are_fenced_in_any_case() {
    let mut world = World::new(2);
    assert_eq!(say(&mut world, 0, [Fenced, Healthy]), [Fenced, Healthy]);
    assert_eq!(say(&mut world, 1, [Fenced, Fenced]), [Fenced, Suspect]);
}

/// A fault of a GPU that is cut up is one fault.
#[test]
fn all_parts_of_a_gpu_are_fenced_as_one() {
    let mut world = World::new(1);
    let say = |world: &mut World, health| {
        let mut spec = node_spec("node-0", 8);
        for (device, gpu) in spec.devices.iter_mut().zip([0, 0, 0, 0, 1, 1, 2, 2]) {
            let (parent, profile) = (format!("GPU-cut-{gpu}"), "1g.10gb".to_owned());
            device.slice = Some(DeviceSlice { parent, profile });
            (device.health, device.reason) = (health, "XID 48".to_owned());
        }
        let (text, spec) = ("node-0", Arc::new(spec));
        let command =
            Command::RegisterNode { name: name(text), instance_key: [0; 16], spec: spec.clone() };
        world.one(command).unwrap();
        let node = world.state.node_named(&name(text)).unwrap();
        let devices = &world.state.nodes().get(&node).unwrap().spec.devices;
        devices.iter().map(|device| device.health).collect::<Vec<DeviceHealth>>()
    };
    say(&mut world, Healthy);
    let healths = say(&mut world, Fenced);
    assert_eq!(healths, [[Fenced; 6].as_slice(), &[Suspect; 2]].concat(), "two GPUs of three");
}

/// Parts are no more reason to fence GPUs than wholes are.
#[test]
fn f61_a_tenth_of_the_gpus_is_counted_in_wholes() {
    let mut world = World::new(1);
    let mut say = |faulty: usize| {
        let mut spec = node_spec("node-0", 35);
        for (position, device) in spec.devices.iter_mut().enumerate() {
            let gpu = position / 7;
            let (parent, profile) = (format!("GPU-cut-{gpu}"), "1g.10gb".to_owned());
            device.slice = Some(DeviceSlice { parent, profile });
            if gpu < faulty {
                (device.health, device.reason) = (Fenced, "XID 48".to_owned());
            }
        }
        let (text, spec) = ("node-0", Arc::new(spec));
        let command = Command::RegisterNode { name: name(text), instance_key: [0; 16], spec };
        world.one(command).unwrap();
        let node = world.state.node_named(&name(text)).unwrap();
        let devices = &world.state.nodes().get(&node).unwrap().spec.devices;
        devices.iter().filter(|device| device.health == Fenced).count()
    };
    assert_eq!(say(0), 0);
    assert_eq!(say(5), 2 * 7, "two GPUs of five, and not three of 35 devices");
}

#[test]
fn work_leaves_a_fenced_device_and_is_told_why() {
    let mut world = World::new(1);
    let id = world.submit(&job(JobKind::Batch, "a", 2, 1));
    let (first, second) = (world.place(id, 0).unwrap(), world.place(id, 1).unwrap());
    world.events.clear();
    say(&mut world, 0, [Fenced, Healthy]);
    let row = |allocation| world.state.allocations().get(&allocation).unwrap();
    assert_eq!(row(first).state.stop_intent(), Some(StopIntent::Drain));
    assert_eq!(row(first).reason, "GPU GPU-node-0-0 is fenced: XID 48");
    assert_eq!(row(second).state.stop_intent(), None);
    let (uuid, reason) = ("GPU-node-0-0".to_owned(), "XID 48".to_owned());
    let told = EventKind::DeviceHealthChanged { uuid, health: Fenced, reason };
    assert!(world.events.iter().any(|event| event.kind == told), "{:?}", world.events);
}

#[test]
fn f53_a_suspect_takes_what_needs_one_gpu_and_is_no_part_of_a_pair() {
    let mut world = World::new(1);
    say(&mut world, 0, [Suspect, Healthy]);
    let pair = world.submit(&job(JobKind::Batch, "pair", 1, 2));
    world.place(pair, 0).unwrap_err();
    let single = world.submit(&job(JobKind::Batch, "single", 2, 1));
    world.place(single, 0).unwrap();
    world.place(single, 1).unwrap();
}
