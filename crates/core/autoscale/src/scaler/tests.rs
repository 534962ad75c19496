use berth_model::ScalingPace;
use proptest::prelude::*;

use super::*;
use crate::measured::Measure;

const CONCURRENCY: ScalingMetric = ScalingMetric::Concurrency;

/// A service whose replicas come some seconds after they are wanted, looked at once a second.
struct World {
    rule: Autoscale,
    scaler: Scaler,
    second: u64,
    wanted: u32,
    changes: Vec<(u64, u32)>,
}

impl World {
    fn new(rule: Autoscale, wanted: u32) -> World {
        World { rule, scaler: Scaler::new(StateMs(0)), second: 0, wanted, changes: Vec::new() }
    }

    fn see(&mut self, measured: Option<Measured>) -> Change {
        let (now, wanted) = (StateMs(self.second * 1_000), self.wanted);
        let seen = Seen { now, wanted, measured, in_flight_max: None };
        let change = self.scaler.look(&self.rule, &seen);
        if change.count != self.wanted {
            self.changes.push((self.second, change.count));
        }
        self.wanted = change.count;
        self.second += 1;
        change
    }

    /// So many requests at once, for so long.
    fn load(&mut self, requests: f64, seconds: u64) -> Vec<(u64, u32)> {
        for _ in 0..seconds {
            self.see(Some(under_way(requests, 0)));
        }
        std::mem::take(&mut self.changes)
    }
}

fn under_way(total: f64, missing: u32) -> Measured {
    let metrics = BTreeMap::from([(CONCURRENCY, Measure { total, missing })]);
    Measured { metrics, busy: total > 0.0 }
}

fn of(policy: ScalingPolicy, min: u32, max: u32) -> Autoscale {
    Autoscale { policy, ..Autoscale::between(min, max) }
}

fn usual(min: u32, max: u32) -> Autoscale {
    Autoscale::between(min, max)
}

#[test]
fn a_surge_is_met_at_once_and_no_faster_than_its_pace() {
    let mut world = World::new(usual(1, 100), 1);
    assert_eq!(world.load(4.0, 60), []);
    // Twenty replicas' worth: four more at first, then twice as many in each quarter of a minute.
    let changes = world.load(160.0, 120);
    assert!(matches!(changes[0], (60, 3..=5)), "{changes:?}");
    assert_eq!(changes.last().unwrap().1, 20);
    assert!(changes.last().unwrap().0 <= 60 + 45, "{changes:?}");
    for window in changes.windows(2) {
        assert!(window[0].1 < window[1].1, "{changes:?}");
    }
}

#[test]
fn fewer_are_wanted_only_after_five_minutes_of_that() {
    let mut world = World::new(usual(1, 100), 20);
    assert_eq!(world.load(160.0, 400), []);
    assert_eq!(world.load(8.0, 200), []);
    // It counts again from the last time that more was asked for.
    assert_eq!(world.load(160.0, 40), []);
    assert_eq!(world.load(8.0, 290), []);
    let changes = world.load(8.0, 60);
    assert_eq!(changes.last().map(|change| change.1), Some(1), "{changes:?}");
}

#[test]
fn a_steady_load_moves_nothing() {
    for policy in ScalingPolicy::ALL {
        let mut world = World::new(of(policy, 1, 100), 1);
        world.load(77.0, 600);
        let settled = world.wanted;
        assert!((9..=11).contains(&settled), "{policy:?}: {settled}");
        for _ in 0..600 {
            // It is never quite steady.
            assert_eq!(world.load(74.0, 2), [], "{policy:?}");
            assert_eq!(world.load(80.0, 2), [], "{policy:?}");
        }
    }
}

#[test]
fn replicas_on_their_way_are_not_asked_for_again() {
    // While they come requests pile up, as they do.
    for policy in ScalingPolicy::ALL {
        let mut world = World::new(of(policy, 1, 1_000), 2);
        world.load(16.0, 60);
        for _ in 0..60 {
            world.load(32.0, 1);
        }
        assert!(world.wanted <= 5, "{policy:?}: {}", world.wanted);
    }
}

#[test]
fn none_is_left_where_nobody_asks_and_one_comes_when_somebody_does() {
    let mut world = World::new(usual(0, 8), 1);
    assert_eq!(world.load(2.0, 100), []);
    assert_eq!(world.load(0.0, 299), []);
    assert_eq!(world.load(0.0, 2), [(399, 0)]);
    assert_eq!(world.load(0.0, 1_000), []);
    let change = world.see(Some(under_way(1.0, 0)));
    assert_eq!(change, Change { count: 1, why: Why::Woken });
    // Many at once ask for as many as carry them, as fast as may be.
    let mut world = World::new(usual(0, 8), 0);
    assert_eq!(world.load(100.0, 1), [(0, 4)]);
    assert_eq!(world.load(100.0, 14), []);
    assert_eq!(world.load(100.0, 1), [(15, 8)]);
}

#[test]
fn few_who_ask_keep_the_last_one() {
    let mut world = World::new(usual(0, 8), 3);
    world.load(0.01, 2_000);
    assert_eq!(world.wanted, 1);
}

#[test]
fn where_nobody_tells_nothing_changes() {
    let mut world = World::new(usual(1, 8), 4);
    for _ in 0..1_000 {
        assert_eq!(world.see(None), Change { count: 4, why: Why::Unknown });
    }
    let silent = Measured { metrics: BTreeMap::new(), busy: true };
    for _ in 0..1_000 {
        assert_eq!(world.see(Some(silent.clone())).count, 4);
    }
    // What is outside the range is brought into it all the same.
    world.rule = usual(5, 8);
    assert_eq!(world.see(None), Change { count: 5, why: Why::Range });
    world.rule = usual(1, 2);
    assert_eq!(world.see(None), Change { count: 2, why: Why::Range });
}

#[test]
fn who_does_not_tell_is_full_when_there_are_to_be_fewer() {
    let mut world = World::new(usual(1, 8), 4);
    for _ in 0..1_000 {
        world.see(Some(under_way(8.0, 2)));
    }
    assert_eq!(world.wanted, 3, "one is told to be full, and two are not told of");
    for _ in 0..10 {
        world.see(Some(under_way(23.0, 2)));
    }
    assert_eq!(world.wanted, 3, "and idle when there are to be more");
}

#[test]
fn a_burst_is_not_averaged_away() {
    let rule = Autoscale { average: DurationMs(60_000), ..usual(1, 100) };
    let mut world = World::new(rule, 2);
    world.load(8.0, 120);
    let changes = world.load(160.0, 16);
    // A mean over a minute has hardly moved by then.
    assert!(changes.iter().any(|(second, count)| *second < 136 && *count >= 6), "{changes:?}");
}

/// A minute's mean of three seconds that ask for all of them asks for a fifth.
#[test]
fn what_comes_in_bursts_keeps_what_it_needs_between_them() {
    let rule = Autoscale { average: DurationMs(60_000), ..usual(1, 100) };
    let mut world = World::new(rule, 10);
    for _ in 0..20 {
        world.load(80.0, 12);
        assert_eq!(world.load(2.0, 48), []);
    }
    assert_eq!(world.wanted, 10);
}

#[test]
fn that_which_asks_for_most_counts() {
    let targets = BTreeMap::from([(CONCURRENCY, 8_000), (ScalingMetric::KvCache, 500)]);
    let mut world = World::new(Autoscale { targets, ..usual(1, 100) }, 4);
    let metrics = BTreeMap::from([
        (CONCURRENCY, Measure { total: 8.0, missing: 0 }),
        (ScalingMetric::KvCache, Measure { total: 3.4, missing: 0 }),
    ]);
    let change = world.see(Some(Measured { metrics, busy: true }));
    assert_eq!(change.count, 7);
    let why = Why::Load { metric: ScalingMetric::KvCache, total: 3.4, target: 0.5 };
    assert_eq!(change.why, why);
    // Both ask for one, and one of them nearly for two.
    let mut world = World::new(world.rule, 1);
    let metrics = BTreeMap::from([
        (CONCURRENCY, Measure { total: 7.0, missing: 0 }),
        (ScalingMetric::KvCache, Measure { total: 0.0, missing: 0 }),
    ]);
    let change = world.see(Some(Measured { metrics, busy: true }));
    let why = Why::Load { metric: CONCURRENCY, total: 7.0, target: 8.0 };
    assert_eq!(change, Change { count: 1, why });
}

#[test]
fn a_part_of_the_way_is_gone_once_in_each_span() {
    let mut world = World::new(of(ScalingPolicy::HalfGap, 1, 100), 10);
    world.load(80.0, 40);
    let changes = world.load(160.0, 120);
    let counts: Vec<u32> = changes.iter().map(|(_, count)| *count).collect();
    assert!(counts.starts_with(&[11]) || counts.starts_with(&[15]), "{changes:?}");
    assert!(changes.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 15), "{changes:?}");
    let mut world = World::new(Autoscale { step: 3, ..of(ScalingPolicy::Step, 1, 100) }, 1);
    let changes = world.load(800.0, 46);
    assert_eq!(changes, [(0, 4), (15, 7), (30, 10), (45, 13)]);
}

fn pace() -> impl Strategy<Value = ScalingPace> {
    (0_u64..30_000, 0_u32..200, 1_u32..5, 1_000_u64..30_000).prop_map(
        |(window, percent, replicas, every)| ScalingPace {
            window: DurationMs(window),
            percent,
            replicas,
            every: DurationMs(every),
        },
    )
}

proptest! {
    /// Whatever is measured: in its range, no faster than its pace, and nothing is taken away before
    /// it was watched for as long as that asks for.
    #[test]
    fn numbers_stay_in_range_and_pace(
        (min, more) in (0_u32..5, 1_u32..40),
        policy in 0_usize..5,
        (up, down) in (pace(), pace()),
        loads in prop::collection::vec(prop::option::weighted(0.9, (0.0_f64..2_000.0, 0_u32..5)), 1..200),
    ) {
        let rule = Autoscale {
            up,
            down,
            idle: DurationMs(5_000),
            ..of(ScalingPolicy::ALL[policy], min, min + more)
        };
        let mut world = World::new(rule.clone(), min.max(1));
        let mut counts = vec![world.wanted];
        for load in loads {
            let idle = load.is_none_or(|(total, _)| total < 100.0);
            let measured = load.map(|(total, missing)| {
                under_way(if total < 100.0 { 0.0 } else { total }, missing)
            });
            let before = world.wanted;
            let second = world.second;
            let change = world.see(measured);
            prop_assert!((rule.min..=rule.max).contains(&change.count));
            let span = usize::try_from(up.every.0 / 1_000).unwrap().max(1);
            let then = counts[counts.len().saturating_sub(span)];
            let most = then.max(*counts.iter().rev().take(span).min().unwrap());
            let bound = most + up.replicas.max((most * up.percent).div_ceil(100));
            prop_assert!(change.count <= bound.max(before), "{counts:?} {change:?}");
            if change.count < before && !matches!(change.why, Why::Idle(_)) {
                prop_assert!(second * 1_000 >= down.window.0);
            }
            if matches!(change.why, Why::Idle(_)) {
                prop_assert!(idle && rule.min == 0);
            }
            counts.push(change.count);
        }
    }
}
