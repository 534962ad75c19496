//! Who holds much stands back, by weight, now and over time, and nobody for ever.

use std::collections::BTreeMap;

use berth_model::{Amounts, NamespaceSpec, Resource};
use berth_state::QueueKey;
use berth_state::state::AGE_MS_PER_POINT;
use proptest::prelude::*;

use super::reference::exit;
use super::*;
use crate::explain::explain;
use crate::fair::{FAIR_POINTS, Shares};

const MINUTE: u64 = 60_000;
const BEHIND_MAX: i64 = FAIR_POINTS * AGE_MS_PER_POINT;

fn weigh(cluster: &mut Cluster, namespace: &str, weight: u32) {
    let spec = NamespaceSpec { weight, ..NamespaceSpec::new(name(namespace)) };
    cluster.apply(Command::ApplyNamespace { spec: Arc::new(spec), if_version: None }).unwrap();
}

fn of(namespace: &str, count: u32) -> JobSpec {
    JobSpec { namespace: name(namespace), ..job(Policy::BestFit, counted(count, gpu_task(1))) }
}

fn later(cluster: &mut Cluster, span_ms: u64) {
    cluster.now = cluster.now.after(DurationMs(span_ms));
    // Time passes in the log alone.
    cluster.apply(Command::StopAwaiting).ok();
}

/// How many of its placements each namespace has.
fn counts(cluster: &Cluster, outcome: &PlanOutcome) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for placement in &outcome.placements {
        let job = cluster.state.jobs().get(&placement.job).unwrap();
        *counts.entry(job.namespace().to_string()).or_default() += 1;
    }
    counts
}

#[test]
fn what_is_idle_is_shared_by_weight() {
    let check = |weights: [u32; 2], expected: [usize; 2]| {
        let mut cluster = Cluster::with_nodes((0..8).map(|_| gpu_node(8)));
        weigh(&mut cluster, "a", weights[0]);
        weigh(&mut cluster, "b", weights[1]);
        cluster.submit(of("a", 100));
        cluster.submit(of("b", 100));
        let outcome = plan_all(&cluster);
        let found = counts(&cluster, &outcome);
        let found = ["a", "b"].map(|namespace| found[namespace]);
        let off = found.iter().zip(expected).map(|(found, expected)| found.abs_diff(expected));
        assert!(off.max().unwrap() <= 8, "{weights:?}: {found:?}");
        cluster.place(outcome.placements);
    };
    check([10, 10], [32, 32]);
    check([30, 10], [48, 16]);
    check([10, 70], [8, 56]);
}

#[test]
fn a_job_that_is_spread_remembers_its_earlier_turns() {
    let mut cluster = Cluster::with_nodes((0..3).map(|_| gpu_node(16)));
    // The third node comes last in each turn.
    let constraints = Constraints { node: Some(name("node-3")), ..Constraints::default() };
    cluster.submit(JobSpec { constraints, ..of("a", 4) });
    cluster.place(plan_all(&cluster).placements);
    for namespace in ["a", "b"] {
        cluster.submit(JobSpec { policy: Policy::Spread, ..of(namespace, 16) });
    }
    let outcome = plan_all(&cluster);
    let mut each: BTreeMap<(JobId, NodeId), usize> = BTreeMap::new();
    for placement in &outcome.placements {
        *each.entry((placement.job, placement.node)).or_default() += 1;
    }
    assert_eq!(each.len(), 6);
    assert!(each.values().all(|count| (5..=6).contains(count)), "{each:?}");
}

#[test]
fn what_waits_for_its_time_is_looked_at_once_in_all_turns() {
    let mut cluster = Cluster::with_nodes((0..40).map(|_| gpu_node(8)));
    let hour = DurationMs::from_secs(3_600);
    let restart = RestartPolicy { attempts: Some(5), backoff: hour, backoff_max: hour };
    let small = TaskSpec { restart, cpu: CpuMilli(100), ..task() };
    cluster.submit(JobSpec { tasks: vec![counted(400, small)], ..of("a", 1) });
    let first: Vec<_> = plan_all(&cluster).placements.into_iter().take(200).collect();
    cluster.place(first.clone());
    first.iter().for_each(|placement| cluster.end(placement, exit(1)));
    let alone = plan_all(&cluster);
    cluster.submit(of("b", 1));
    let with_rival = plan_all(&cluster);
    let examined = [&alone, &with_rival].map(|outcome| outcome.report.candidates_examined);
    assert_eq!((alone.placements.len(), with_rival.placements.len()), (200, 201));
    // One more for each turn of eight, and the rival.
    assert!(examined[1] <= examined[0] + 200 / 8 + 2 * 40, "{examined:?}");
}

#[test]
fn in_a_namespace_and_between_equals_the_queue_decides() {
    let mut cluster = Cluster::with_nodes([gpu_node(3)]);
    let low = cluster.submit(JobSpec { priority: 40, ..of("a", 1) });
    let high = cluster.submit(JobSpec { priority: 60, ..of("a", 1) });
    let other = cluster.submit(of("b", 2));
    let outcome = plan_all(&cluster);
    let placed: Vec<JobId> = outcome.placements.iter().map(|one| one.job).collect();
    assert_eq!(placed, [high, other, other]);
    assert_eq!(outcome.report.waiting[0].job, low);
}

#[test]
fn what_was_held_lately_counts_half_after_a_day() {
    let mut cluster = Cluster::with_nodes([gpu_node(8)]);
    let first = cluster.submit(of("a", 8));
    cluster.place(plan_all(&cluster).placements);
    cluster.submit(of("b", 8));
    later(&mut cluster, 24 * 60 * MINUTE);
    let rows: Vec<_> = cluster.state.allocations().values().cloned().collect();
    rows.iter().for_each(|row| cluster.end_allocation(row.node, row.id, exit(0)));
    assert!(cluster.state.jobs().get(&first).unwrap().is_ended());
    let lately =
        |cluster: &Cluster| cluster.state.average_use(&name("a")).amounts().of(Resource::Gpus);
    assert_eq!(lately(&cluster), 4000);
    // Both have waited for the same time; who held nothing comes first, with all of it.
    let old = cluster.submit(of("a", 8));
    cluster.state.queue().next().unwrap();
    let shares = Shares::of(&cluster.state);
    let behind = shares.behind_ms(&name("a"));
    assert_eq!((behind, shares.behind_ms(&name("b"))), (BEHIND_MAX / 2, 0));
    cluster.place(plan_all(&cluster).placements);
    let of_a = cluster.state.tasks().get(&(old, TaskIndex(0))).unwrap();
    assert_eq!(of_a.pending.len(), 8);
    later(&mut cluster, 24 * 60 * MINUTE);
    assert_eq!(lately(&cluster), 2000);
}

#[test]
fn long_waits_and_urgency_pass_every_share() {
    let mut cluster = Cluster::with_nodes([gpu_node(8)]);
    let held = JobSpec { priority: 100, ..of("a", 7) };
    cluster.submit(held);
    cluster.place(plan_all(&cluster).placements);
    let old = cluster.submit(of("a", 1));
    later(&mut cluster, FAIR_POINTS as u64 * MINUTE);
    let new = cluster.submit(of("b", 1));
    let first = |cluster: &Cluster| plan_all(cluster).placements[0].job;
    assert_eq!(first(&cluster), old, "half an hour is more than any share");
    let position = |job| {
        let explained = explain(&cluster.state, &SoftView::default(), cluster.now, job);
        explained.unwrap().position
    };
    assert_eq!((position(old), position(new)), (Some(1), Some(2)));
    let mut cluster = Cluster::with_nodes([gpu_node(8)]);
    cluster.submit(JobSpec { priority: 100, ..of("a", 7) });
    cluster.place(plan_all(&cluster).placements);
    let old = cluster.submit(of("a", 1));
    later(&mut cluster, 10 * MINUTE);
    let new = cluster.submit(of("b", 1));
    assert_eq!(first(&cluster), new, "ten minutes are not");
    let position = |job| {
        let explained = explain(&cluster.state, &SoftView::default(), cluster.now, job);
        explained.unwrap().position
    };
    assert_eq!((position(old), position(new)), (Some(2), Some(1)));
}

/// Two namespaces that always ask for more, one for short work and one for long: each has half of
/// the time of all GPUs.
#[test]
fn over_time_each_has_its_part() {
    let mut cluster = Cluster::with_nodes([gpu_node(8), gpu_node(8)]);
    let spans = [("long", 47_u64), ("short", 5)];
    let mut jobs: BTreeMap<JobId, u64> = BTreeMap::new();
    for (namespace, minutes) in spans {
        jobs.insert(cluster.submit(of(namespace, 10_000)), minutes);
    }
    let mut held: BTreeMap<JobId, u64> = BTreeMap::new();
    for minute in 0..24 * 60 {
        let rows: Vec<_> = cluster.state.allocations().values().cloned().collect();
        for row in rows {
            let ran = cluster.now.since(row.planned_at).0 / MINUTE;
            if ran >= jobs[&row.id.job] {
                cluster.end_allocation(row.node, row.id, exit(0));
            } else if minute >= 120 {
                *held.entry(row.id.job).or_default() += 1;
            }
        }
        cluster.place(plan_all(&cluster).placements);
        later(&mut cluster, MINUTE);
    }
    let all: u64 = held.values().sum();
    for (job, held) in held {
        // Half, but for one of sixteen GPUs, which somebody has to have first.
        let off = (held * 2).abs_diff(all);
        assert!(off * 16 <= all * 2, "{job}: {held} of {all}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever has more stands no further ahead, and nobody further back than the bound: a task is
    /// passed by nothing that comes half an hour, and the difference of their priorities, later.
    #[test]
    fn who_holds_more_stands_further_back_within_the_bound(
        held in prop::collection::vec((0..3_usize, 1..6_u32), 1..6),
        weights in prop::array::uniform3(1..1000_u32),
    ) {
        let mut cluster = Cluster::with_nodes([gpu_node(8), gpu_node(8)]);
        let names = ["a", "b", "c"];
        for (namespace, weight) in names.iter().zip(weights) {
            weigh(&mut cluster, namespace, weight);
        }
        for (which, count) in held {
            cluster.submit(of(names[which], count));
            cluster.place(plan_all(&cluster).placements);
        }
        let mut shares = Shares::of(&cluster.state);
        for namespace in names.map(name) {
            let before = shares.behind_ms(&namespace);
            prop_assert!((0..=BEHIND_MAX).contains(&before));
            let one = Amounts::default().with(Resource::Gpus, 1000);
            shares.take(&namespace, one);
            let after = shares.behind_ms(&namespace);
            prop_assert!((before..=BEHIND_MAX).contains(&after));
            shares.give_back(&namespace, one);
            prop_assert_eq!(shares.behind_ms(&namespace), before);
        }
    }

    /// The plan visits in the order that people are told.
    #[test]
    fn positions_are_the_order_of_the_plan(
        waiting in prop::collection::vec((0..3_usize, 0..5_u8, 0..3_600_000_u64), 1..10),
        running in prop::collection::vec((0..3_usize, 1..4_u32), 0..4),
    ) {
        let mut cluster = Cluster::with_nodes([gpu_node(8)]);
        let names = ["a", "b", "c"];
        for (which, count) in running {
            cluster.submit(of(names[which], count));
            cluster.place(plan_all(&cluster).placements);
        }
        // Nothing of it fits, so that nothing changes on the way.
        for (which, priority, wait) in waiting {
            let task = gpu_task(9);
            let spec = JobSpec { priority: priority * 20, ..of(names[which], 1) };
            cluster.submit(JobSpec { tasks: vec![task], ..spec });
            later(&mut cluster, wait);
        }
        let outcome = plan_all(&cluster);
        let visited: Vec<JobId> = outcome.report.waiting.iter().map(|one| one.job).collect();
        let mut told: Vec<(Option<u64>, JobId)> = cluster
            .state
            .queue()
            .map(|key: &QueueKey| {
                let explained = explain(&cluster.state, &SoftView::default(), cluster.now, key.job);
                (explained.unwrap().position, key.job)
            })
            .collect();
        told.sort_unstable();
        let told: Vec<JobId> = told.into_iter().map(|(_, job)| job).collect();
        prop_assert_eq!(visited, told);
    }
}
