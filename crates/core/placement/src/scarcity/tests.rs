use berth_model::{JobKind, TaskSpec};

use super::*;
use crate::fixture::{device, gpu_task, name};
use crate::mix::MixCounts;

fn of(models: &[&str], gpus: u64) -> (TaskSpec, u64) {
    let mut task = gpu_task(1);
    task.gpu.as_mut().unwrap().models = models.iter().map(|model| (*model).to_owned()).collect();
    (task, gpus)
}

/// The price of each of three kinds, of which so many GPUs are idle.
fn prices(demand: &[(TaskSpec, u64)], idle: [u64; 3]) -> [u32; 3] {
    let mut kinds = Kinds::default();
    for model in ["A100", "L4", "T4"] {
        kinds.number(&device(0, model));
    }
    let mut counts = MixCounts::default();
    demand.iter().for_each(|(task, count)| counts.add(task, *count));
    let stock = |gpus: u64| Stock { capacity_milli: 100_000, idle_milli: gpus * 1000 };
    let prices = Prices::new(&Basis::of(&idle.map(stock), Stock::default()), &counts.mix(), &kinds);
    [0, 1, 2].map(|kind| prices.of(kind))
}

#[test]
fn what_nobody_needs_in_particular_costs_nothing() {
    assert_eq!(prices(&[of(&[], 100)], [50, 50, 50]), [0, 0, 0]);
    assert_eq!(prices(&[], [50, 50, 50]), [0, 0, 0]);
    // Whoever accepts all of them needs none in particular.
    assert_eq!(prices(&[of(&["A100", "L4", "T4"], 100)], [1, 50, 50]), [0, 0, 0]);
    let none = TaskSpec::new(name("main"), JobKind::Batch, vec!["true".to_owned()]);
    assert_eq!(prices(&[(none, 100)], [50, 50, 50]), [0, 0, 0]);
}

#[test]
fn what_is_spoken_for_costs_as_much_as_losing_it() {
    // A third needs an A100, which a third of the idle ones are: all are spoken for.
    let demand = [of(&["A100"], 10), of(&[], 20)];
    assert_eq!(prices(&demand, [50, 50, 50])[0], 1000);
    assert_eq!(prices(&demand, [50, 50, 50])[1..], [0, 0]);
    // With twice as many a good half is, which is not yet dear.
    assert_eq!(prices(&demand, [100, 50, 50]), [0, 0, 0]);
    let dearer = prices(&demand, [60, 45, 45])[0];
    assert!(dearer > 0 && dearer < 1000, "{dearer}");
    assert_eq!(prices(&demand, [0, 50, 50])[0], 1000);
}

#[test]
fn a_set_that_is_needed_together_is_dear_together() {
    // Two thirds need one of two kinds, which half of the idle ones are.
    let demand = [of(&["A100", "L4"], 20), of(&[], 10)];
    assert_eq!(prices(&demand, [25, 25, 50]), [1000, 1000, 0]);
    let mixed = [of(&["A100"], 1), of(&["A100", "L4"], 19), of(&[], 10)];
    assert_eq!(prices(&mixed, [25, 25, 50]), [1000, 1000, 0]);
}

#[test]
fn a_price_stays_while_little_changes() {
    let stock = |idle_milli| [Stock { capacity_milli: 640_000, idle_milli }];
    assert_eq!(
        Basis::of(&stock(599_000), Stock::default()),
        Basis::of(&stock(590_000), Stock::default())
    );
    assert_ne!(
        Basis::of(&stock(600_000), Stock::default()),
        Basis::of(&stock(590_000), Stock::default())
    );
}

#[test]
fn an_idle_core_costs_something_where_processors_run_out_first() {
    let price = |idle_cores: u64| {
        let mut kinds = Kinds::default();
        kinds.number(&device(0, "L4"));
        let mut counts = MixCounts::default();
        let mut task = gpu_task(1);
        // Ten cores for each GPU: a hundred GPUs are idle.
        task.cpu = berth_model::CpuMilli(10_000);
        counts.add(&task, 5);
        let stock = Stock { capacity_milli: 100_000, idle_milli: 100_000 };
        let cpu = Stock { capacity_milli: 64_000, idle_milli: idle_cores * 1000 };
        Prices::new(&Basis::of(&[stock], cpu), &counts.mix(), &kinds).of_core()
    };
    assert_eq!([2000, 1200, 1050, 990, 0].map(price), [0, 0, 12, 25, 25]);
    let nothing = Prices::new(&Basis::default(), &MixCounts::default().mix(), &Kinds::default());
    assert_eq!(nothing.of_core(), 0);
}
