use std::sync::Arc;

use berth_model::{Claim, CpuMilli, DeviceClaim, MemoryBytes, ShareMilli, StateMs, TaskSpec};

use super::*;
use crate::fixture::{gpu_node, gpu_task, node_row, share_task, task};
use crate::kinds::Kinds;
use crate::soft::NodeLoad;

fn host(gpus: u32, held: &[(usize, u32)], load: Option<NodeLoad>) -> Host {
    let mut kinds = Kinds::default();
    let mut host = Host::new(Arc::new(node_row(1, gpu_node(gpus))), load, StateMs(0), &mut kinds);
    for (at, share) in held {
        let device = &host.row.spec.devices[*at];
        let gpu = berth_model::GpuRequest {
            share: ShareMilli(*share),
            ..berth_model::GpuRequest::whole(1)
        };
        let claim = DeviceClaim {
            uuid: device.uuid.clone(),
            share: gpu.share,
            memory: gpu.memory_of(device.memory),
        };
        let claim = Claim { devices: vec![claim], ..Claim::default() };
        host.hand_out(&claim, StateMs(0));
    }
    host
}

fn value(term: Term, host: &Host, task: &TaskSpec) -> u32 {
    let (mix, table) = (Mix::default(), MixTable::default());
    let inputs = Inputs { mix: &mix, table: &table, core_price: 0 };
    term.value(Look { host, task, suits: &[true], inputs, on_node: 0 })
}

#[test]
fn the_gpu_load_weighs_utilisation_and_memory() {
    let load = NodeLoad {
        gpu_util_milli: Some(500),
        gpu_memory_used: Some(MemoryBytes(20 << 30)),
        ..NodeLoad::default()
    };
    assert_eq!(value(Term::GpuLoad, &host(1, &[], Some(load)), &task()), 400);
    assert_eq!(value(Term::GpuLoad, &host(1, &[], None), &task()), 0);
}

#[test]
fn the_resource_score_weighs_cpu_memory_and_network() {
    let check = |cpu_milli: u64, memory_milli: u64, expected: u32| {
        let spec = gpu_node(1);
        let load = NodeLoad {
            cpu_used: Some(CpuMilli(spec.cpu.0 * cpu_milli / 1000)),
            memory_used: Some(MemoryBytes(spec.memory.0.div_ceil(1000) * memory_milli)),
            ..NodeLoad::default()
        };
        assert_eq!(value(Term::HostLoad, &host(1, &[], Some(load)), &task()), 1000 - expected);
    };
    check(600, 700, 480);
    check(300, 400, 720);
    check(0, 0, 1000);
    check(1000, 1000, 200);
}

#[test]
fn a_promise_counts_before_it_can_be_measured() {
    let idle = NodeLoad { gpu_util_milli: Some(10), ..NodeLoad::default() };
    let host = host(2, &[(0, 1000)], Some(idle));
    assert_eq!(value(Term::GpuLoad, &host, &task()), 500);
    assert_eq!(value(Term::Used, &host, &task()), 500);
    assert_eq!(value(Term::Allocations, &host, &task()), 1);
}

#[test]
fn what_is_left_is_that_of_the_dominant_resource() {
    let host = host(4, &[], None);
    let spec = gpu_node(4);
    let task = |cpu, memory| TaskSpec { cpu: CpuMilli(cpu), memory: MemoryBytes(memory), ..task() };
    assert_eq!(value(Term::LeftOver, &host, &task(spec.cpu.0 / 2, 1)), 500);
    assert_eq!(value(Term::LeftOver, &host, &task(1, spec.memory.0 / 4 * 3)), 250);
}

#[test]
fn a_share_beside_others_leaves_idle_gpus_alone() {
    let check = |held: &[(usize, u32)], task: TaskSpec, expected: u32| {
        assert_eq!(value(Term::GpusLeft, &host(4, held, None), &task), expected, "{held:?}");
    };
    check(&[], task(), 4);
    check(&[], gpu_task(3), 1);
    check(&[], share_task(500), 3);
    check(&[(2, 500)], share_task(500), 3);
    check(&[(2, 600)], share_task(500), 2);
    check(&[(2, 500)], gpu_task(2), 1);
}

#[test]
fn packing_fills_what_is_in_use() {
    let check = |gpus: u32, held: &[(usize, u32)], task: TaskSpec, expected: u32| {
        let found = value(Term::Packing, &host(gpus, held, None), &task);
        assert_eq!(100 - found, expected, "{gpus} with {held:?}");
    };
    check(8, &[], gpu_task(1), 25);
    check(2, &[], gpu_task(1), 31);
    check(8, &[(0, 1000)], gpu_task(1), 49);
    check(8, &[(0, 1000)], gpu_task(4), 46);
    check(8, &[(0, 300)], share_task(500), 93);
    check(8, &[(0, 1000), (1, 500)], share_task(500), 95);
    check(8, &[(0, 1000)], task(), 100);
}

#[test]
fn a_gradient_is_worth_what_its_sigmoid_says() {
    let total = crate::mix::WEIGHTS_TOTAL as f64;
    for (position, least) in fragmentation::STEPS.iter().enumerate() {
        let worth = |gradient: i64| 100.0 / (1.0 + (-(gradient as f64) / total / 1000.0).exp());
        let score = position as f64 + 1.0;
        assert!(worth(*least) >= score - 1e-6, "{score} at {least}");
        assert!(worth(least - 2) < score, "{score} before {least}");
    }
}
