//! What is lent is given back, to whom it is guaranteed, and no more of it than is.

use berth_model::{
    Amounts, Gang, Guarantee, Name, NamespaceSpec, Preemption, Resource, StopPolicy,
};
use berth_state::{Reply, Reservation, invariants};
use proptest::prelude::*;

use super::preemption::{by_exhaustion, reserve, run_for};
use super::reference::exit;
use super::*;
use crate::explain::explain;
use crate::fixture::share_task;
use crate::victims::Price;

pub(super) fn guarantee(cluster: &mut Cluster, namespace: &str, gpu_milli: u64) {
    let mut spec = NamespaceSpec::new(name(namespace));
    spec.quota.guaranteed = Guarantee { amounts: [(Resource::Gpus, gpu_milli)].into() };
    cluster.apply(Command::ApplyNamespace { spec: Arc::new(spec), if_version: None }).unwrap();
}

fn of(namespace: &str, priority: u8, task: TaskSpec) -> JobSpec {
    JobSpec { priority, namespace: name(namespace), ..job(Policy::Berth, task) }
}

fn gpus_of(cluster: &Cluster, namespace: &str) -> u64 {
    cluster.state.quota_use(&name(namespace)).of(Resource::Gpus)
}

/// What is planned happens: places are kept, who ends for them ends, the rest is placed.
fn settle(cluster: &mut Cluster) -> PlanOutcome {
    let outcome = plan_all(cluster);
    reserve(cluster, outcome.reservations.clone());
    cluster.place(outcome.placements.clone());
    let ending: BTreeSet<AllocationId> =
        outcome.reservations.iter().flat_map(|one| one.awaits.iter().copied()).collect();
    end_all(cluster, ending);
    outcome
}

/// These end, and of their gangs all.
fn end_all(cluster: &mut Cluster, ids: BTreeSet<AllocationId>) {
    let rows = cluster.state.allocations().values().cloned().collect::<Vec<_>>();
    let tasks: BTreeSet<_> = ids.iter().map(|id| (id.job, id.task)).collect();
    let ends = |id: &AllocationId| {
        let of_gang = cluster.state.is_gang(id.job, id.task) && tasks.contains(&(id.job, id.task));
        ids.contains(id) || of_gang
    };
    let rows: Vec<_> = rows.into_iter().filter(|row| ends(&row.id)).collect();
    for row in rows.iter().filter(|row| row.state.stop_intent().is_some() || ids.contains(&row.id))
    {
        if cluster.state.is_live(row.id) {
            cluster.end_allocation(row.node, row.id, exit(143));
        }
    }
}

#[test]
fn idle_guarantees_are_lent_and_taken_back_at_once() {
    let mut cluster = Cluster::with_nodes([gpu_node(5), gpu_node(5)]);
    guarantee(&mut cluster, "a", 6000);
    guarantee(&mut cluster, "b", 4000);
    cluster.submit(of("b", 90, counted(12, gpu_task(1))));
    run_for(&mut cluster, 60_000);
    assert_eq!(gpus_of(&cluster, "b"), 10_000, "what is idle is lent");
    let job = cluster.submit(of("a", 0, counted(9, gpu_task(1))));
    let outcome = settle(&mut cluster);
    assert_eq!((outcome.placements.len(), outcome.reservations.len()), (0, 6));
    assert_eq!((gpus_of(&cluster, "a"), gpus_of(&cluster, "b")), (6000, 4000));
    let waiting = outcome.report.waiting.iter().find(|waiting| waiting.job == job).unwrap();
    assert_eq!((waiting.placed, waiting.left, waiting.why), (0, 9, Why::NoNode));
    // Both want more, and each has what is its own.
    cluster.now = cluster.now.after(DurationMs(3_600_000));
    let again = plan_all(&cluster);
    assert!(again.placements.is_empty());
    assert!(again.reservations.iter().all(|one| one.patient), "nobody is asked to end");
}

#[test]
fn what_is_free_goes_first_to_whom_it_is_guaranteed() {
    let mut cluster = Cluster::with_nodes([gpu_node(4)]);
    guarantee(&mut cluster, "a", 2000);
    let urgent = cluster.submit(of("b", 100, counted(4, gpu_task(1))));
    let own = cluster.submit(of("a", 0, counted(3, gpu_task(1))));
    let outcome = plan_all(&cluster);
    let placed: Vec<JobId> = outcome.placements.iter().map(|one| one.job).collect();
    assert_eq!(placed, [own, own, urgent, urgent]);
    let waiting: Vec<_> =
        outcome.report.waiting.iter().map(|one| (one.job, one.placed, one.left)).collect();
    assert_eq!(waiting, [(urgent, 2, 2), (own, 2, 1)]);
    assert!(outcome.reservations.is_empty());
}

#[test]
fn a_gang_takes_back_what_it_is_sure_of_as_a_whole() {
    let mut cluster = Cluster::with_nodes([gpu_node(4), gpu_node(4)]);
    guarantee(&mut cluster, "a", 6000);
    guarantee(&mut cluster, "b", 2000);
    cluster.submit(of("b", 90, counted(8, gpu_task(1))));
    run_for(&mut cluster, 60_000);
    let gang = |count| TaskSpec { gang: Some(Gang {}), ..counted(count, gpu_task(1)) };
    // Of seven one would not be sure, so that none is.
    let seven = cluster.submit(of("a", 50, gang(7)));
    let outcome = plan_all(&cluster);
    assert_eq!((outcome.placements.len(), outcome.reservations.len()), (0, 0));
    cluster.submit(of("a", 40, gang(6)));
    let outcome = settle(&mut cluster);
    assert_eq!(outcome.reservations.len(), 6);
    assert_eq!((gpus_of(&cluster, "a"), gpus_of(&cluster, "b")), (6000, 2000));
    assert_eq!(outcome.report.waiting.iter().filter(|one| one.job == seven).count(), 1);
}

/// Every node alone could give four of the five that are lent.
#[test]
fn a_gang_on_many_nodes_takes_no_more_than_is_lent() {
    let mut cluster = Cluster::with_nodes([gpu_node(4), gpu_node(4)]);
    guarantee(&mut cluster, "a", 8000);
    guarantee(&mut cluster, "b", 3000);
    cluster.submit(of("b", 90, counted(5, gpu_task(1))));
    run_for(&mut cluster, 3_600_000);
    // Dearer than what is lent, and nobody's.
    cluster.submit(of("c", 90, counted(3, TaskSpec { cpu: CpuMilli(16_000), ..gpu_task(1) })));
    run_for(&mut cluster, 7_200_000);
    let gang = TaskSpec { gang: Some(Gang {}), ..counted(4, gpu_task(1)) };
    cluster.submit(of("a", 0, gang));
    let outcome = settle(&mut cluster);
    let of_b = outcome.reservations.iter().flat_map(|one| &one.awaits);
    assert_eq!(of_b.filter(|id| id.job == JobId(1)).count(), 2);
    assert_eq!((outcome.reservations.len(), gpus_of(&cluster, "b")), (4, 3000));
}

#[test]
fn what_has_just_begun_is_taken_back_when_it_has_run_for_long_enough() {
    let mut cluster = Cluster::with_nodes([gpu_node(2)]);
    guarantee(&mut cluster, "a", 2000);
    let min_run = DurationMs::from_secs(3_600);
    let preemption = Preemption { min_run, ..Preemption::default() };
    cluster.submit(JobSpec { preemption, ..of("b", 50, gpu_task(2)) });
    run_for(&mut cluster, 1_000);
    cluster.submit(of("a", 0, gpu_task(1)));
    let began = cluster.now;
    // The bound that is promised: ten minutes, and what planning and grace take.
    let ends = loop {
        let outcome = plan_all(&cluster);
        if !outcome.reservations.is_empty() {
            break cluster.now;
        }
        cluster.now = outcome.next_wakeup.expect("it is to be looked at again");
    };
    assert!(ends.since(began) <= DurationMs::from_secs(600), "{ends:?}");
    assert!(ends.since(began) >= DurationMs::from_secs(598), "{ends:?}");
}

#[test]
fn what_waits_is_told_when_it_comes_back_or_what_would_bring_it() {
    let mut cluster = Cluster::with_nodes([gpu_node(4)]);
    guarantee(&mut cluster, "a", 2000);
    guarantee(&mut cluster, "b", 1000);
    let stop = StopPolicy { grace: DurationMs(7_000), ..gpu_task(1).stop };
    let lent = TaskSpec { stop, ..gpu_task(1) };
    let min_run = DurationMs::from_secs(90);
    let preemption = Preemption { min_run, ..Preemption::default() };
    cluster.submit(JobSpec { preemption, ..of("b", 50, counted(4, lent)) });
    run_for(&mut cluster, 20_000);
    let two = cluster.submit(of("a", 50, gpu_task(2)));
    let told = |cluster: &Cluster, job| {
        explain(&cluster.state, &SoftView::default(), cluster.now, job).unwrap()
    };
    let said = told(&cluster, two);
    let back = "free 2 more GPU on node node-1; or nothing: namespace `a` is sure of it, and \
                others to whom it is lent are asked to end in 70 s";
    assert_eq!(said.smallest_change, back);
    assert_eq!(said.expected_start, Some(cluster.now.after(DurationMs(77_000))));
    cluster.now = cluster.now.after(DurationMs(69_999));
    assert!(plan_all(&cluster).reservations.is_empty());
    cluster.now = cluster.now.after(DurationMs(1));
    settle(&mut cluster);
    assert_eq!(gpus_of(&cluster, "a"), 2000);
    // Beyond its guarantee; with more of that others could still give one.
    let one = cluster.submit(of("a", 50, gpu_task(1)));
    let change = "priority 60, so that less urgent work ends for it; or 3 instead of 2 GPUs \
                  guaranteed to namespace `a`";
    let said = told(&cluster, one).smallest_change;
    assert_eq!(said, format!("free 1 more GPU on node node-1; or {change}"));
    assert!(plan_all(&cluster).reservations.is_empty());
    guarantee(&mut cluster, "a", 3000);
    assert_eq!(plan_all(&cluster).reservations.len(), 1, "what is named is enough");
    let two = cluster.submit(of("a", 50, gpu_task(2)));
    let said = told(&cluster, two).smallest_change;
    assert_eq!(said, "free 2 more GPU on node node-1", "nobody could give two");
}

/// GPUs of one node that hold what namespaces hold, by turns.
fn a_job() -> impl Strategy<Value = (usize, u8, u32, u32, bool)> {
    (0..3_usize, 0..4_u8, 0..5_u32, 1..5_u32, prop::bool::weighted(0.2))
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn submit_any(
    cluster: &mut Cluster,
    (which, priority, gpus, count, gang): (usize, u8, u32, u32, bool),
) {
    let task = if gpus == 0 { share_task(500) } else { gpu_task(gpus) };
    let gang = (gang && count > 1 && gpus > 0).then_some(Gang {});
    let preemption = Preemption { min_run: DurationMs(0), ..Preemption::default() };
    let spec = of(NAMES[which], priority * 20, TaskSpec { gang, ..counted(count, task) });
    cluster.submit(JobSpec { preemption, ..spec });
}

fn held(cluster: &Cluster, name: &Name) -> Amounts {
    cluster.state.namespace_use(name)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is planned is granted, nobody falls below what is guaranteed to it for others
    /// unless what it held was not to be had in smaller parts, and the first place that is kept is
    /// the cheapest of all.
    #[test]
    fn nobody_gives_what_it_is_sure_of(
        nodes in prop::collection::vec(1..5_u32, 1..4),
        sure in prop::collection::vec(0..6_u64, 3),
        moves in prop::collection::vec((a_job(), 0..3_u8, 0..20_usize), 1..15),
    ) {
        let mut cluster = Cluster::with_nodes(nodes.into_iter().map(gpu_node));
        for (namespace, gpus) in NAMES.iter().zip(sure) {
            guarantee(&mut cluster, namespace, gpus * 1000);
        }
        for (job, what, which) in moves {
            submit_any(&mut cluster, job);
            check_plan(&mut cluster);
            if what == 0 {
                let live = cluster.state.allocations();
                let chosen = live.values().nth(which % live.len().max(1)).map(|row| row.id);
                end_all(&mut cluster, chosen.into_iter().collect());
            }
            cluster.now = cluster.now.after(DurationMs(u64::from(what) * 700));
        }
    }

    /// Where all of it is in instances of one GPU each, and no more is guaranteed than there is,
    /// each namespace comes to have what is guaranteed to it, if it asks for so much.
    #[test]
    fn in_the_end_each_has_what_is_guaranteed_to_it(
        gpus in prop::collection::vec(1..5_u32, 1..4),
        cuts in (0..12_u64, 0..12_u64),
        moves in prop::collection::vec((0..3_usize, 0..6_u8, 1..8_u32), 1..12),
    ) {
        let total: u64 = gpus.iter().map(|count| u64::from(*count)).sum();
        let mut cluster = Cluster::with_nodes(gpus.into_iter().map(gpu_node));
        let first = cuts.0.min(total);
        let second = cuts.1.min(total - first);
        let sure = [first, second, total - first - second];
        for (namespace, gpus) in NAMES.iter().zip(sure) {
            guarantee(&mut cluster, namespace, gpus * 1000);
        }
        let mut asked = [0; 3];
        for (which, priority, count) in moves {
            asked[which] += u64::from(count);
            submit_any(&mut cluster, (which, priority, 1, count, false));
            // Twice: what ends for one plan waits again for the next.
            for _ in 0..2 {
                settle(&mut cluster);
                cluster.now = cluster.now.after(DurationMs(1_000));
            }
            for (at, namespace) in NAMES.iter().enumerate() {
                let held = gpus_of(&cluster, namespace) / 1000;
                prop_assert!(held >= asked[at].min(sure[at]), "{namespace}: {held} of {sure:?}");
            }
            let used: u64 = NAMES.iter().map(|namespace| gpus_of(&cluster, namespace)).sum();
            let wanted: u64 = asked.iter().sum();
            prop_assert_eq!(used / 1000, wanted.min(total), "nothing is idle while something waits");
        }
    }
}

/// Applies a plan, and looks at what it does to each namespace.
fn check_plan(cluster: &mut Cluster) {
    let outcome = plan_all(cluster);
    assert_eq!(outcome, plan_all(cluster), "the same once more");
    if let Some(one) = outcome.reservations.first()
        && outcome.placements.is_empty()
        && !cluster.state.allocations().iter().any(|(id, _)| cluster.state.is_gang(id.job, id.task))
        && !outcome.gangs.contains(&(one.placement.job, one.placement.task))
    {
        let parts = &one.placement.score.parts;
        let found = Price { lost: parts[0].1 as u64, victims: parts[1].1 as u32 };
        let expected = by_exhaustion(cluster, one.placement.job, &BTreeSet::new());
        assert_eq!(Some(found), expected, "{one:?}");
    }
    let names: Vec<Name> = NAMES.iter().map(|namespace| name(namespace)).collect();
    let before: Vec<Amounts> = names.iter().map(|name| held(cluster, name)).collect();
    // What ends anyway is there for anybody.
    let rows = cluster.state.allocations().values();
    let ending: BTreeSet<AllocationId> =
        rows.filter(|row| row.state.stop_intent().is_some()).map(|row| row.id).collect();
    let reservations: Vec<Reservation> = outcome.reservations.clone();
    let reply = cluster.apply(Command::Reserve { reservations }).unwrap();
    let Reply::Placed { refused, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(refused, []);
    cluster.place(outcome.placements.clone());
    assert_eq!(invariants::check(&cluster.state), []);
    let ends: BTreeSet<AllocationId> =
        outcome.reservations.iter().flat_map(|one| one.awaits.iter().copied()).collect();
    let taken: BTreeSet<AllocationId> = ends.difference(&ending).copied().collect();
    let of_ending: Vec<u64> =
        names.iter().map(|name| units(cluster, name, &ending).iter().sum()).collect();
    for ((name, before), ending) in names.iter().zip(before).zip(of_ending) {
        // What ends for its own may make room for others too.
        let for_others = taken.iter().filter(|id| {
            let first = outcome.reservations.iter().find(|one| one.awaits.contains(id)).unwrap();
            cluster.state.jobs().get(&first.placement.job).unwrap().namespace() != name
        });
        let units = units(cluster, name, &for_others.copied().collect());
        let sum: u64 = units.iter().sum();
        let largest = units.iter().max().copied().unwrap_or(0);
        let sure = cluster.state.guarantee(name).map_or(0, |sure| sure.amounts[&Resource::Gpus]);
        let could_be_last = before.of(Resource::Gpus) - ending - (sum - largest) > sure;
        assert!(units.is_empty() || could_be_last, "{name}: {units:?} of {before:?}");
    }
    end_all(cluster, ends);
    assert_eq!(invariants::check(&cluster.state), []);
    if outcome.exhausted {
        check_plan(cluster);
    }
}

/// What of a namespace ends, a gang as one.
fn units(cluster: &Cluster, name: &Name, ends: &BTreeSet<AllocationId>) -> Vec<u64> {
    let mut units: std::collections::BTreeMap<(JobId, Option<AllocationId>), u64> =
        Default::default();
    for row in cluster.state.allocations().values() {
        let job = cluster.state.jobs().get(&row.id.job).unwrap();
        let is_gang = cluster.state.is_gang(row.id.job, row.id.task);
        let with_gang = is_gang && ends.iter().any(|id| id.job == row.id.job);
        if job.namespace() == name && (ends.contains(&row.id) || with_gang) {
            let unit = (row.id.job, (!is_gang).then_some(row.id));
            *units.entry(unit).or_default() += row.claim.gpu_milli();
        }
    }
    units.into_values().collect()
}
