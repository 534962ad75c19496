use berth_model::{
    CpuMilli, Device, DeviceClaim, GpuRequest, JobKind, MemoryBytes, Name, NodeSpec, Policy,
    PortClaim, PortRange, ShareMilli, StateMs, TaskSpec,
};
use berth_placement::{Budget, Planner, SoftView, decision_of};
use berth_state::decision::Scope;

use super::*;
use crate::cluster::{Cluster, plain_name};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn node(number: u32, gpus: u32) -> (Name, NodeSpec) {
    let memory = MemoryBytes(80 << 30);
    let device = |index| Device::new(format!("GPU-{number}-{index}"), index, "H100", memory);
    let spec = NodeSpec {
        labels: Default::default(),
        pool: plain_name(),
        zone: plain_name(),
        cpu: CpuMilli(64_000),
        memory: MemoryBytes(256 << 30),
        devices: (0..gpus).map(device).collect(),
        ports: PortRange::DEFAULT,
        agent_version: String::new(),
        docker_version: String::new(),
        tasks_per_device_max: 4,
        address: String::new(),
    };
    (name(&format!("host-{number}")), spec)
}

/// Three instances of two GPUs each, on two nodes of which one has room for one.
fn decision() -> Decision {
    let mut cluster = Cluster::new(vec![node(1, 2), node(2, 3)], None).unwrap();
    let gpu = Some(GpuRequest::whole(2));
    let task = TaskSpec::new(name("main"), JobKind::Batch, vec!["x".to_owned()]);
    let task = TaskSpec { gpu, count: 3, ports: vec![name("http")], ..task };
    cluster.submit(name("train"), Policy::Berth, task).unwrap();
    let (soft, now) = (SoftView::default(), StateMs(5));
    let outcome = Planner::default().plan(&cluster.state, &soft, now, Budget::UNLIMITED);
    let asked = (Scope::Everything, Budget::UNLIMITED);
    decision_of(cluster.state.clone(), &soft, now, asked, Vec::new(), &outcome)
}

#[test]
fn the_same_decision_has_no_differences() {
    let decision = decision();
    assert_eq!((decision.made.placements.len(), decision.made.waiting[0].left), (2, 1));
    let replayed = replay(&decision);
    assert_eq!(replayed.made, decision.made);
    assert_eq!(replayed.differences, Differences::default());
}

#[test]
fn each_difference_is_said_in_words() {
    let check = |change: fn(&mut Made), expected: &str| {
        let mut decision = decision();
        change(&mut decision.made);
        let Differences { shown, left_off } = replay(&decision).differences;
        assert_eq!(left_off, 0);
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert!(shown[0].starts_with(expected), "{:?}", shown[0]);
    };
    check(
        |made| drop(made.placements.pop()),
        "1.0.1.1: no place then, host-2 with GPU-2-0 GPU-2-1 http=20003",
    );
    check(
        |made| {
            made.placements[0].devices[0] = DeviceClaim {
                uuid: "GPU-9".to_owned(),
                share: ShareMilli::WHOLE,
                memory: MemoryBytes(1),
            };
            made.placements[0].ports =
                vec![PortClaim { name: Name::new("http").unwrap(), port: 9 }];
        },
        "1.0.0.1: host-1 with GPU-9 GPU-1-1 http=9 (",
    );
    check(|made| made.placements.swap(0, 1), "the same places in another order, from the 1. on");
    check(
        |made| made.waiting[0].why = "quota".to_owned(),
        "task 1.0: 2 placed, 1 left waiting for quota then, 2 placed, 1 left waiting for no-node now",
    );
    check(
        |made| made.waiting.clear(),
        "task 1.0: does not wait then, 2 placed, 1 left waiting for no-node now",
    );
    check(|made| made.held_back = true, "was held back by its bounds: true then, false now");
    check(|made| made.next_wakeup = Some(StateMs(7)), "next looks again at");
    check(
        |made| {
            let placement = made.placements.remove(0);
            let awaits = vec![placement.allocation()];
            made.reservations.push(Reservation { placement, awaits, patient: false });
        },
        "1.0.0.1: host-1 with GPU-1-0 GPU-1-1 http=20002 kept until 1.0.0.1 end (",
    );
}

#[test]
fn many_differences_are_counted() {
    let mut decision = decision();
    let one = decision.made.placements[0].clone();
    let more = (10..40).map(|instance| {
        let instance = berth_model::InstanceIndex(instance);
        Placement { instance, ..one.clone() }
    });
    decision.made.placements.extend(more);
    let found = replay(&decision).differences;
    assert_eq!((found.shown.len(), found.left_off), (DIFFERENCES_SHOWN_MAX, 14));
}
