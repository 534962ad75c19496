//! For whom places of a gang are kept: by hand, and against every set of what runs.

use std::collections::BTreeMap;

use berth_model::{AllocationId, InstanceIndex, Preemption};
use berth_state::reservation::{may_end, work_lost};
use berth_state::{AllocationRow, Reservation, invariants};
use proptest::prelude::*;

use super::gangs::gang;
use super::preemption::{reserve, run_for, urgent, victims};
use super::reference::exit;
use super::*;
use crate::fixture::share_task;
use crate::victims::Price;

#[test]
fn the_least_work_on_all_nodes_together_ends_for_a_gang() {
    // Three nodes of four GPUs, of which one is free. Two of the first have worked for an hour,
    // everything else for a minute.
    let mut cluster = Cluster::with_nodes([gpu_node(4), gpu_node(4), gpu_node(4)]);
    let submit = |cluster: &mut Cluster, node: &str, count, gpus| {
        let constraints = Constraints { node: Some(name(node)), ..Constraints::default() };
        cluster.submit(JobSpec { constraints, ..urgent(20, counted(count, gpu_task(gpus))) });
    };
    submit(&mut cluster, "node-1", 2, 1);
    run_for(&mut cluster, 3_600_000);
    submit(&mut cluster, "node-1", 2, 1);
    submit(&mut cluster, "node-2", 2, 2);
    submit(&mut cluster, "node-3", 1, 1);
    submit(&mut cluster, "node-3", 1, 2);
    run_for(&mut cluster, 60_000);
    let check = |count, gpus, hosts: &[u64], expected: &[&str]| {
        let mut cluster = Cluster { state: cluster.state.clone(), now: cluster.now };
        let job = cluster.submit(urgent(60, gang(count, gpu_task(gpus))));
        let outcome = plan_all(&cluster);
        let nodes = outcome.reservations.iter().map(|one| one.placement.node.0);
        assert_eq!(nodes.collect::<Vec<_>>(), hosts, "{count} of {gpus}");
        let mut ended = victims(&outcome).concat();
        ended.sort();
        assert_eq!(ended, expected, "{count} of {gpus}");
        reserve(&mut cluster, outcome.reservations);
        // It has its places, and nobody else ends for it.
        let again = plan_all(&cluster);
        assert_eq!((again.placements.len(), again.reservations.len()), (0, 0));
        let why = if hosts.is_empty() { Why::NoNode } else { Why::Reserved };
        assert_eq!(again.report.waiting[0].why, why);
        let rows: Vec<_> = cluster.state.allocations().values().cloned().collect();
        let ends = rows.iter().filter(|row| row.state.stop_intent().is_some());
        for row in ends {
            assert_eq!(cluster.state.allocations_of(job).count(), 0);
            cluster.end_allocation(row.node, row.id, exit(143));
        }
        let started = if hosts.is_empty() { 0 } else { count as usize };
        assert_eq!(cluster.state.allocations_of(job).count(), started);
    };
    // One is free, and whoever loses least makes room for one more.
    check(2, 1, &[3, 3], &["4.0.0.1"]);
    // As much would be lost with two of the first node, and one more would end.
    check(4, 1, &[3, 3, 3, 3], &["4.0.0.1", "5.0.0.1"]);
    check(5, 1, &[2, 2, 2, 2, 3], &["3.0.0.1", "3.0.1.1"]);
    check(1, 4, &[3], &["4.0.0.1", "5.0.0.1"]);
    check(2, 4, &[2, 3], &["3.0.0.1", "3.0.1.1", "4.0.0.1", "5.0.0.1"]);
    check(4, 3, &[], &[]);
}

#[test]
fn a_gang_ends_nobody_in_vain_and_is_looked_at_again() {
    let mut cluster = Cluster::with_nodes([gpu_node(2), gpu_node(2)]);
    cluster.submit(urgent(20, counted(3, gpu_task(1))));
    cluster.submit(urgent(50, gpu_task(1)));
    run_for(&mut cluster, 10_000);
    cluster.submit(urgent(55, gang(3, gpu_task(1))));
    let outcome = plan_all(&cluster);
    assert_eq!((outcome.placements.len(), outcome.reservations.len()), (0, 0));
    // The planner looks again a second later, and then again.
    assert_eq!(outcome.next_wakeup, Some(cluster.now.after(DurationMs(1_000))));
    cluster.now = cluster.now.after(DurationMs(20_000));
    assert_eq!(victims(&plan_all(&cluster)).concat().len(), 3);
}

#[test]
fn all_places_of_a_gang_count_as_one() {
    let mut cluster = Cluster::with_nodes([gpu_node(4), gpu_node(4)]);
    cluster.submit(urgent(20, counted(8, gpu_task(1))));
    run_for(&mut cluster, 60_000);
    cluster.submit(urgent(60, gang(3, gpu_task(1))));
    cluster.submit(urgent(60, gang(4, gpu_task(1))));
    let plan_with = |reservations_max| {
        let budget = Budget { reservations_max, ..Budget::UNLIMITED };
        plan(&cluster.state, &SoftView::default(), cluster.now, budget)
    };
    let counts = [0, 1, 2].map(|most| plan_with(most).reservations.len());
    assert_eq!(counts, [0, 3, 7]);
    let held_back = [0, 1, 2].map(|most| plan_with(most).held_back);
    assert_eq!(held_back, [true, true, false]);
}

#[test]
fn of_many_gangs_on_several_nodes_those_that_lose_least_end() {
    let mut cluster = Cluster::with_nodes((0..16).map(|_| gpu_node(1)));
    for _ in 0..8 {
        cluster.submit(urgent(20, gang(2, gpu_task(1))));
        run_for(&mut cluster, 60_000);
    }
    let id = cluster.submit(urgent(60, gang(4, gpu_task(1))));
    let outcome = plan_all(&cluster);
    let ended: BTreeSet<u64> = outcome
        .reservations
        .iter()
        .flat_map(|one| &one.awaits)
        .map(|victim| victim.job.0)
        .collect();
    assert_eq!(ended, [7, 8].into());
    reserve(&mut cluster, outcome.reservations);
    let rows: Vec<_> = cluster.state.allocations().values().cloned().collect();
    let ends = rows.iter().filter(|row| row.state.stop_intent().is_some());
    ends.for_each(|row| cluster.end_allocation(row.node, row.id, exit(143)));
    assert_eq!(cluster.state.allocations_of(id).count(), 4);
}

#[test]
fn one_that_waits_for_its_next_attempt_has_no_places_kept() {
    let mut cluster = Cluster::with_nodes([gpu_node(2)]);
    let restart = RestartPolicy {
        attempts: None,
        backoff: DurationMs(600_000),
        backoff_max: DurationMs(600_000),
    };
    let failed = urgent(60, TaskSpec { restart, ..gang(2, gpu_task(1)) });
    let failed = cluster.submit(failed);
    run_for(&mut cluster, 1_000);
    let rows: Vec<_> = cluster.state.allocations_of(failed).cloned().collect();
    rows.iter().for_each(|row| cluster.end_allocation(row.node, row.id, exit(1)));
    cluster.submit(urgent(20, counted(2, gpu_task(1))));
    run_for(&mut cluster, 60_000);
    // One like it, which ends nobody and has no room either.
    let mut shy = urgent(90, gang(2, gpu_task(1)));
    shy.preemption.preempts = false;
    cluster.submit(shy);
    let outcome = plan_all(&cluster);
    assert_eq!(outcome.reservations, []);
    let why: Vec<Why> = outcome.report.waiting.iter().map(|waiting| waiting.why).collect();
    assert_eq!(why, [Why::NoNode, Why::Backoff]);
}

#[test]
fn a_gang_of_hundreds_has_its_places_if_an_entry_holds_them() {
    let mut cluster = Cluster::with_nodes((0..200).map(|_| gpu_node(4)));
    cluster.submit(urgent(20, counted(800, gpu_task(1))));
    run_for(&mut cluster, 60_000);
    let check = |count: u32, gpus: u32, expected: usize| {
        let mut cluster = Cluster { state: cluster.state.clone(), now: cluster.now };
        cluster.submit(urgent(60, gang(count, gpu_task(gpus))));
        let outcome = plan_all(&cluster);
        assert_eq!(outcome.reservations.len(), expected, "{count} of {gpus}");
        reserve(&mut cluster, outcome.reservations);
    };
    check(200, 4, 200);
    check(600, 1, 600);
    // With all who end for them they are more than that.
    check(800, 1, 0);
}

#[test]
fn nobody_ends_for_members_that_are_elsewhere() {
    let mut large = gpu_node(0);
    large.cpu = CpuMilli(32_000);
    let mut cluster = Cluster::with_nodes([large]);
    let core = || TaskSpec { cpu: CpuMilli(1_000), ..task() };
    cluster.submit(urgent(20, counted(32, core())));
    run_for(&mut cluster, 60_000);
    for count in [5, 7, 17, 32] {
        let mut cluster = Cluster { state: cluster.state.clone(), now: cluster.now };
        cluster.submit(urgent(60, gang(count, core())));
        let ended = victims(&plan_all(&cluster)).concat();
        assert_eq!(ended.len(), count as usize);
    }
}

/// Who ends together, and what is lost by that.
type Unit = (Vec<Arc<AllocationRow>>, u64);

/// Of every set of what may end the cheapest without which the gang is placed: tried, by ending
/// them and planning.
fn by_exhaustion(cluster: &Cluster, id: JobId) -> Option<Price> {
    let view = &cluster.state;
    let job = view.jobs().get(&id).unwrap();
    let may_end = |row: &Arc<AllocationRow>| {
        may_end(Asker::by_priority(job), view.jobs().get(&row.id.job).unwrap(), row, cluster.now)
            .is_ok()
    };
    // A gang ends as a whole, if all of it may.
    let mut together: BTreeMap<AllocationId, Vec<Arc<AllocationRow>>> = BTreeMap::new();
    for row in view.allocations().values() {
        let AllocationId { job, task, instance, attempt } = row.id;
        let instance = if view.is_gang(job, task) { InstanceIndex(0) } else { instance };
        let of = AllocationId { job, task, instance, attempt };
        together.entry(of).or_default().push(row.clone());
    }
    let lost =
        |rows: &[Arc<AllocationRow>]| rows.iter().map(|row| work_lost(row, cluster.now)).sum();
    let may = together.into_values().filter(|rows| rows.iter().all(may_end));
    let units: Vec<Unit> = may.map(|rows| (rows.clone(), lost(&rows))).collect();
    let price = |set: &usize| {
        let chosen = (0..units.len()).filter(|at| set >> at & 1 == 1).map(|at| &units[at]);
        let lost = chosen.clone().map(|(_, lost)| lost).sum();
        Price { lost, victims: chosen.map(|(rows, _)| rows.len() as u32).sum() }
    };
    let mut sets: Vec<usize> = (0..1_usize << units.len()).collect();
    sets.sort_by_key(price);
    let is_enough = |set: &usize| {
        let mut copy = Cluster { state: view.clone(), now: cluster.now };
        for (rows, _) in (0..units.len()).filter(|at| set >> at & 1 == 1).map(|at| &units[at]) {
            rows.iter().for_each(|row| copy.end_allocation(row.node, row.id, exit(0)));
        }
        let soft = SoftView::default();
        !plan_jobs(&copy.state, &soft, copy.now, Budget::UNLIMITED, &[id]).placements.is_empty()
    };
    sets.iter().find(|set| is_enough(set)).map(price)
}

fn price_of(reservations: &[Reservation]) -> Option<Price> {
    let parts = &reservations.first()?.placement.score.parts;
    Some(Price { lost: parts[0].1 as u64, victims: parts[1].1 as u32 })
}

/// What runs: its priority, its GPUs or the share of one, its cores, how long it is left alone,
/// and for how long everything runs on.
#[derive(Clone, Debug)]
struct Low {
    priority: u8,
    gpus: u32,
    milli: u32,
    cpu: u64,
    min_run: u64,
    span: u64,
    /// Of a gang, if more than one.
    count: u32,
}

fn low() -> impl Strategy<Value = Low> {
    let of_gang = prop_oneof![2 => Just(1), 1 => 2..5_u32];
    (0..7_u8, 0..4_u32, 0..2_000_u32, 0..20_u64, 0..2_000_u64, 0..3_000_u64, of_gang).prop_map(
        |(priority, gpus, milli, cpu, min_run, span, count)| {
            let min_run = min_run.saturating_sub(1_000);
            Low { priority: priority * 10, gpus, milli, cpu, min_run, span, count }
        },
    )
}

fn some_task(gpus: u32, milli: u32, cpu: u64) -> TaskSpec {
    let part = share_task(milli.clamp(100, 1_000));
    let task = if gpus == 1 { part } else { gpu_task(gpus) };
    let gpu = task.gpu.clone().filter(|_| gpus > 0);
    TaskSpec { cpu: CpuMilli(1 + cpu * 1_000), gpu, ..task }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_set_of_what_runs_would_be_cheaper_for_a_gang(
        nodes in prop::collection::vec(0..4_u32, 1..4),
        lows in prop::collection::vec(low(), 1..9),
        (is_gang, count) in (prop::bool::weighted(0.7), 1..6_u32),
        (gpus, milli, cpu) in (0..3_u32, 0..1_000_u32, 0..12_u64),
    ) {
        let mut cluster = Cluster::with_nodes(nodes.into_iter().map(gpu_node));
        for Low { priority, gpus, milli, cpu, min_run, span, count } in lows {
            let preemption =
                Preemption { preempts: false, min_run: DurationMs(min_run), ..Preemption::default() };
            let task = some_task(gpus, milli, cpu);
            let task = if count > 1 { gang(count, task) } else { task };
            let id = cluster.submit(JobSpec { preemption, ..urgent(priority, task) });
            run_for(&mut cluster, span);
            if cluster.state.allocations_of(id).next().is_none() {
                let change = JobChange::Stop { reason: String::new() };
                cluster.apply(Command::ChangeJob { job: id, if_version: None, change }).unwrap();
            }
        }
        let task = some_task(gpus, milli, cpu);
        let task = if is_gang { gang(count, task) } else { counted(1, task) };
        let count = task.count;
        let id = cluster.submit(urgent(60, task));
        let outcome = plan_all(&cluster);
        let placed = (!outcome.placements.is_empty()).then_some(Price::NOTHING);
        let found = placed.or(price_of(&outcome.reservations));
        prop_assert_eq!(found, by_exhaustion(&cluster, id));
        prop_assert_eq!(&outcome, &plan_all(&cluster), "the same once more");
        if placed.is_none() && found.is_some() {
            prop_assert_eq!(outcome.reservations.len(), count as usize);
            let mut awaited: BTreeSet<AllocationId> =
                outcome.reservations.iter().flat_map(|one| one.awaits.clone()).collect();
            reserve(&mut cluster, outcome.reservations);
            let again = plan_all(&cluster);
            prop_assert_eq!((again.placements.len(), again.reservations.len()), (0, 0));
            prop_assert_eq!(invariants::check(&cluster.state), []);
            let rows: Vec<_> = cluster.state.allocations().values().cloned().collect();
            let ends = rows.iter().filter(|row| row.state.stop_intent().is_some());
            prop_assert_eq!(ends.clone().count() as u32, found.unwrap().victims);
            for row in ends {
                let started = if awaited.is_empty() { count as usize } else { 0 };
                prop_assert_eq!(cluster.state.allocations_of(id).count(), started);
                cluster.end_allocation(row.node, row.id, exit(143));
                awaited.remove(&row.id);
            }
            prop_assert_eq!(cluster.state.allocations_of(id).count(), count as usize);
            prop_assert_eq!(invariants::check(&cluster.state), []);
        }
    }
}
