//! What a scenario says of fleets of which there are as many as the load asks for.

use berth_model::{Autoscale, DurationMs, ScalingMetric, ScalingPace, ScalingPolicy};
use berth_sim::serve::{EngineShape, Known, Law, ScalingOptions, ServeArrival, SpanUs, known};
use serde::Deserialize;

use super::scenario::span;

/// Requests at once that one replica is to have, at most.
const TARGET_MAX: u32 = 4_000_000;

/// `[scaling]`: the fleet is as many as there are at most.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Scaling {
    laws: Vec<String>,
    min: u32,
    target: u32,
    start: String,
    wait: String,
    average: String,
    down: String,
    idle: String,
}

impl Default for Scaling {
    fn default() -> Scaling {
        Scaling {
            laws: ["target-tracking", "kubernetes", "clairvoyant", "fixed"]
                .map(str::to_owned)
                .into(),
            min: 1,
            target: 8,
            start: "60s".to_owned(),
            wait: "10m".to_owned(),
            average: "30s".to_owned(),
            down: "5m".to_owned(),
            idle: "5m".to_owned(),
        }
    }
}

/// By what the number of replicas is found.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct LawSetting {
    pub name: &'static str,
    kind: Kind,
}

#[derive(Clone, PartialEq, Debug)]
enum Kind {
    /// The whole fleet is there all the time.
    Fixed,
    Follows(Span, Box<Autoscale>),
    Kubernetes(Span, Box<Autoscale>),
    Clairvoyant(Span, Box<Autoscale>),
}

/// How long a replica takes to begin, and a request waits for one.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Span {
    start: SpanUs,
    wait: SpanUs,
}

impl Scaling {
    pub(super) fn check(&self, fleet: usize) -> Result<Vec<LawSetting>, String> {
        let max = u32::try_from(fleet).unwrap_or(u32::MAX);
        if self.min >= max {
            let what = "expected less than there are in the fleet";
            return Err(format!("scaling.min: {what}, {max}; found {}", self.min));
        }
        if self.target == 0 || self.target > TARGET_MAX {
            return Err(format!("scaling.target: expected 1 to {TARGET_MAX}"));
        }
        let named = |key: &str, text: &str| span(&format!("scaling.{key}"), text);
        let millis =
            |key: &str, text: &str| named(key, text).map(|span| DurationMs(span.0 / 1_000));
        let rule = Autoscale {
            targets: [(ScalingMetric::Concurrency, self.target * 1_000)].into(),
            average: millis("average", &self.average)?,
            down: ScalingPace { window: millis("down", &self.down)?, ..ScalingPace::DOWN_DEFAULT },
            idle: millis("idle", &self.idle)?,
            ..Autoscale::between(self.min, max)
        };
        let span = Span { start: named("start", &self.start)?, wait: named("wait", &self.wait)? };
        let law = |(index, name): (usize, &String)| {
            let rule = Box::new(rule.clone());
            match name.as_str() {
                "fixed" => Ok(LawSetting::WHOLE_FLEET),
                "kubernetes" => {
                    Ok(LawSetting { name: "kubernetes", kind: Kind::Kubernetes(span, rule) })
                }
                "clairvoyant" => {
                    Ok(LawSetting { name: "clairvoyant", kind: Kind::Clairvoyant(span, rule) })
                }
                name => match name.parse::<ScalingPolicy>() {
                    Ok(policy) => {
                        let rule = Box::new(Autoscale { policy, ..*rule });
                        Ok(LawSetting { name: policy.name(), kind: Kind::Follows(span, rule) })
                    }
                    Err(()) => {
                        let own = ScalingPolicy::ALL.map(ScalingPolicy::name).join(", ");
                        let what = format!("expected one of {own}, kubernetes, clairvoyant, fixed");
                        Err(format!("scaling.laws[{index}]: unknown law `{name}`; {what}"))
                    }
                },
            }
        };
        self.laws.iter().enumerate().map(law).collect()
    }
}

impl LawSetting {
    pub(super) const WHOLE_FLEET: LawSetting = LawSetting { name: "fixed", kind: Kind::Fixed };

    /// For these requests at a rate, over replicas of this shape; who knows what comes has it done
    /// within that.
    pub(super) fn options(
        &self,
        arrivals: &[ServeArrival],
        rate_milli: u64,
        (shape, within): (EngineShape, SpanUs),
    ) -> Option<ScalingOptions> {
        let (law, span, begins_with) = match &self.kind {
            Kind::Fixed => return None,
            Kind::Follows(span, rule) => (Law::Berth((**rule).clone()), *span, rule.count(None)),
            Kind::Kubernetes(span, rule) => {
                let (min, max, target) = (rule.min.max(1), rule.max, target(rule));
                (Law::Kubernetes { min, max, target }, *span, min)
            }
            Kind::Clairvoyant(span, rule) => {
                let (min, max, start) = (rule.min, rule.max, span.start);
                let of = Known { shape, within, start, min, max, rate_milli };
                let counts = known(arrivals, of);
                let first = counts.first().map_or(min, |(_, count)| *count);
                (Law::Known(counts), *span, first)
            }
        };
        let Span { start, wait } = span;
        Some(ScalingOptions { law, start, wait, begins_with })
    }
}

fn target(rule: &Autoscale) -> f64 {
    let milli = rule.targets(None).get(&ScalingMetric::Concurrency).copied().unwrap_or(1_000);
    f64::from(milli) / 1_000.0
}
