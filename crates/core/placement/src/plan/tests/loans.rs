//! Guarantees where they are hard to keep: of several resources, for what may not be ended, against
//! work that is always young, and in searches that are cut short.

use berth_model::{Gang, Guarantee, NamespaceSpec, Preemption, Resource};
use proptest::prelude::*;

use super::preemption::{reserve, run_for};
use super::reference::exit;
use super::*;
use crate::fixture::share_task;

fn guarantee(cluster: &mut Cluster, namespace: &str, amounts: &[(Resource, u64)]) {
    let mut spec = NamespaceSpec::new(name(namespace));
    spec.quota.guaranteed = Guarantee { amounts: amounts.iter().copied().collect() };
    cluster.apply(Command::ApplyNamespace { spec: Arc::new(spec), if_version: None }).unwrap();
}

fn of(namespace: &str, priority: u8, task: TaskSpec) -> JobSpec {
    JobSpec { priority, namespace: name(namespace), ..job(Policy::Berth, task) }
}

fn on(node: &str, spec: JobSpec) -> JobSpec {
    let constraints = Constraints { node: Some(name(node)), ..Constraints::default() };
    JobSpec { constraints, ..spec }
}

fn barred(spec: JobSpec) -> JobSpec {
    let preemption = Preemption { preemptible: false, ..spec.preemption };
    JobSpec { preemption, ..spec }
}

fn gpus_of(cluster: &Cluster, namespace: &str) -> u64 {
    cluster.state.quota_use(&name(namespace)).of(Resource::Gpus)
}

fn end(cluster: &mut Cluster, ids: impl IntoIterator<Item = AllocationId>) {
    for id in ids {
        if let Some(row) = cluster.state.allocations().get(&id).cloned() {
            cluster.end_allocation(row.node, id, exit(143));
        }
    }
}

/// A plan happens, as a leader proposes it, and who is asked to end does.
fn happens(cluster: &mut Cluster, outcome: PlanOutcome) {
    let awaited: Vec<AllocationId> =
        outcome.reservations.iter().flat_map(|one| one.awaits.clone()).collect();
    reserve(cluster, outcome.reservations);
    cluster.place(outcome.placements);
    end(cluster, awaited);
}

fn with_core(count: u32) -> TaskSpec {
    TaskSpec { cpu: CpuMilli(1000), ..counted(count, gpu_task(1)) }
}

#[test]
fn cores_stand_for_no_gpus() {
    let check = |sure: &[(&str, &[(Resource, u64)])], holds: JobSpec, asks: JobSpec, expected| {
        let mut cluster = Cluster::with_nodes([gpu_node(8)]);
        sure.iter().for_each(|(namespace, amounts)| guarantee(&mut cluster, namespace, amounts));
        cluster.submit(holds);
        run_for(&mut cluster, 3_600_000);
        cluster.submit(asks);
        assert_eq!(plan_all(&cluster).reservations.len(), expected, "{sure:?}");
    };
    use Resource as R;
    // Whom cores are guaranteed takes no GPUs with them.
    check(&[("b", &[(R::Cpu, 8_000)])], of("c", 100, with_core(8)), of("b", 0, with_core(8)), 0);
    // Nor does it keep GPUs with them.
    let both: &[(&str, &[(R, u64)])] = &[("a", &[(R::Gpus, 8_000)]), ("b", &[(R::Cpu, 8_000)])];
    check(both, of("b", 0, with_core(8)), of("a", 100, with_core(8)), 8);
}

#[test]
fn who_borrows_cores_keeps_its_gpus() {
    let mut cluster = Cluster::with_nodes([gpu_node(8)]);
    guarantee(&mut cluster, "a", &[(Resource::Gpus, 4000), (Resource::Cpu, 8000)]);
    guarantee(&mut cluster, "b", &[(Resource::Gpus, 4000)]);
    cluster.submit(of("c", 50, with_core(4)));
    run_for(&mut cluster, 3_600_000);
    cluster.submit(of("a", 50, with_core(4)));
    cluster.submit(of("a", 50, TaskSpec { cpu: CpuMilli(20_000), ..task() }));
    run_for(&mut cluster, 60_000);
    cluster.submit(of("b", 0, with_core(4)));
    let outcome = plan_all(&cluster);
    happens(&mut cluster, outcome);
    let held = ["a", "b", "c"].map(|namespace| gpus_of(&cluster, namespace));
    assert_eq!(held, [4000, 4000, 0]);
}

#[test]
fn what_may_not_be_ended_is_bounded_by_its_own_kind() {
    let mut cluster = Cluster::with_nodes([gpu_node(4)]);
    guarantee(&mut cluster, "a", &[(Resource::Gpus, 2000)]);
    cluster.submit(of("a", 10, counted(100, gpu_task(1))));
    run_for(&mut cluster, 60_000);
    let urgent = cluster.submit(barred(of("a", 100, counted(3, gpu_task(1)))));
    let outcome = plan_all(&cluster);
    let of_urgent = outcome.reservations.iter().filter(|one| one.placement.job == urgent);
    assert_eq!(of_urgent.count(), 2, "two of three are within the guarantee");
    happens(&mut cluster, outcome);
    let live = cluster.state.allocations().values().filter(|row| row.id.job == urgent);
    assert_eq!(live.count(), 2);
}

#[test]
fn nobody_ends_in_vain_for_what_may_not_be_ended() {
    let mut cluster = Cluster::with_nodes([gpu_node(2), gpu_node(1)]);
    guarantee(&mut cluster, "a", &[(Resource::Gpus, 2000)]);
    cluster.submit(of("b", 50, gpu_task(2)));
    run_for(&mut cluster, 60_000);
    let sure = cluster.submit(barred(of("a", 50, gpu_task(2))));
    // It is lent the third meanwhile.
    cluster.submit(of("a", 50, gpu_task(1)));
    let outcome = plan_all(&cluster);
    assert_eq!((outcome.placements.len(), outcome.reservations.len()), (1, 1));
    happens(&mut cluster, outcome);
    assert_eq!(cluster.state.allocations().values().filter(|row| row.id.job == sure).count(), 1);
}

/// Each of those who borrow is younger than its minimum run whenever somebody looks.
#[test]
fn work_that_is_always_young_is_taken_back_too() {
    for (min_run, span) in [(30, 25_000), (600, 540_000)] {
        let mut cluster = Cluster::with_nodes([gpu_node(2)]);
        guarantee(&mut cluster, "a", &[(Resource::Gpus, 2000)]);
        let min_run = DurationMs::from_secs(min_run);
        let preemption = Preemption { min_run, ..Preemption::default() };
        cluster.submit(JobSpec { preemption, ..of("b", 10, counted(100_000, gpu_task(1))) });
        let first = plan_all(&cluster);
        cluster.place(first.placements[..1].to_vec());
        cluster.now = cluster.now.after(DurationMs(span / 2));
        cluster.place(plan_all(&cluster).placements);
        let sure = cluster.submit(of("a", 100, gpu_task(2)));
        let began = cluster.now;
        loop {
            cluster.now = cluster.now.after(DurationMs(1000));
            let rows = cluster.state.allocations().values();
            let due = rows.filter(|row| cluster.now.since(row.planned_at).0 >= span);
            let due: Vec<AllocationId> = due.map(|row| row.id).collect();
            end(&mut cluster, due);
            let outcome = plan_all(&cluster);
            if outcome.reservations.iter().any(|one| one.placement.job == sure) {
                break;
            }
            cluster.place(outcome.placements);
            assert!(cluster.now.since(began) <= DurationMs::from_secs(600), "{min_run:?}");
        }
    }
}

#[test]
fn a_plan_that_keeps_nothing_leaves_to_the_next_what_is_sure() {
    let mut cluster = Cluster::with_nodes([gpu_node(2), gpu_node(1)]);
    guarantee(&mut cluster, "a", &[(Resource::Gpus, 2000)]);
    cluster.submit(on("node-1", of("b", 90, gpu_task(2))));
    run_for(&mut cluster, 60_000);
    let sure = cluster.submit(of("a", 90, gpu_task(2)));
    cluster.submit(of("a", 10, counted(9, gpu_task(1))));
    let soft = SoftView::default();
    let beside = plan(&cluster.state, &soft, cluster.now, Budget::INLINE);
    assert_eq!((beside.placements.len(), beside.held_back), (0, true));
    let outcome = plan_all(&cluster);
    let kept: Vec<JobId> = outcome.reservations.iter().map(|one| one.placement.job).collect();
    assert_eq!((kept, outcome.placements.len()), (vec![sure], 1));
}

/// The cheapest four of the loan are on two nodes, of which neither comes free with them.
#[test]
fn a_loan_is_taken_by_whole_nodes_where_the_cheapest_are_of_no_use() {
    let mut cluster = Cluster::with_nodes([gpu_node(4), gpu_node(4), gpu_node(4)]);
    guarantee(&mut cluster, "a", &[(Resource::Gpus, 8000)]);
    guarantee(&mut cluster, "b", &[(Resource::Gpus, 4000)]);
    cluster.submit(on("node-3", of("c", 90, counted(4, gpu_task(1)))));
    run_for(&mut cluster, 3_600_000);
    for span in [600_000, 60_000] {
        for node in ["node-1", "node-2"] {
            cluster.submit(on(node, of("b", 90, counted(2, gpu_task(1)))));
        }
        run_for(&mut cluster, span);
    }
    cluster.submit(of("a", 0, TaskSpec { gang: Some(Gang {}), ..counted(2, gpu_task(4)) }));
    let outcome = plan_all(&cluster);
    assert_eq!(outcome.reservations.len(), 2);
    happens(&mut cluster, outcome);
    let held = ["a", "b", "c"].map(|namespace| gpus_of(&cluster, namespace));
    assert_eq!(held, [8000, 4000, 0]);
}

#[test]
fn a_search_that_is_cut_short_finds_what_can_be_spared() {
    for sure in [4000, 3750, 3500, 3250, 3000] {
        let mut cluster = Cluster::with_nodes([gpu_node(8)]);
        guarantee(&mut cluster, "a", &[(Resource::Gpus, 1000)]);
        guarantee(&mut cluster, "b", &[(Resource::Gpus, sure)]);
        for namespace in ["c", "b"] {
            cluster.submit(of(namespace, 50, counted(16, share_task(250))));
            run_for(&mut cluster, 3_600_000);
        }
        cluster.submit(of("a", 0, gpu_task(1)));
        assert_eq!(plan_all(&cluster).reservations.len(), 1, "{sure}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is guaranteed, of whatever may be ended or not, what is planned is granted, beside
    /// an entry and by the planner; and nobody is ended for what does not start then.
    #[test]
    fn what_is_planned_is_granted_and_starts(
        nodes in prop::collection::vec(1..5_u32, 1..4),
        sure in prop::collection::vec((0..5_u64, 0..40_u64), 2),
        jobs in prop::collection::vec(
            (0..3_usize, 0..4_u8, 0..3_u32, 1..4_u32, prop::bool::ANY, 0..3_u8), 1..15),
    ) {
        let mut cluster = Cluster::with_nodes(nodes.into_iter().map(gpu_node));
        for (namespace, (gpus, cores)) in ["a", "b"].iter().zip(sure) {
            let amounts = [(Resource::Gpus, gpus * 1000), (Resource::Cpu, cores * 1000)];
            guarantee(&mut cluster, namespace, &amounts);
        }
        for (which, priority, gpus, count, is_barred, what) in jobs {
            let one = if gpus == 0 { task() } else { gpu_task(gpus) };
            let one = TaskSpec { cpu: CpuMilli(4000), ..counted(count, one) };
            let preemption = Preemption { min_run: DurationMs(0), ..Preemption::default() };
            let spec = JobSpec { preemption, ..of(["a", "b", "c"][which], priority * 20, one) };
            cluster.submit(if is_barred { barred(spec) } else { spec });
            if what == 0 {
                let soft = SoftView::default();
                let beside = plan(&cluster.state, &soft, cluster.now, Budget::INLINE);
                cluster.place(beside.placements);
            }
            let outcome = plan_all(&cluster);
            let kept: Vec<AllocationId> =
                outcome.reservations.iter().map(|one| one.placement.allocation()).collect();
            happens(&mut cluster, outcome);
            for id in kept {
                prop_assert!(cluster.state.is_live(id), "somebody ended for {id} in vain");
            }
            cluster.now = cluster.now.after(DurationMs(1000));
        }
    }
}
