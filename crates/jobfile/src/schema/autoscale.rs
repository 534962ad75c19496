//! How a service's replicas follow its load.

use berth_model::validate::REPLICAS_MAX;
use berth_model::{
    Autoscale, DurationMs, JobSpec, PidGains, ScalingMetric, ScalingPace, ScalingPolicy,
};

use super::keys;
use super::walk::{Field, Walk};
use crate::text::shown;
use crate::tree::Value;

/// Policies of the language that this version does not have.
const POLICIES_LATER: &[&str] = &["predictive"];

/// What `replicas` says.
pub(super) enum Replicas {
    Count(u32),
    Between(u32, u32),
}

/// `2`, or `{ min = 1, max = 8 }`.
pub(super) fn read_replicas(walk: &mut Walk<'_>, field: &Field<'_>) -> Option<Replicas> {
    if !matches!(field.node.value, Value::Table(_)) {
        return walk.integer(field, 0, REPLICAS_MAX).map(Replicas::Count);
    }
    let table = walk.table(field, &keys::REPLICAS)?;
    let mut end = |key: &str| {
        let end = walk.field(table, &field.path, key);
        if end.is_none() {
            walk.complain(field, format!("`{key}` is missing"));
        }
        end.and_then(|end| walk.integer(&end, 0, REPLICAS_MAX))
    };
    let (min, max) = (end("min"), end("max"));
    let (min, max) = (min?, max?);
    if min > max {
        let message = format!("`replicas.min` is {min}, above `replicas.max`, which is {max}");
        walk.complain(field, message);
        return None;
    }
    Some(if min == max { Replicas::Count(min) } else { Replicas::Between(min, max) })
}

/// `[autoscale]`, of a job whose `replicas` are a range.
pub(super) fn read(walk: &mut Walk<'_>, field: &Field<'_>, spec: &mut JobSpec) {
    let Some(table) = walk.table(field, &keys::AUTOSCALE) else { return };
    let Some(rule) = &mut spec.autoscale else {
        // Of a range that was refused it was said what is wrong.
        if !walk.complaints.covers("replicas") {
            let hint = "write replicas = { min = 1, max = 8 }";
            walk.complain_with_hint(field, "there is no range to scale in", hint);
        }
        return;
    };
    if let Some(policy) = walk.field(table, &field.path, "policy") {
        let words = ScalingPolicy::ALL.map(|policy| (policy.name(), policy));
        rule.policy = walk.word(&policy, &words, POLICIES_LATER).unwrap_or(rule.policy);
    }
    if let Some(target) = walk.field(table, &field.path, "target") {
        read_targets(walk, &target, rule);
    }
    for (key, span) in [("average", &mut rule.average), ("idle", &mut rule.idle)] {
        if let Some(field) = walk.field(table, &field.path, key) {
            *span = walk.duration(&field).unwrap_or(*span);
        }
    }
    for (key, pace) in [("up", &mut rule.up), ("down", &mut rule.down)] {
        if let Some(field) = walk.field(table, &field.path, key) {
            read_pace(walk, &field, pace);
        }
    }
    if let Some(step) = walk.field(table, &field.path, "step") {
        rule.step = walk.integer(&step, 1, REPLICAS_MAX).unwrap_or(rule.step);
    }
    if let Some(tolerance) = walk.field(table, &field.path, "tolerance") {
        rule.tolerance = thousandths(walk, &tolerance).unwrap_or(rule.tolerance);
    }
    if let Some(alpha) = walk.field(table, &field.path, "alpha") {
        rule.alpha = thousandths(walk, &alpha);
    }
    if let Some(gains) = walk.field(table, &field.path, "gains") {
        read_gains(walk, &gains, &mut rule.gains);
    }
}

fn read_targets(walk: &mut Walk<'_>, field: &Field<'_>, rule: &mut Autoscale) {
    let Some(table) = walk.table(field, &keys::TARGETS) else { return };
    for metric in ScalingMetric::ALL {
        let Some(target) = walk.field(table, &field.path, metric.name()) else { continue };
        let milli = match metric {
            ScalingMetric::Latency => milliseconds(walk, &target),
            ScalingMetric::Concurrency
            | ScalingMetric::Requests
            | ScalingMetric::Queue
            | ScalingMetric::KvCache
            | ScalingMetric::Gpu => thousandths(walk, &target),
        };
        rule.targets.extend(milli.map(|milli| (metric, milli)));
    }
    if table.entries().is_empty() {
        let hint = "as in target = { concurrency = 8 }";
        walk.complain_with_hint(field, "no metric is named", hint);
    }
}

fn read_pace(walk: &mut Walk<'_>, field: &Field<'_>, pace: &mut ScalingPace) {
    let Some(table) = walk.table(field, &keys::PACE) else { return };
    for (key, span) in [("window", &mut pace.window), ("every", &mut pace.every)] {
        if let Some(field) = walk.field(table, &field.path, key) {
            *span = walk.duration(&field).unwrap_or(*span);
        }
    }
    let counts =
        [("percent", 1_000_000, &mut pace.percent), ("replicas", REPLICAS_MAX, &mut pace.replicas)];
    for (key, most, count) in counts {
        if let Some(field) = walk.field(table, &field.path, key) {
            *count = walk.integer(&field, 0, most).unwrap_or(*count);
        }
    }
}

fn read_gains(walk: &mut Walk<'_>, field: &Field<'_>, gains: &mut PidGains) {
    let Some(table) = walk.table(field, &keys::GAINS) else { return };
    let parts =
        [("p", &mut gains.proportional), ("i", &mut gains.integral), ("d", &mut gains.derivative)];
    for (key, gain) in parts {
        if let Some(field) = walk.field(table, &field.path, key) {
            *gain = thousandths(walk, &field).unwrap_or(*gain);
        }
    }
}

fn milliseconds(walk: &mut Walk<'_>, field: &Field<'_>) -> Option<u32> {
    let DurationMs(span) = walk.duration(field)?;
    let read = u32::try_from(span).ok();
    if read.is_none() {
        walk.complain(field, "expected at most 49d");
    }
    read
}

/// A number of at most three decimals, in thousandths.
fn thousandths(walk: &mut Walk<'_>, field: &Field<'_>) -> Option<u32> {
    let text = match &field.node.value {
        Value::Integer(Some(number)) => number.to_string(),
        Value::Float(text) => text.clone(),
        Value::Integer(None)
        | Value::Null
        | Value::Boolean(_)
        | Value::Text(_)
        | Value::Date
        | Value::List(_)
        | Value::Table(_) => {
            walk.wrong_kind(field, "a number such as 8 or 0.7");
            return None;
        }
    };
    let read = parse_thousandths(&text);
    if read.is_none() {
        let message = format!(
            "expected a number from 0 to 4000000 of at most three decimals, found {}",
            shown(&text)
        );
        walk.complain(field, message);
    }
    read
}

fn parse_thousandths(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let part = part.trim_end_matches('0');
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 3 {
        return None;
    }
    let milli = format!("{part:0<3}").parse::<u32>().ok()?;
    let whole = whole.parse::<u32>().ok().filter(|whole| *whole <= 4_000_000)?;
    whole.checked_mul(1_000)?.checked_add(milli)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_as_they_are_written() {
        let check = |text: &str, expected: Option<u32>| {
            assert_eq!(parse_thousandths(text), expected, "{text}");
        };
        check("8", Some(8_000));
        check("0.7", Some(700));
        check("0.7000", Some(700));
        check("12.345", Some(12_345));
        check("0", Some(0));
        for wrong in
            ["", "-1", "0.0001", ".5", "1e3", "1_000", "4000001", "x", "1.2.3", "99999999999"]
        {
            check(wrong, None);
        }
    }
}
