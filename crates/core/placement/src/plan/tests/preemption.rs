//! Who ends for whom: by hand, and against every set of allocations on every node.

use berth_model::{EndReport, NodeUse, PATIENCE, Preemption, StopIntent, WallMs};
use berth_state::reservation::{may_end, may_preempt, work_lost};
use berth_state::{AllocationRow, NodeRow, Observation, Observed, Reply, Reservation, invariants};
use proptest::prelude::*;

use super::reference::exit;
use super::*;
use crate::filters::{Pass, admits};
use crate::fixture::share_task;
use crate::victims::Price;

pub(super) fn urgent(priority: u8, task: TaskSpec) -> JobSpec {
    JobSpec { priority, ..job(Policy::Berth, task) }
}

/// Places what waits, says that it runs, and lets time pass.
pub(super) fn run_for(cluster: &mut Cluster, span_ms: u64) {
    let outcome = plan_all(cluster);
    cluster.place(outcome.placements);
    all_run(cluster);
    cluster.now = cluster.now.after(DurationMs(span_ms));
}

/// What has a place says that it runs.
pub(super) fn all_run(cluster: &mut Cluster) {
    let rows: Vec<_> = cluster.state.allocations().values().cloned().collect();
    for row in rows.iter().filter(|row| row.running_since.is_none()) {
        let observed = Observed::Running { ready: true, started_at: WallMs(1) };
        let observations = vec![Observation { allocation: row.id, observed }];
        let command = Command::Observe { node: row.node, observations };
        cluster.apply(command).unwrap();
    }
}

pub(super) fn reserve(cluster: &mut Cluster, reservations: Vec<Reservation>) {
    let count = reservations.len();
    let reply = cluster.apply(Command::Reserve { reservations }).unwrap();
    let Reply::Placed { granted, refused } = reply else { panic!("{reply:?}") };
    assert_eq!((granted.len(), refused), (count, Vec::new()));
}

pub(super) fn victims(outcome: &PlanOutcome) -> Vec<Vec<String>> {
    let names = |one: &Reservation| one.awaits.iter().map(ToString::to_string).collect();
    outcome.reservations.iter().map(names).collect()
}

#[test]
fn the_place_where_the_least_work_is_lost_is_kept() {
    let mut cluster = Cluster::with_nodes([gpu_node(2), gpu_node(2)]);
    // The first node's work has run for an hour longer.
    let first = Constraints { node: Some(name("node-1")), ..Constraints::default() };
    cluster.submit(JobSpec { constraints: first, ..urgent(50, counted(2, gpu_task(1))) });
    run_for(&mut cluster, 3_600_000);
    cluster.submit(urgent(40, counted(2, gpu_task(1))));
    run_for(&mut cluster, 60_000);
    let job = cluster.submit(urgent(60, counted(2, gpu_task(1))));
    let outcome = plan_all(&cluster);
    assert_eq!(outcome.placements, []);
    assert_eq!(victims(&outcome), [["2.0.1.1"], ["2.0.0.1"]]);
    let waiting = &outcome.report.waiting;
    assert_eq!((waiting[0].job, waiting[0].left, waiting[0].why), (job, 2, Why::Reserved));
    reserve(&mut cluster, outcome.reservations);
    // What has a place is not given another, and there are no more victims for it.
    let again = plan_all(&cluster);
    assert_eq!((again.placements.len(), again.reservations.len()), (0, 0));
    let ends: Vec<_> = cluster.state.allocations().values().cloned().collect();
    for row in ends.iter().filter(|row| row.id.job == JobId(2)) {
        cluster.end_allocation(row.node, row.id, exit(143));
    }
    let live = cluster.state.allocations().values().filter(|row| row.id.job == job);
    assert_eq!(live.count(), 2);
}

#[test]
fn a_place_of_one_that_moves_is_its_own_and_the_one_it_leaves_anybodys() {
    let mut cluster = Cluster::with_nodes([gpu_node(1), gpu_node(1)]);
    cluster.set_purpose(2, Purpose::Cordoned);
    let again = RestartPolicy { attempts: None, ..gpu_task(1).restart };
    cluster.submit(urgent(50, TaskSpec { restart: again, ..gpu_task(1) }));
    run_for(&mut cluster, 60_000);
    cluster.set_purpose(2, Purpose::Work);
    let mover = *cluster.state.allocations().iter().next().unwrap().0;
    let next = AllocationId { attempt: cluster.state.attempt_after(mover).unwrap(), ..mover };
    let mut claim = cluster.state.allocations().get(&mover).unwrap().claim.clone();
    let there = cluster.state.nodes().get(&NodeId(2)).unwrap().spec.devices[0].uuid.clone();
    claim.devices[0].uuid = there;
    let placement = Placement::new(next, NodeId(2), claim, Default::default());
    reserve(&mut cluster, vec![Reservation { placement, awaits: vec![mover], patient: false }]);
    let job = cluster.submit(urgent(90, counted(2, gpu_task(1))));
    let outcome = plan_all(&cluster);
    assert_eq!(victims(&outcome), [[mover.to_string()]]);
    assert_eq!(outcome.reservations[0].placement.node, NodeId(1));
    reserve(&mut cluster, outcome.reservations);
    assert_eq!(plan_all(&cluster).reservations, [], "nobody can be ended for the other");
    cluster.end_allocation(NodeId(1), mover, exit(143));
    let live = cluster.state.allocations().values();
    let live: Vec<(JobId, u64)> = live.map(|row| (row.id.job, row.node.0)).collect();
    assert_eq!(live, [(mover.job, 2), (job, 1)]);
}

#[test]
fn what_one_end_makes_room_for_shares_it() {
    let mut cluster = Cluster::with_nodes([gpu_node(4), gpu_node(2)]);
    cluster.submit(urgent(50, gpu_task(4)));
    cluster.submit(urgent(40, counted(2, gpu_task(1))));
    run_for(&mut cluster, 60_000);
    let first = cluster.submit(urgent(60, gpu_task(3)));
    cluster.submit(urgent(60, counted(2, gpu_task(1))));
    let outcome = plan_all(&cluster);
    assert_eq!(victims(&outcome), [["1.0.0.1"], ["1.0.0.1"], ["2.0.1.1"]]);
    // So it is when the second comes later.
    let reservations = outcome.reservations;
    reserve(&mut cluster, reservations[..1].to_vec());
    let again = plan_all(&cluster);
    assert_eq!(victims(&again), [["1.0.0.1"], ["2.0.1.1"]]);
    reserve(&mut cluster, again.reservations);
    let victim = cluster.state.allocations().values().find(|row| row.id.job == JobId(1)).cloned();
    let victim = victim.unwrap();
    cluster.end_allocation(victim.node, victim.id, exit(143));
    let live = cluster.state.allocations().values().filter(|row| row.node == victim.node);
    assert_eq!(live.map(|row| row.id.job).collect::<Vec<_>>(), [first, JobId(4)]);
}

#[test]
fn where_there_is_room_nobody_waits_for_a_place_that_is_kept() {
    let mut cluster = Cluster::with_nodes([gpu_node(1), gpu_node(1)]);
    cluster.submit(urgent(50, counted(2, gpu_task(1))));
    run_for(&mut cluster, 60_000);
    let array = ArraySpec { start: 0, step: 1, parallel_max: Some(1) };
    let one_by_one = TaskSpec { array: Some(array), ..counted(3, gpu_task(1)) };
    let job = cluster.submit(urgent(80, one_by_one));
    let outcome = plan_all(&cluster);
    assert_eq!(victims(&outcome), [["1.0.0.1"]]);
    reserve(&mut cluster, outcome.reservations);
    let other = cluster.state.allocations().values().find(|row| row.id.instance.0 == 1).cloned();
    let other = other.unwrap();
    cluster.end_allocation(other.node, other.id, exit(0));
    let outcome = plan_all(&cluster);
    assert_eq!(nodes_of(&outcome), [2]);
    cluster.place(outcome.placements);
    assert_eq!(cluster.state.reservations().count(), 0);
    let again = plan_all(&cluster);
    assert_eq!((again.placements.len(), again.reservations.len()), (0, 0));
    assert_eq!(again.report.waiting[0].job, job);
}

#[test]
fn age_puts_nobody_where_what_is_urgent_would_end_it() {
    let mut cluster = Cluster::with_nodes([gpu_node(1)]);
    cluster.submit(urgent(80, gpu_task(1)));
    run_for(&mut cluster, 60_000);
    let old = cluster.submit(urgent(10, gpu_task(1)));
    cluster.now = cluster.now.after(DurationMs(7_200_000));
    let new = cluster.submit(urgent(80, gpu_task(1)));
    assert_eq!(cluster.state.queue().next().unwrap().job, old);
    let first = cluster.state.allocations().values().next().cloned().unwrap();
    cluster.end_allocation(first.node, first.id, exit(0));
    let outcome = plan_all(&cluster);
    let placed: Vec<JobId> = outcome.placements.iter().map(|one| one.job).collect();
    assert_eq!((placed, outcome.exhausted), (vec![new], true));
    cluster.place(outcome.placements);
    let again = plan_all(&cluster);
    assert_eq!((again.placements.len(), again.exhausted), (0, false));
    assert!(again.reservations.iter().all(|one| one.patient), "nobody is asked to end");
}

#[test]
fn nobody_ends_for_what_fails_and_fails() {
    let mut cluster = Cluster::with_nodes([gpu_node(1)]);
    let restart =
        RestartPolicy { attempts: None, backoff: DurationMs(10), backoff_max: DurationMs(10) };
    let bad = cluster.submit(urgent(80, TaskSpec { restart, ..gpu_task(1) }));
    cluster.place(plan_all(&cluster).placements);
    let low = cluster.submit(urgent(50, gpu_task(1)));
    for expected in [1, 0] {
        let live = cluster.state.allocations().values().find(|row| row.id.job == bad).cloned();
        let live = live.unwrap();
        cluster.end_allocation(live.node, live.id, exit(1));
        // While it waits for its next attempt another takes what is free.
        run_for(&mut cluster, 60_000);
        let outcome = plan_all(&cluster);
        assert_eq!(outcome.reservations.len(), expected, "{:?}", outcome.report.waiting);
        reserve(&mut cluster, outcome.reservations);
        let live = cluster.state.allocations().values().find(|row| row.id.job == low).cloned();
        let live = live.unwrap();
        cluster.end_allocation(live.node, live.id, exit(1));
    }
}

#[test]
fn who_has_found_nobody_looks_again_after_a_while() {
    let mut cluster = Cluster::with_nodes([gpu_node(1)]);
    cluster.submit(urgent(50, gpu_task(1)));
    run_for(&mut cluster, 60_000);
    cluster.submit(urgent(0, TaskSpec { gpu: None, ..gpu_task(1) }));
    run_for(&mut cluster, 60_000);
    cluster.submit(urgent(55, gpu_task(1)));
    let mut planner = Planner::default();
    let mut reservations = |cluster: &Cluster| {
        let soft = SoftView::default();
        let outcome = planner.plan(&cluster.state, &soft, cluster.now, Budget::UNLIMITED);
        (outcome.reservations.len(), outcome.next_wakeup)
    };
    let later = cluster.now.after(DurationMs(1_000));
    assert_eq!(reservations(&cluster), (0, Some(later)));
    let job = JobId(1);
    let change = JobChange::Stop { reason: String::new() };
    cluster.apply(Command::ChangeJob { job, if_version: None, change }).unwrap();
    assert_eq!(reservations(&cluster).0, 0, "it has looked just now");
    cluster.now = later;
    assert_eq!(reservations(&cluster).0, 1, "it waits for what ends");
}

#[test]
fn who_is_left_alone_is_left_alone_and_waited_for() {
    let check = |change: &dyn Fn(&mut JobSpec), wakeup: Option<u64>| {
        let mut cluster = Cluster::with_nodes([gpu_node(1)]);
        let mut low = urgent(50, gpu_task(1));
        change(&mut low);
        cluster.submit(low);
        run_for(&mut cluster, 1_000);
        cluster.submit(urgent(60, gpu_task(1)));
        let outcome = plan_all(&cluster);
        assert_eq!(victims(&outcome), Vec::<Vec<String>>::new());
        // Whom nothing ends for is patient in the end.
        let patient_at = cluster.now.after(PATIENCE);
        assert_eq!(outcome.next_wakeup, Some(wakeup.map_or(patient_at, StateMs)));
        if let Some(wakeup) = wakeup {
            cluster.now = StateMs(wakeup);
            assert_eq!(victims(&plan_all(&cluster)), [["1.0.0.1"]]);
        }
    };
    // After a second it would be looked for again.
    check(&|low| low.preemption.min_run = DurationMs(1_500), Some(2_500));
    check(&|low| low.preemption.preemptible = false, None);
    check(&|low| low.priority = 51, None);
}

#[test]
fn a_part_of_a_gpu_is_taken_from_the_one_who_loses_least() {
    let mut cluster = Cluster::with_nodes([gpu_node(1)]);
    let low = |milli| JobSpec {
        preemption: Preemption { min_run: DurationMs(0), ..Preemption::default() },
        ..urgent(10, share_task(milli))
    };
    cluster.submit(low(600));
    run_for(&mut cluster, 1_000);
    cluster.submit(low(400));
    run_for(&mut cluster, 1_000);
    let check = |milli, expected: &[&[&str]]| {
        let mut cluster = Cluster { state: cluster.state.clone(), now: cluster.now };
        cluster.submit(urgent(20, share_task(milli)));
        assert_eq!(victims(&plan_all(&cluster)), expected, "{milli}");
    };
    check(400, &[&["2.0.0.1"]]);
    check(500, &[&["1.0.0.1"]]);
    check(601, &[&["1.0.0.1", "2.0.0.1"]]);
}

/// Of every set of allocations on every node, of which their namespaces are not sure, the cheapest
/// without which the instance fits.
pub(super) fn by_exhaustion(
    cluster: &Cluster,
    job: JobId,
    ended: &BTreeSet<AllocationId>,
) -> Option<Price> {
    let row = cluster.state.jobs().get(&job).unwrap();
    let right = cluster.state.right_to(row.namespace(), row.spec.tasks[0].amounts_least(), None);
    let sure = (right == Right::Guarantee).then(|| by_right(cluster, (job, right), ended));
    sure.flatten().or_else(|| by_right(cluster, (job, Right::Priority), ended))
}

fn by_right(
    cluster: &Cluster,
    (job, right): (JobId, Right),
    ended: &BTreeSet<AllocationId>,
) -> Option<Price> {
    let (view, now) = (&cluster.state, cluster.now);
    let job = view.jobs().get(&job).unwrap();
    let (task, constraints) = (&job.spec.tasks[0], &job.spec.constraints);
    let request = Request { task, constraints, kind: job.kind(), pass: Pass::default() };
    let asker = Asker { job, right };
    let is_own = |row: &AllocationRow| {
        let owner = view.jobs().get(&row.id.job).unwrap();
        row.state.stop_intent().is_none()
            && right == Right::Guarantee
            && owner.namespace() == job.namespace()
    };
    let of_node = |node: &Arc<NodeRow>| {
        let awaited: BTreeSet<_> =
            node.reservations.iter().flat_map(|one| one.awaits.clone()).collect();
        let joined = node.reservations.iter().any(|one| {
            let may = |id: &AllocationId| {
                let row = view.allocations().get(id).unwrap();
                may_end(asker, view.jobs().get(&id.job).unwrap(), row, now).is_ok()
            };
            let mut later = node.used.clone();
            later.remove_held(&one.held);
            one.awaits
                .iter()
                .for_each(|id| later.remove(&view.allocations().get(id).unwrap().claim));
            one.members.values().for_each(|place| later.add(&place.claim));
            one.awaits.iter().all(may) && admits(node, &later, now, request).is_ok()
        });
        if joined {
            return Some(Price { lost: 0, victims: 0 });
        }
        let rows = node.live.iter().map(|id| view.allocations().get(id).unwrap());
        let candidates: Vec<&Arc<AllocationRow>> = rows
            .filter(|row| !awaited.contains(&row.id) && !ended.contains(&row.id))
            .filter(|row| !is_own(row))
            .filter(|row| may_end(asker, view.jobs().get(&row.id.job).unwrap(), row, now).is_ok())
            .collect();
        let sets = 0..1_usize << candidates.len();
        let price = |set: usize| {
            let chosen = || (0..candidates.len()).filter(|at| set >> at & 1 == 1);
            let mut used: NodeUse = node.used.clone();
            chosen().for_each(|at| used.remove(&candidates[at].claim));
            admits(node, &used, now, request).ok()?;
            let rows = chosen().map(|at| AllocationRow::clone(candidates[at]));
            view.check_lent(&job.spec, rows.collect::<Vec<_>>().iter()).ok()?;
            let lost = chosen().map(|at| work_lost(candidates[at], now)).sum();
            Some(Price { lost, victims: chosen().count() as u32 })
        };
        sets.filter_map(price).min()
    };
    view.nodes().values().filter_map(of_node).min()
}

#[derive(Clone, Debug)]
pub(super) enum Move {
    Submit { priority: u8, gpus: u32, milli: u32, cpu: u64, preemption: Preemption, count: u32 },
    Plan,
    Run(u64),
    End(usize),
    Stop(usize),
}

pub(super) fn a_move() -> impl Strategy<Value = Move> {
    let preemption = (prop::bool::weighted(0.9), prop::bool::weighted(0.8), 0..2_000_u64);
    let preemption = preemption.prop_map(|(preempts, preemptible, min_run)| Preemption {
        preempts,
        preemptible,
        min_run: DurationMs(min_run.saturating_sub(1_000)),
    });
    let submit = (0..10_u8, 0..3_u32, 0..2_000_u32, 0..20_u64, preemption, 1..3_u32);
    let submit = submit.prop_map(|(priority, gpus, milli, cpu, preemption, count)| Move::Submit {
        priority: priority * 10,
        gpus,
        milli,
        cpu: 1 + cpu * 1000,
        preemption,
        count,
    });
    prop_oneof![
        4 => submit,
        3 => Just(Move::Plan),
        2 => (0..3_000_u64).prop_map(Move::Run),
        2 => (0..50_usize).prop_map(Move::End),
        1 => (0..50_usize).prop_map(Move::Stop),
    ]
}

/// Plans, checks the first place that is kept against every other, and applies all of it.
fn check_plan(cluster: &mut Cluster) {
    let lowest = cluster.state.least_urgent();
    let outcome = plan_all(cluster);
    assert_eq!(outcome, plan_all(cluster), "the same once more");
    cluster.place(outcome.placements.clone());
    let mut ended = BTreeSet::new();
    for one in &outcome.reservations {
        let expected = by_exhaustion(cluster, one.placement.job, &ended).unwrap();
        let lost = one.placement.score.parts[0].1 as u64;
        let found = Price { lost, victims: one.placement.score.parts[1].1 as u32 };
        // One that takes something back, or has found room without its place, is followed by another.
        assert!(found == expected || outcome.exhausted, "{found:?}, {expected:?}: {one:?}");
        ended.extend(&one.awaits);
        reserve(cluster, vec![one.clone()]);
    }
    assert_eq!(invariants::check(&cluster.state), []);
    if outcome.exhausted {
        return check_plan(cluster);
    }
    let again = plan_all(cluster);
    assert_eq!(again.placements, [], "planned twice");
    // What this plan has placed may be what brings those in reach who wait for what ends anyway.
    let costly = again.reservations.iter().filter(|one| one.placement.score.parts[0].1 > 0);
    assert_eq!(costly.count(), 0, "planned twice");
    for waiting in outcome.report.waiting.iter().filter(|waiting| waiting.why == Why::NoNode) {
        let job = cluster.state.jobs().get(&waiting.job).unwrap();
        let in_reach = lowest.is_some_and(|lowest| lowest + 10 <= job.spec.priority);
        if may_preempt(&job.spec) && in_reach {
            assert_eq!(by_exhaustion(cluster, waiting.job, &ended), None, "{waiting:?}");
        }
    }
}

pub(super) fn make(cluster: &mut Cluster, one: Move) {
    match one {
        Move::Submit { priority, gpus, milli, cpu, preemption, count } => {
            let part = share_task(milli.clamp(100, 1_000));
            let task = if gpus == 1 { part } else { gpu_task(gpus) };
            let gpu = task.gpu.clone().filter(|_| gpus > 0);
            let task = TaskSpec { cpu: CpuMilli(cpu), gpu, count, ..task };
            cluster.submit(JobSpec { preemption, ..urgent(priority, task) });
        }
        Move::Plan => check_plan(cluster),
        Move::Run(span) => {
            check_plan(cluster);
            run_for(cluster, span);
        }
        Move::End(which) => {
            let live = cluster.state.allocations();
            let chosen = live.values().nth(which % live.len().max(1)).cloned();
            if let Some(row) = chosen {
                let report: EndReport = exit(i32::from(which % 2 == 0));
                cluster.end_allocation(row.node, row.id, report);
            }
        }
        Move::Stop(which) => {
            let live = cluster.state.allocations();
            let chosen = live.values().nth(which % live.len().max(1)).map(|row| row.id);
            let (allocations, reason) = (chosen.into_iter().collect(), String::new());
            let intent = StopIntent::Drain;
            cluster.apply(Command::StopAllocations { allocations, intent, reason }).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_ends_who_need_not_and_nothing_cheaper_would_do(
        nodes in prop::collection::vec(0..4_u32, 1..4),
        moves in prop::collection::vec(a_move(), 1..30),
    ) {
        let nodes = nodes.into_iter().map(gpu_node);
        let mut cluster = Cluster::with_nodes(nodes);
        for one in moves {
            make(&mut cluster, one);
        }
        check_plan(&mut cluster);
    }
}
