use berth_model::CpuMilli;

use super::*;
use crate::fixture::{gpu_task, share_task, task};

fn counted(kinds: &[(TaskSpec, u64)]) -> MixCounts {
    let mut counts = MixCounts::default();
    kinds.iter().for_each(|(task, count)| counts.add(task, *count));
    counts
}

#[test]
fn what_is_seldom_is_left_out() {
    let counts = counted(&[(gpu_task(1), 90), (share_task(500), 6), (task(), 3), (gpu_task(8), 1)]);
    let mix = counts.mix();
    assert_eq!(counts.total(), 100);
    let weights: Vec<u64> = mix.kinds().iter().map(|(_, weight)| *weight).collect();
    assert_eq!(weights, [90 * WEIGHTS_TOTAL / 96, 6 * WEIGHTS_TOTAL / 96]);
    assert!(MixCounts::default().mix().is_empty());
}

#[test]
fn a_kind_is_the_same_whatever_memory_it_asks_for() {
    let mut other = task();
    other.memory = berth_model::MemoryBytes(1);
    assert_eq!(counted(&[(task(), 1), (other, 1)]).mix().kinds().len(), 1);
}

#[test]
fn what_gpus_are_asked_for_with_is_summed() {
    let mut a100 = gpu_task(2);
    a100.cpu = CpuMilli(12_000);
    a100.gpu.as_mut().unwrap().models = vec!["A100".to_owned()];
    let mut half = share_task(500);
    half.cpu = CpuMilli(3_000);
    let mix = counted(&[(a100, 1), (half, 2), (task(), 50)]).mix();
    // 18 cores for three GPUs.
    assert_eq!(mix.cpu_milli_per_gpu, Some(6_000));
    assert_eq!(mix.gpu_milli, 3_000);
    assert_eq!(mix.of_models, [(vec!["A100".to_owned()], 2_000)].into());
    let without = counted(&[(task(), 1)]).mix();
    assert_eq!((without.cpu_milli_per_gpu, without.gpu_milli), (None, 0));
}
