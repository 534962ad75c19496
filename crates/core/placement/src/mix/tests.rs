use std::sync::Arc;

use berth_model::{CpuMilli, ShareMilli, StateMs};

use super::*;
use crate::fixture::{gpu_node, gpu_task, node_row, task};

fn share(milli: u32) -> TaskSpec {
    let mut task = gpu_task(1);
    task.gpu.as_mut().unwrap().share = ShareMilli(milli);
    task
}

fn counted(kinds: &[(TaskSpec, u64)]) -> MixCounts {
    let mut counts = MixCounts::default();
    kinds.iter().for_each(|(task, count)| counts.add(task, *count));
    counts
}

#[test]
fn what_is_seldom_is_left_out() {
    let counts = counted(&[(gpu_task(1), 90), (share(500), 6), (task(), 3), (gpu_task(8), 1)]);
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

/// The definition of the paper, kind by kind.
#[test]
fn fragmentation_is_what_the_mix_cannot_use() {
    let mut kinds = Kinds::default();
    let host = Host::new(Arc::new(node_row(1, gpu_node(2))), None, StateMs(0), &mut kinds);
    let check = |task: TaskSpec, cpu_milli: u64, left: [u32; 2], expected: u64| {
        let table = MixTable::new(&counted(&[(task.clone(), 1)]).mix(), &kinds);
        let idle = Idle {
            cpu_milli,
            devices: host.spots.iter().map(|spot| spot.kind).zip(left).collect(),
        };
        let found = table.fragmentation(&idle) / WEIGHTS_TOTAL;
        assert_eq!(found, expected, "{task:?} on {idle:?}");
    };
    let cpu = gpu_task(1).cpu.0;
    // A task without GPUs has no use for any.
    check(task(), cpu, [1000, 400], 1400);
    // What is too small is lost, the rest is not.
    check(share(500), cpu, [1000, 400], 400);
    check(share(500), cpu, [1000, 500], 0);
    check(gpu_task(1), cpu, [1000, 400], 400);
    // Too few devices, or too little processor: all is lost.
    check(gpu_task(2), cpu, [1000, 400], 1400);
    check(gpu_task(2), cpu, [1000, 1000], 0);
    check(share(500), cpu - 1, [1000, 500], 1500);
    let mut other = gpu_task(1);
    other.gpu.as_mut().unwrap().models = vec!["L4".to_owned()];
    check(other, cpu, [1000, 1000], 2000);
    let mut more = share(500);
    more.cpu = CpuMilli(cpu + 1);
    check(more, cpu, [1000, 0], 1000);
}
