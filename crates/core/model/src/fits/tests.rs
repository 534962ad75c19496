use std::collections::BTreeMap;

use super::*;
use crate::node::{DeviceSlice, PortRange};
use crate::spec::{Driver, JobKind};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// With nothing cordoned.
fn on<'a>(spec: &'a NodeSpec, used: &'a NodeUse) -> NodeCapacity<'a> {
    static NONE: BTreeSet<String> = BTreeSet::new();
    NodeCapacity { spec, used, cordoned: &NONE }
}

fn node(gpu_count: u32) -> NodeSpec {
    NodeSpec {
        labels: BTreeMap::from([("rack".to_owned(), "7".to_owned())]),
        pool: name("default"),
        zone: name("default"),
        cpu: CpuMilli(8000),
        memory: MemoryBytes(64 << 30),
        devices: (0..gpu_count)
            .map(|index| {
                Device::new(
                    format!("GPU-{index}"),
                    index,
                    "NVIDIA H100 80GB HBM3",
                    MemoryBytes(80 << 30),
                )
            })
            .collect(),
        ports: PortRange { first: 20_000, last: 20_001 },
        agent_version: "test".to_owned(),
        docker_version: String::new(),
        tasks_per_device_max: crate::TASKS_PER_DEVICE_MAX_DEFAULT,
        address: String::new(),
    }
}

fn task(gpu: Option<GpuRequest>) -> TaskSpec {
    TaskSpec { gpu, ..TaskSpec::new(name("main"), JobKind::Batch, vec!["true".to_owned()]) }
}

fn gpus(count: u32, models: &[&str]) -> GpuRequest {
    let models = models.iter().map(|model| (*model).to_owned()).collect();
    GpuRequest { count, models, memory_min: None, share: crate::ShareMilli::WHOLE }
}

fn whole(uuid: &str) -> DeviceClaim {
    DeviceClaim { uuid: uuid.to_owned(), share: ShareMilli::WHOLE, memory: MemoryBytes(80 << 30) }
}

fn claim(task: &TaskSpec, devices: Vec<DeviceClaim>) -> Claim {
    Claim { cpu: task.cpu, memory: task.memory, devices, ports: Vec::new() }
}

#[test]
fn a_model_is_matched_as_a_word() {
    let spec = node(2);
    let ask = |models: &[&str], count| {
        eligible(&name("n"), &spec, &Constraints::default(), &task(Some(gpus(count, models))))
    };
    assert_eq!(ask(&["h100"], 2), Ok(()));
    assert_eq!(ask(&["A100", "H100"], 1), Ok(()));
    assert_eq!(ask(&[], 2), Ok(()));
    assert_eq!(ask(&["H10"], 1), Err(Misfit::GpuModel { asked: "H10".to_owned() }));
    assert_eq!(ask(&["H100"], 3), Err(Misfit::GpuCount { asked: 3, found: 2 }));
}

#[test]
fn a_part_of_a_gpu_is_for_whoever_asks_for_one_part() {
    let mut spec = node(3);
    for (device, profile) in spec.devices.iter_mut().zip(["1g.10gb", "3g.40gb"]) {
        let (parent, profile) = ("GPU-9".to_owned(), profile.to_owned());
        device.model = format!("NVIDIA H100 80GB HBM3 MIG {profile}");
        device.slice = Some(DeviceSlice { parent, profile });
    }
    let used = NodeUse::default();
    for (models, count, suited) in [
        (&[][..], 1, &["GPU-2"][..]),
        (&["H100"], 1, &["GPU-2"]),
        (&["MIG"], 1, &["GPU-0", "GPU-1"]),
        (&["mig"], 2, &[]),
        (&["1G.10GB"], 1, &["GPU-0"]),
        (&["3g.40gb", "H100"], 1, &["GPU-1", "GPU-2"]),
        (&["3g.40gb", "H100"], 2, &["GPU-2"]),
        (&["10gb"], 1, &[]),
    ] {
        let gpu = gpus(count, models);
        let free = open_devices(on(&spec, &used), &gpu).map(|device| device.uuid.as_str());
        assert_eq!(free.collect::<Vec<&str>>(), suited, "{models:?} {count}");
    }
}

#[test]
fn a_container_needs_an_engine() {
    let mut contained = task(None);
    contained.driver = Driver::Docker { image: "a:1".to_owned() };
    let ask = |version: &str| {
        let spec = NodeSpec { docker_version: version.to_owned(), ..node(0) };
        eligible(&name("n"), &spec, &Constraints::default(), &contained)
    };
    assert_eq!(ask("27.1"), Ok(()));
    assert_eq!(ask(""), Err(Misfit::NoDocker));
}

#[test]
fn constraints_are_exact() {
    let spec = node(0);
    let plain = task(None);
    let with = |constraints: Constraints| eligible(&name("n"), &spec, &constraints, &plain);
    let labels = |value: &str| Constraints {
        labels: BTreeMap::from([("rack".to_owned(), value.to_owned())]),
        ..Constraints::default()
    };
    assert_eq!(with(labels("7")), Ok(()));
    assert!(matches!(with(labels("77")), Err(Misfit::Label { .. })));
    let pool = Constraints { pool: Some(name("gold")), ..Constraints::default() };
    assert!(matches!(with(pool), Err(Misfit::OtherPool { .. })));
    let other = Constraints { node: Some(name("m")), ..Constraints::default() };
    assert!(matches!(with(other), Err(Misfit::OtherNode { .. })));
}

#[test]
fn a_device_is_granted_once() {
    let spec = node(2);
    let one = task(Some(gpus(1, &[])));
    let mut used = NodeUse::default();
    let first = claim(&one, vec![whole("GPU-0")]);
    let ask = |used: &NodeUse, claim: &Claim| fits(on(&spec, used), &one, claim);
    assert_eq!(ask(&used, &first), Ok(()));
    used.add(&first);
    assert!(matches!(ask(&used, &first), Err(Misfit::DeviceBusy { .. })));
    assert_eq!(ask(&used, &claim(&one, vec![whole("GPU-1")])), Ok(()));
    used.remove(&first);
    assert_eq!(used, NodeUse::default());
    assert_eq!(ask(&used, &first), Ok(()));
}

#[test]
fn a_claim_must_be_what_the_task_asks_for() {
    let spec = node(2);
    let used = NodeUse::default();
    let ask = |task: &TaskSpec, claim: &Claim| fits(on(&spec, &used), task, claim);
    let two = task(Some(gpus(2, &[])));
    assert_eq!(ask(&two, &claim(&two, vec![whole("GPU-0")])), Err(Misfit::ClaimMismatch));
    assert_eq!(
        ask(&two, &claim(&two, vec![whole("GPU-0"), whole("GPU-0")])),
        Err(Misfit::ClaimMismatch)
    );
    let none = task(None);
    assert_eq!(ask(&none, &claim(&none, vec![whole("GPU-0")])), Err(Misfit::ClaimMismatch));
    let cheap = Claim { cpu: CpuMilli(1), ..claim(&none, Vec::new()) };
    assert_eq!(ask(&none, &cheap), Err(Misfit::ClaimMismatch));
    assert!(matches!(
        ask(&two, &claim(&two, vec![whole("GPU-0"), whole("GPU-9")])),
        Err(Misfit::DeviceGone { .. })
    ));
}

#[test]
fn ports_come_from_the_nodes_range_and_once() {
    let spec = node(0);
    let two = TaskSpec { ports: vec![name("http"), name("admin")], ..task(None) };
    let with = |ports: &[(&str, u16)], used: &NodeUse| {
        let ports =
            ports.iter().map(|(text, port)| PortClaim { name: name(text), port: *port }).collect();
        let claim = Claim { ports, ..claim(&two, Vec::new()) };
        fits(on(&spec, used), &two, &claim)
    };
    let idle = NodeUse::default();
    assert_eq!(with(&[("http", 20_000), ("admin", 20_001)], &idle), Ok(()));
    assert_eq!(
        with(&[("http", 20_000), ("admin", 20_000)], &idle),
        Err(Misfit::PortTaken { port: 20_000 })
    );
    assert_eq!(
        with(&[("http", 22), ("admin", 20_000)], &idle),
        Err(Misfit::PortTaken { port: 22 })
    );
    assert_eq!(with(&[("http", 20_000)], &idle), Err(Misfit::ClaimMismatch));
    let busy = NodeUse { ports: BTreeSet::from([20_001]), ..NodeUse::default() };
    assert_eq!(
        with(&[("http", 20_000), ("admin", 20_001)], &busy),
        Err(Misfit::PortTaken { port: 20_001 })
    );
}

/// What an operator wants nothing new on keeps what it has.
#[test]
fn a_cordoned_device_is_granted_to_nobody_and_keeps_its_work() {
    let spec = node(2);
    let used = NodeUse::default();
    let one = task(Some(gpus(1, &[])));
    let cordoned = BTreeSet::from(["GPU-0".to_owned()]);
    let node = NodeCapacity { spec: &spec, used: &used, cordoned: &cordoned };
    let gpu = gpus(1, &[]);
    let free: Vec<&str> = open_devices(node, &gpu).map(|device| device.uuid.as_str()).collect();
    assert_eq!(free, ["GPU-1"]);
    let claim = claim(&one, vec![whole("GPU-0")]);
    assert_eq!(fits(node, &one, &claim), Err(Misfit::DeviceGone { uuid: "GPU-0".to_owned() }));
    assert_eq!(may_stay(node, &claim), Ok(()));
}

fn part(share: u32, memory_min: Option<MemoryBytes>) -> GpuRequest {
    GpuRequest { share: ShareMilli(share), memory_min, ..GpuRequest::whole(1) }
}

fn part_of(uuid: &str, share: u32, memory: MemoryBytes) -> DeviceClaim {
    DeviceClaim { uuid: uuid.to_owned(), share: ShareMilli(share), memory }
}

#[test]
fn a_share_goes_where_share_memory_and_tasks_are_left() {
    let check = |held: &[(u32, u64)], gpu: GpuRequest, expected: bool| {
        let spec = node(1);
        let task = task(Some(gpu.clone()));
        let mut used = NodeUse::default();
        for (share, gib) in held {
            used.add(&Claim {
                devices: vec![part_of("GPU-0", *share, MemoryBytes(gib << 30))],
                ..Claim::default()
            });
        }
        let open = open_devices(on(&spec, &used), &gpu).count() == 1;
        assert_eq!(open, expected, "{gpu:?} beside {held:?}");
        let memory = gpu.memory_of(MemoryBytes(80 << 30));
        let claim = claim(&task, vec![part_of("GPU-0", gpu.share.0, memory)]);
        let fitting = fits(on(&spec, &used), &task, &claim);
        assert_eq!(fitting.is_ok(), expected, "planning and apply agree: {fitting:?}");
    };
    check(&[], part(500, None), true);
    check(&[(500, 40)], part(500, None), true);
    check(&[(500, 40)], part(501, None), false);
    check(&[(100, 70)], part(500, None), false);
    check(&[(100, 70)], part(500, Some(MemoryBytes(10 << 30))), true);
    check(&[(100, 1); 3], part(100, None), true);
    check(&[(100, 1); 4], part(100, None), false);
    check(&[(100, 1)], part(1000, None), false);
    check(&[(1000, 80)], part(1, Some(MemoryBytes(1))), false);
}

#[test]
fn a_claim_takes_the_share_that_is_asked_for() {
    let spec = node(1);
    let used = NodeUse::default();
    let check = |gpu: GpuRequest, share: u32, gib: u64, expected: Result<(), Misfit>| {
        let task = task(Some(gpu));
        let claim = claim(&task, vec![part_of("GPU-0", share, MemoryBytes(gib << 30))]);
        assert_eq!(fits(on(&spec, &used), &task, &claim), expected, "{share} with {gib} GiB");
    };
    check(part(500, None), 500, 40, Ok(()));
    check(part(500, None), 500, 41, Err(Misfit::ClaimMismatch));
    check(part(500, None), 499, 40, Err(Misfit::ClaimMismatch));
    check(part(500, None), 1000, 80, Err(Misfit::ClaimMismatch));
    check(part(500, Some(MemoryBytes(7 << 30))), 500, 7, Ok(()));
    check(GpuRequest::whole(1), 500, 40, Err(Misfit::ClaimMismatch));
}

#[test]
fn a_slice_is_not_shared() {
    let check = |asked: &str, expected: bool| {
        assert_eq!(names_slice(asked), expected, "{asked}");
    };
    check("MIG", true);
    check("mig", true);
    check("1g.10gb", true);
    check("3g.40GB", true);
    check("g.gb", false);
    check("H100", false);
    check("1g.10gb.me", false);
}

/// What is held of places to come, beside those who have to end for them: at no moment are more on
/// a device than in the end, whoever of them is counted first.
#[test]
fn what_is_held_has_the_seats_that_nobody_else_has() {
    let share = |milli, port| Claim {
        devices: vec![DeviceClaim {
            uuid: "GPU-0".to_owned(),
            share: ShareMilli(milli),
            memory: MemoryBytes(u64::from(milli) << 20),
        }],
        ports: vec![PortClaim { name: name("http"), port }],
        ..Claim::default()
    };
    let sum = |claims: &[Claim]| {
        let mut sum = NodeUse::default();
        claims.iter().for_each(|claim| sum.add(claim));
        sum
    };
    let (to_come, theirs) = ([share(100, 1), share(100, 2), share(50, 3)], [share(200, 3)]);
    let held = sum(&to_come).beyond(&sum(&theirs));
    assert_eq!(
        (held.devices["GPU-0"].tasks, held.devices["GPU-0"].share, held.ports.len()),
        (2, ShareMilli(50), 2)
    );
    let mut used = sum(&theirs);
    used.add_held(&held);
    assert_eq!(used, sum(&to_come));
    used.remove_held(&held);
    assert_eq!(used, sum(&theirs));
    // Nothing of the device, but a seat on it.
    let seat = sum(&to_come[..2]).beyond(&sum(&theirs));
    used.add_held(&seat);
    assert_eq!(used.devices["GPU-0"].tasks, 2);
    used.remove(&theirs[0]);
    assert_eq!(used.devices["GPU-0"], DeviceUse { tasks: 1, ..DeviceUse::default() });
    used.remove_held(&seat);
    assert_eq!(used.devices.len(), 0);
}
