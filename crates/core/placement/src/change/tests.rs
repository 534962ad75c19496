use berth_model::{Drain, GpuRequest};
use berth_state::Purpose;
use proptest::prelude::*;

use super::*;
use crate::fixture::{gpu_node, gpu_task, name, node_row, task};

fn with_busy_gpus(id: u64, gpu_count: u32, busy: u32) -> NodeRow {
    let mut row = node_row(id, gpu_node(gpu_count));
    for index in 0..busy {
        row.used.devices.insert(format!("GPU-{index}"), Default::default());
    }
    row
}

fn smallest_text(nodes: &[NodeRow], task: &TaskSpec, constraints: &Constraints) -> String {
    let nodes: Vec<&NodeRow> = nodes.iter().collect();
    let request = Request { task, constraints, kind: JobKind::Batch, pass: Pass::default() };
    smallest(&nodes, StateMs(0), request).map_or("none".to_owned(), |change| change.to_string())
}

#[test]
fn the_smallest_change_is_named_in_words() {
    let check = |nodes: &[NodeRow], task: &TaskSpec, constraints: &Constraints, expected: &str| {
        assert_eq!(smallest_text(nodes, task, constraints), expected);
    };
    let any = Constraints::default();
    let h100 = |count| {
        let gpu = GpuRequest {
            count,
            models: vec!["H100".to_owned()],
            memory_min: None,
            share: berth_model::ShareMilli::WHOLE,
        };
        TaskSpec { gpu: Some(gpu), ..task() }
    };
    let half_busy = [with_busy_gpus(1, 4, 3), with_busy_gpus(2, 4, 2)];
    check(
        &half_busy,
        &gpu_task(4),
        &any,
        "2 GPUs instead of 4 would fit now on node node-2, or free 2 more GPU on node node-2",
    );
    let all_busy = [with_busy_gpus(1, 4, 4), with_busy_gpus(2, 4, 4), with_busy_gpus(3, 4, 4)];
    check(&all_busy, &h100(1), &any, "free 1 more H100 on any of 3 nodes");
    check(
        &[with_busy_gpus(1, 8, 0)],
        &gpu_task(16),
        &any,
        "8 GPUs instead of 16 would fit now on node node-1",
    );
    let mut draining = node_row(1, gpu_node(4));
    draining.purpose = Purpose::Draining(Drain { deadline: None });
    check(&[draining], &gpu_task(4), &any, "wait: node node-1 is draining");
    let mut cordoned = node_row(2, gpu_node(4));
    cordoned.purpose = Purpose::Cordoned;
    check(&[cordoned], &gpu_task(4), &any, "uncordon node node-2");
    let pool = Constraints { pool: Some(name("gold")), ..Constraints::default() };
    check(
        &[node_row(1, gpu_node(1))],
        &gpu_task(1),
        &pool,
        "pool `default` instead of `gold` would fit now on node node-1",
    );
    // Two things at once are no single change.
    check(&[with_busy_gpus(1, 4, 4)], &gpu_task(4), &pool, "none");
    let large = TaskSpec { cpu: CpuMilli(65_000), ..task() };
    check(
        &[node_row(1, gpu_node(0))],
        &large,
        &any,
        "64 cores instead of 65 would fit now on node node-1",
    );
    let a100 = GpuRequest {
        count: 1,
        models: vec!["A100".to_owned()],
        memory_min: None,
        share: berth_model::ShareMilli::WHOLE,
    };
    check(
        &[node_row(1, gpu_node(1))],
        &TaskSpec { gpu: Some(a100), ..task() },
        &any,
        "another GPU model than A100 would fit now on node node-1",
    );
}

proptest! {
    /// Asking for what the change says is asking for what fits.
    #[test]
    fn asking_for_less_as_told_fits(
        nodes in prop::collection::vec((0..6u32, 0..6u32, 0..64u64), 1..5),
        count in 1..8u32,
        cpu in 1..80u64,
    ) {
        let rows: Vec<NodeRow> = nodes
            .iter()
            .zip(1..)
            .map(|((gpus, busy, cpu_used), id)| {
                let mut row = with_busy_gpus(id, *gpus, *busy.min(gpus));
                row.used.cpu = CpuMilli(cpu_used * 1000);
                row
            })
            .collect();
        let rows: Vec<&NodeRow> = rows.iter().collect();
        let constraints = Constraints::default();
        let asked = TaskSpec { cpu: CpuMilli(cpu * 1000), ..gpu_task(count) };
        let request = Request { task: &asked, constraints: &constraints, kind: JobKind::Batch, pass: Pass::default() };
        let fits = |task: &TaskSpec, row: &NodeRow| {
            let request = Request { task, constraints: &constraints, kind: JobKind::Batch, pass: Pass::default() };
            admits(row, &row.used, StateMs(0), request).is_ok()
        };
        let fits_now = rows.iter().any(|row| fits(&asked, row));
        if let Some(change) = smallest(&rows, StateMs(0), request).filter(|_| !fits_now) {
            let row = rows.iter().find(|row| row.name == change.node).unwrap();
            let mut relaxed = Relaxed::of(request);
            relaxed.make(&change.kind);
            prop_assert!(fits(&relaxed.task, row), "{change}");
        }
    }
}
