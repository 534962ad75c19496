//! What is measured of services whose replicas follow their load: by gateways, by the replicas
//! themselves as gateways hear it, and by agents of their GPUs.

use std::collections::BTreeMap;

use berth_autoscale::{Measure, Measured};
use berth_model::{AllocationId, DurationMs, ScalingMetric, StateMs};
use berth_proto::v1;
use berth_state::AllocationRow;

use super::uses::Told;

/// Who was asked something so lately is not idle: two reports of a gateway.
const BUSY_FOR: DurationMs = DurationMs::from_secs(2);

/// What is known of a replica, by whoever tells most of it.
#[derive(Clone, Copy, Default)]
struct Replica {
    waiting: Option<f64>,
    kv_used: Option<f64>,
    answer_s: Option<f64>,
}

/// What is known of a service with these replicas; `None` where no gateway tells of it. `used` is how
/// much of its GPUs a replica uses, 0 to 1.
pub fn measured(
    ready: &[AllocationId],
    told: &[Told],
    used: impl Fn(AllocationId) -> Option<f64>,
    now: StateMs,
) -> Option<Measured> {
    if told.is_empty() {
        return None;
    }
    let (mut in_flight, mut waiting, mut per_second) = (0_u64, 0_u64, 0.0);
    for one in told {
        in_flight += one.used.in_flight;
        waiting += one.used.waiting;
        per_second += one.per_second;
    }
    let is_busy = |told: &Told| told.busy_at.is_some_and(|at| now.since(at) < BUSY_FOR);
    let busy = told.iter().any(is_busy);
    let replicas = by_replica(told);
    let of = |metric: fn(&Replica) -> Option<f64>| {
        sum(ready.iter().map(|id| replicas.get(id).and_then(metric)))
    };
    let exact = |total: f64| Some(Measure { total, missing: 0 });
    let queue = of(|replica| replica.waiting).unwrap_or_default();
    let metrics = [
        (ScalingMetric::Concurrency, exact(count(in_flight + waiting))),
        (ScalingMetric::Requests, exact(per_second)),
        (ScalingMetric::Queue, Some(Measure { total: queue.total + count(waiting), ..queue })),
        // How long they took when somebody last asked says nothing of now.
        (ScalingMetric::Latency, of(|replica| replica.answer_s).filter(|_| busy)),
        (ScalingMetric::KvCache, of(|replica| replica.kv_used)),
        (ScalingMetric::Gpu, sum(ready.iter().map(|id| used(*id)))),
    ];
    let metrics = metrics.into_iter();
    let metrics = metrics.filter_map(|(metric, measure)| Some((metric, measure?))).collect();
    Some(Measured { metrics, busy })
}

/// Several gateways tell of one replica; the worst that any of them tells counts.
fn by_replica(told: &[Told]) -> BTreeMap<AllocationId, Replica> {
    let mut replicas: BTreeMap<AllocationId, Replica> = BTreeMap::new();
    let worse = |one: Option<f64>, other: Option<f64>| match (one, other) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (one, other) => one.or(other),
    };
    for used in told.iter().flat_map(|told| &told.used.replicas) {
        let Ok(id) = used.allocation_id.parse() else { continue };
        let known = replicas.entry(id).or_default();
        known.waiting = worse(known.waiting, used.waiting.map(f64::from));
        known.kv_used = worse(known.kv_used, used.kv_milli.map(|milli| f64::from(milli) / 1e3));
        known.answer_s = worse(known.answer_s, used.answer_us.map(|us| count(us) / 1e6));
    }
    replicas
}

/// `None` where nobody tells anything.
fn sum(values: impl Iterator<Item = Option<f64>>) -> Option<Measure> {
    let (mut measure, mut known) = (Measure::default(), false);
    for value in values {
        match value {
            Some(value) => {
                measure.total += value;
                known = true;
            }
            None => measure.missing += 1,
        }
    }
    known.then_some(measure)
}

/// How much of its GPUs an allocation uses, by what their agent last measured.
pub fn gpu_use(row: &AllocationRow, samples: &[v1::DeviceSample]) -> Option<f64> {
    let of = |uuid: &str| samples.iter().find(|sample| sample.uuid == uuid)?.utilization_percent;
    let used = row.claim.devices.iter().filter_map(|claim| of(&claim.uuid)).map(f64::from);
    let (sum, known) = used.fold((0.0, 0.0), |(sum, known), used| (sum + used, known + 1.0));
    (known > 0.0).then(|| sum / known / 100.0)
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests and microseconds of answers")]
fn count(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::super::uses::Uses;
    use super::*;

    const NOW: StateMs = StateMs(2_500);

    fn id(text: &str) -> AllocationId {
        text.parse().unwrap()
    }

    fn replica(id: &str, in_flight: u32) -> v1::ReplicaUse {
        v1::ReplicaUse { allocation_id: id.into(), in_flight, ..v1::ReplicaUse::default() }
    }

    /// What a gateway tells that has sent ten requests within its last second.
    fn told(waiting: u64, replicas: Vec<v1::ReplicaUse>) -> Told {
        let mut uses = Uses::default();
        for (at, requests) in [(1_000, 100), (2_000, 110)] {
            let used = v1::ServiceUse {
                namespace: "default".into(),
                name: "chat".into(),
                requests,
                waiting,
                replicas: replicas.clone(),
                ..v1::ServiceUse::default()
            };
            uses.hear("a", v1::ServiceUses { services: vec![used] }, StateMs(at));
        }
        uses.of("default", "chat").next().unwrap().clone()
    }

    #[test]
    fn gateways_add_up_and_the_worst_of_a_replica_counts() {
        let one = v1::ReplicaUse {
            waiting: Some(3),
            kv_milli: Some(400),
            answer_us: Some(200_000),
            ..replica("1.0.0.1", 4)
        };
        let other = v1::ReplicaUse { kv_milli: Some(500), ..replica("1.0.0.1", 2) };
        let silent = replica("1.0.1.1", 1);
        let told = [told(5, vec![one, silent]), told(2, vec![other])];
        let ready = [id("1.0.0.1"), id("1.0.1.1")];
        let used = |of| (of == ready[1]).then_some(0.75);
        let measured = measured(&ready, &told, used, NOW).unwrap();
        let expected = [
            (ScalingMetric::Concurrency, 14.0, 0),
            (ScalingMetric::Requests, 20.0, 0),
            (ScalingMetric::Queue, 10.0, 1),
            (ScalingMetric::Latency, 0.2, 1),
            (ScalingMetric::KvCache, 0.5, 1),
            (ScalingMetric::Gpu, 0.75, 1),
        ];
        let expected =
            expected.map(|(metric, total, missing)| (metric, Measure { total, missing }));
        assert_eq!(measured.metrics, expected.into());
        assert!(measured.busy);
    }

    #[test]
    fn what_nobody_tells_is_absent() {
        assert_eq!(measured(&[id("1.0.0.1")], &[], |_| None, NOW), None);
        let told = [told(0, vec![replica("1.0.0.1", 0)])];
        let later = StateMs(4_000);
        let measured = measured(&[id("1.0.0.1")], &told, |_| None, later).unwrap();
        assert!(!measured.busy, "its last request is two seconds ago");
        let known: Vec<ScalingMetric> = measured.metrics.into_keys().collect();
        let expected = [ScalingMetric::Concurrency, ScalingMetric::Requests, ScalingMetric::Queue];
        assert_eq!(known, expected);
    }
}
