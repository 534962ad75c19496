use berth_model::{CpuMilli, MemoryBytes, Name, ShareMilli};

use super::*;

fn machine(number: usize) -> NodeShape {
    NodeShape {
        name: Name::new(&format!("node-{number}")).unwrap(),
        cpu: CpuMilli(8_000),
        memory: MemoryBytes(1 << 30),
        gpus: 2,
        model: "T4".to_owned(),
    }
}

fn task(number: usize, gpus: u32, share: u32) -> Arrival {
    Arrival {
        name: Name::new(&format!("task-{number:03}")).unwrap(),
        cpu: CpuMilli(1000),
        memory: MemoryBytes(1),
        gpus,
        share: ShareMilli(share),
        models: Vec::new(),
    }
}

fn asked(workload: &Workload) -> u64 {
    workload.arrivals.iter().map(Arrival::gpu_milli).sum()
}

#[test]
fn a_list_is_made_as_long_as_the_protocol_asks() {
    let machines: Vec<NodeShape> = (0..50).map(machine).collect();
    let few: Vec<Arrival> = (0..20).map(|number| task(number, 1, 500)).collect();
    let long = Workload::new(&machines, &few, 42);
    // 100 GPUs; one draw more would pass 130.
    assert_eq!(asked(&long), 130_000);
    let many: Vec<Arrival> = (0..400).map(|number| task(number, 1, 1000)).collect();
    assert_eq!(asked(&Workload::new(&machines, &many, 42)), 130_000);
    // Drawn tasks come behind the whole list.
    let mut first: Vec<Name> = long.arrivals[..20].iter().map(|one| one.name.clone()).collect();
    first.sort();
    assert_eq!(first, few.iter().map(|one| one.name.clone()).collect::<Vec<_>>());
    let none = vec![task(0, 0, 1000)];
    assert_eq!(Workload::new(&machines, &none, 42).arrivals.len(), 1);
}

#[test]
fn a_seed_is_a_run() {
    let machines: Vec<NodeShape> = (0..50).map(machine).collect();
    let tasks: Vec<Arrival> = (0..20).map(|number| task(number, 1, 500)).collect();
    let run = |seed| {
        let Workload { machines, arrivals } = Workload::new(&machines, &tasks, seed);
        (machines, arrivals)
    };
    assert_eq!(run(42), run(42));
    assert_ne!(run(42).0, run(43).0);
    assert_ne!(run(42).1, run(43).1);
}

#[test]
fn a_point_of_the_curve_is_the_mean_of_what_rounds_to_it() {
    let mut curve = Curve::default();
    let mut note = |arrived, allocated| {
        curve.note(Totals {
            capacity_milli: 100_000,
            allocated_milli: allocated,
            arrived_milli: arrived,
            ..Totals::default()
        });
    };
    note(98_600, 90_000);
    note(99_400, 92_000);
    note(99_600, 93_000);
    note(100_400, 95_000);
    assert_eq!(curve.allocated_at(99), Some(91.0));
    assert_eq!(curve.allocated_at(100), Some(94.0));
    assert_eq!(curve.allocated_at(130), Some(94.0));
    assert_eq!(curve.allocated_at(50), None);
}

#[test]
fn all_workloads_of_the_publication_are_known() {
    assert_eq!(published("default").map(|row| row.fgd_at_100), Some(95.23));
    assert_eq!(published("gpuspec33").map(|row| row.ceiling), Some(96.3));
    assert_eq!(published("another"), None);
    assert!(PUBLISHED.iter().all(|row| row.fgd_at_100 < row.ceiling));
}
