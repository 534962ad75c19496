use std::sync::Arc;

use berth_model::{CpuMilli, StateMs, TaskSpec};

use super::*;
use crate::fixture::{gpu_node, gpu_task, node_row, share_task, task};
use crate::mix::{MixCounts, WEIGHTS_TOTAL};

/// The definition of the paper, kind by kind.
#[test]
fn fragmentation_is_what_the_mix_cannot_use() {
    let mut kinds = Kinds::default();
    let host = Host::new(Arc::new(node_row(1, gpu_node(2))), None, StateMs(0), &mut kinds);
    let check = |task: TaskSpec, cpu_milli: u64, left: [u32; 2], expected: u64| {
        let table = {
            let mut counts = MixCounts::default();
            counts.add(&task, 1);
            MixTable::new(&counts.mix(), &kinds)
        };
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
    check(share_task(500), cpu, [1000, 400], 400);
    check(share_task(500), cpu, [1000, 500], 0);
    check(gpu_task(1), cpu, [1000, 400], 400);
    // Too few devices, or too little processor: all is lost.
    check(gpu_task(2), cpu, [1000, 400], 1400);
    check(gpu_task(2), cpu, [1000, 1000], 0);
    check(share_task(500), cpu - 1, [1000, 500], 1500);
    let mut other = gpu_task(1);
    other.gpu.as_mut().unwrap().models = vec!["L4".to_owned()];
    check(other, cpu, [1000, 1000], 2000);
    let mut more = share_task(500);
    more.cpu = CpuMilli(cpu + 1);
    check(more, cpu, [1000, 0], 1000);
}
