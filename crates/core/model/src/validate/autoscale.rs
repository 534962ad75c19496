//! Rules for how a service's replicas follow its load.

use super::{Complaints, DURATION_MAX, REPLICAS_MAX};
use crate::autoscale::{Autoscale, ScalingPace, ScalingPolicy};
use crate::spec::{JobKind, JobSpec};
use crate::time::DurationMs;

/// Of any gain, in thousandths: beyond, a controller only swings.
const GAIN_MAX: u32 = 1_000_000;

pub(super) fn check(spec: &JobSpec, complaints: &mut Complaints) {
    let Some(rule) = &spec.autoscale else { return };
    if spec.kind != JobKind::Service {
        let kind = spec.kind.name();
        let message = format!("only a service's replicas follow its load; this is a {kind} job");
        complaints.add_with_hint("autoscale", message, "remove it, or set kind = \"service\"");
        return;
    }
    let Some((position, _)) = spec.scaled() else {
        let message = "nobody can ask it anything: no task has a port";
        complaints.add_with_hint("autoscale", message, "add ports = [\"http\"] to its task");
        return;
    };
    check_range(spec, position, rule, complaints);
    check_law(rule, complaints);
    check_pace("autoscale.up", &rule.up, complaints);
    check_pace("autoscale.down", &rule.down, complaints);
    for (name, span) in [("autoscale.average", rule.average), ("autoscale.idle", rule.idle)] {
        if span < DurationMs::from_secs(1) || span > DURATION_MAX {
            complaints.add(name, "expected at least 1s and at most 366d");
        }
    }
}

fn check_range(spec: &JobSpec, position: usize, rule: &Autoscale, complaints: &mut Complaints) {
    let Autoscale { min, max, .. } = *rule;
    if min >= max || max > REPLICAS_MAX {
        let message = format!(
            "expected a `min` below `max`, and that at most {REPLICAS_MAX}; found {min} and {max}"
        );
        complaints.add("replicas", message);
        return;
    }
    let task = &spec.tasks[position];
    if !(min..=max).contains(&task.count) {
        let field = format!("tasks.{}.count", task.name);
        complaints.add(
            field.as_str(),
            format!("expected {min} to {max}, the range that it is scaled in"),
        );
    }
    if task.gang.is_some() {
        let message = "a gang has as many members as it has; it does not follow its load";
        complaints.add_with_hint("replicas", message, "write replicas = 4, or remove `gang`");
    }
}

fn check_law(rule: &Autoscale, complaints: &mut Complaints) {
    for (metric, target) in &rule.targets {
        let field = format!("autoscale.target.{}", metric.name());
        if *target == 0 {
            complaints.add(field.as_str(), "expected more than zero");
        } else if metric.is_fraction() && *target > 1_000 {
            complaints.add(field.as_str(), "expected a part of the whole, above 0 and at most 1");
        }
    }
    if rule.tolerance >= 1_000 {
        complaints.add("autoscale.tolerance", "expected 0 to 0.999");
    }
    if rule.step == 0 || rule.step > REPLICAS_MAX {
        complaints.add("autoscale.step", format!("expected 1 to {REPLICAS_MAX}"));
    }
    if rule.alpha.is_some_and(|alpha| alpha == 0 || alpha > GAIN_MAX) {
        complaints.add("autoscale.alpha", "expected more than 0 and at most 1000");
    }
    let gains = [rule.gains.proportional, rule.gains.integral, rule.gains.derivative];
    if gains.iter().any(|gain| *gain > GAIN_MAX) {
        complaints.add("autoscale.gains", "expected at most 1000 of each");
    }
    if rule.policy == ScalingPolicy::Pid && gains[..2] == [0, 0] {
        let message = "with neither a proportional nor an integral part nothing would change";
        complaints.add("autoscale.gains", message);
    }
}

fn check_pace(name: &str, pace: &ScalingPace, complaints: &mut Complaints) {
    let ScalingPace { window, percent, replicas, every } = *pace;
    if percent == 0 && replicas == 0 {
        let message = "with neither `percent` nor `replicas` nothing would change";
        complaints.add(name, message);
    }
    if window > DURATION_MAX {
        complaints.add(format!("{name}.window"), "expected at most 366d");
    }
    if every < DurationMs::from_secs(1) || every > DURATION_MAX {
        complaints.add(format!("{name}.every"), "expected at least 1s and at most 366d");
    }
}
