//! Fleets of which there are as many as a law says.

use berth_model::{Autoscale, DurationMs, ScalingMetric};
use berth_routing::{Blocks, Policy};

use super::*;

const SECOND: u64 = 1_000_000;

fn options(fleet: usize, law: Law, begins_with: u32) -> ServeOptions {
    ServeOptions {
        scaling: Some(ScalingOptions {
            law,
            start: SpanUs::from_secs(10),
            wait: SpanUs::from_secs(30),
            begins_with,
        }),
        ..super::tests::options(Policy::LeastOutstanding, vec![EngineShape::default(); fleet])
    }
}

/// Requests of a hundred tokens, so many a second within these seconds.
fn steady(seconds: std::ops::Range<u64>, per_second: u64) -> Vec<ServeArrival> {
    let all = seconds.start * per_second..seconds.end * per_second;
    let one = |index| ServeArrival {
        at: GatewayUs(index * SECOND / per_second),
        prompt_tokens: 80,
        output_tokens: 100,
        prefix: Blocks::default(),
    };
    all.map(one).collect()
}

fn berth(min: u32, max: u32, target: u32) -> Law {
    Law::Berth(Autoscale {
        targets: [(ScalingMetric::Concurrency, target * 1_000)].into(),
        idle: DurationMs::from_secs(60),
        ..Autoscale::between(min, max)
    })
}

fn herd(arrivals: &[ServeArrival], options: &ServeOptions) -> (ServeReport, HerdReport) {
    let mut report = run(arrivals, options).unwrap();
    let herd = report.herd.take().unwrap();
    (report, herd)
}

#[test]
fn who_comes_while_there_is_none_waits_for_the_first() {
    let arrivals = steady(0..5, 1);
    let (report, herd) = herd(&arrivals, &options(4, berth(0, 4, 8), 0));
    assert_eq!((report.answered, report.refused, herd.starts), (5, 0, 1));
    // It is looked each second, and it begins for ten.
    assert_eq!(report.first.p99, SpanUs(10_016_000));
    assert_eq!(herd.changes, [(GatewayUs(0), 1)]);
    // Held from its beginning to the last answer.
    assert_eq!(herd.held, report.lasted);
}

#[test]
fn who_waits_for_too_long_is_refused() {
    let arrivals = steady(0..5, 1);
    let mut options = options(4, Law::Known(vec![(GatewayUs(0), 0)]), 0);
    let (report, herd) = herd(&arrivals, &options);
    assert_eq!((report.answered, report.refused, herd), (0, 5, HerdReport::default()));
    options.scaling.as_mut().unwrap().wait = SpanUs::ZERO;
    assert_eq!(run(&arrivals, &options).unwrap().refused, 5);
}

#[test]
fn what_is_known_is_done_and_replicas_end_what_they_have() {
    // Ten at once take 100 steps of some ten milliseconds: one second each, ten under way.
    let arrivals = steady(0..60, 10);
    let counts = vec![(GatewayUs(0), 1), (GatewayUs(20 * SECOND), 3), (GatewayUs(40 * SECOND), 2)];
    let (report, herd) = herd(&arrivals, &options(4, Law::Known(counts), 1));
    assert_eq!((report.answered, herd.starts), (600, 2));
    let changes = [(GatewayUs(20 * SECOND), 3), (GatewayUs(40 * SECOND), 2)];
    assert_eq!(herd.changes, changes);
    let lasted = report.lasted.0;
    let least = lasted + (lasted - 20 * SECOND) + 20 * SECOND;
    assert!((least..least + 2 * SECOND).contains(&herd.held.0), "{} of {least}", herd.held.0);
}

/// Twenty minutes of the same, under each law; and then of a fifth of it.
#[test]
fn a_steady_load_is_met_and_moves_nothing() {
    let kubernetes = Law::Kubernetes { min: 1, max: 12, target: 4.0 };
    for law in [berth(1, 12, 4), kubernetes] {
        let mut arrivals = steady(0..1_200, 20);
        let (report, herd) = herd(&arrivals, &options(12, law.clone(), 1));
        assert_eq!(report.answered, report.offered);
        let late = herd.changes.iter().filter(|(at, _)| at.0 > 600 * SECOND);
        assert_eq!(late.count(), 0, "{law:?}: {:?}", herd.changes);
        arrivals.extend(steady(1_200..2_400, 4));
        let (_, herd) = self::herd(&arrivals, &options(12, law.clone(), 1));
        let counts: Vec<u32> = herd.changes.iter().map(|(_, count)| *count).collect();
        let turns =
            counts.windows(3).filter(|three| (three[0] < three[1]) != (three[1] < three[2]));
        assert!(turns.count() <= 2, "{law:?}: {:?}", herd.changes);
        assert!(*counts.last().unwrap() <= 2, "{law:?}: {counts:?}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let arrivals = steady(0..2, 1);
    let many = options(4, berth(0, 4, 8), 5);
    let refused = ServeError::BeginsWith { begins_with: 5, replicas: 4 };
    assert_eq!(run(&arrivals, &many).unwrap_err(), refused);
    let outage = Outage {
        replica: 0,
        from: GatewayUs(0),
        lasts: SpanUs::from_secs(1),
        kind: OutageKind::Dead,
    };
    let failing = ServeOptions { outages: vec![outage], ..options(4, berth(0, 4, 8), 1) };
    assert_eq!(run(&arrivals, &failing).unwrap_err(), ServeError::OutagesOfScaled);
}
