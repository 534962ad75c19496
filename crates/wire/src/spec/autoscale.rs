//! How a service's replicas follow its load.

use std::collections::BTreeMap;

use berth_model::{Autoscale, DurationMs, PidGains, ScalingMetric, ScalingPace, ScalingPolicy};
use berth_proto::v1;

use crate::enumeration;
use crate::problem::{Cause, Field, Problems};

pub(super) fn autoscale_to_proto(rule: &Autoscale) -> v1::Autoscale {
    let Autoscale { min, max, policy, ref targets, tolerance, average, up, down, .. } = *rule;
    v1::Autoscale {
        min,
        max,
        policy: scaling_policy_to_proto(policy),
        targets: targets_to_proto(targets),
        tolerance_milli: Some(tolerance),
        average_ms: Some(average.0),
        up: Some(pace_to_proto(up)),
        down: Some(pace_to_proto(down)),
        idle_ms: Some(rule.idle.0),
        step: Some(rule.step),
        alpha_milli: rule.alpha,
        gains: Some(v1::PidGains {
            proportional_milli: rule.gains.proportional,
            integral_milli: rule.gains.integral,
            derivative_milli: rule.gains.derivative,
        }),
    }
}

/// The number of a policy.
pub(crate) fn scaling_policy_to_proto(policy: ScalingPolicy) -> i32 {
    enumeration::number::<v1::ScalingPolicy, _>(policy)
}

/// The policy of a number; `None` for one that this version does not know.
pub fn scaling_policy_from_proto(number: i32) -> Option<ScalingPolicy> {
    let proto = v1::ScalingPolicy::try_from(number).ok()?;
    enumeration::Enumeration::from_proto(proto)
}

/// The metric of a number; `None` for one that this version does not know.
pub fn scaling_metric_from_proto(number: i32) -> Option<ScalingMetric> {
    let proto = v1::ScalingMetric::try_from(number).ok()?;
    enumeration::Enumeration::from_proto(proto)
}

pub(crate) fn targets_to_proto(targets: &BTreeMap<ScalingMetric, u32>) -> Vec<v1::ScalingTarget> {
    let target = |(metric, milli): (&ScalingMetric, &u32)| v1::ScalingTarget {
        metric: enumeration::number::<v1::ScalingMetric, _>(*metric),
        milli: *milli,
    };
    targets.iter().map(target).collect()
}

fn pace_to_proto(pace: ScalingPace) -> v1::ScalingPace {
    let ScalingPace { window, percent, replicas, every } = pace;
    v1::ScalingPace { window_ms: window.0, percent, replicas, every_ms: every.0 }
}

/// `None` within: its replicas do not follow its load.
pub(super) fn read_autoscale(
    at: Field<'_>,
    proto: Option<v1::Autoscale>,
    problems: &mut Problems,
) -> Option<Option<Autoscale>> {
    let Some(proto) = proto else { return Some(None) };
    let policy = enumeration::read::<v1::ScalingPolicy, ScalingPolicy>(
        at.named("policy"),
        proto.policy,
        problems,
    );
    let targets = read_targets(at.named("targets"), proto.targets, problems);
    let usual = Autoscale::between(proto.min, proto.max);
    Some(Some(Autoscale {
        policy: policy?,
        targets: targets?,
        tolerance: proto.tolerance_milli.unwrap_or(usual.tolerance),
        average: proto.average_ms.map_or(usual.average, DurationMs),
        up: proto.up.map_or(usual.up, read_pace),
        down: proto.down.map_or(usual.down, read_pace),
        idle: proto.idle_ms.map_or(usual.idle, DurationMs),
        step: proto.step.unwrap_or(usual.step),
        alpha: proto.alpha_milli,
        gains: proto.gains.map_or(usual.gains, |gains| PidGains {
            proportional: gains.proportional_milli,
            integral: gains.integral_milli,
            derivative: gains.derivative_milli,
        }),
        ..usual
    }))
}

fn read_targets(
    at: Field<'_>,
    targets: Vec<v1::ScalingTarget>,
    problems: &mut Problems,
) -> Option<BTreeMap<ScalingMetric, u32>> {
    let mut read = BTreeMap::new();
    for (position, v1::ScalingTarget { metric, milli }) in targets.into_iter().enumerate() {
        let at = at.item(position);
        let metric =
            enumeration::read::<v1::ScalingMetric, _>(at.named("metric"), metric, problems)?;
        // One encoding for each meaning, or one specification had several digests.
        if read.last_key_value().is_some_and(|(last, _)| *last >= metric) {
            let why = "expected each metric once, in the order of their numbers";
            problems.add(at, Cause::Contradiction(why));
            return None;
        }
        read.insert(metric, milli);
    }
    Some(read)
}

fn read_pace(proto: v1::ScalingPace) -> ScalingPace {
    let v1::ScalingPace { window_ms, percent, replicas, every_ms } = proto;
    ScalingPace { window: DurationMs(window_ms), percent, replicas, every: DurationMs(every_ms) }
}
