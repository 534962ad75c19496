//! How many replicas a service has, as its load asks.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::spec::JobSpec;
use crate::time::DurationMs;

/// What is measured of a service, for each of its replicas.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ScalingMetric {
    /// Requests that are under way or wait at gateways.
    Concurrency,
    /// Requests begun in a second.
    Requests,
    /// Requests that wait, at gateways and in the replicas' own queues.
    Queue,
    /// How long an answer takes, in seconds.
    Latency,
    /// Use of the KV cache, 0 to 1.
    KvCache,
    /// Use of its GPUs, 0 to 1.
    Gpu,
}

/// How the number of replicas follows what is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum ScalingPolicy {
    /// `ceil(N · metric/target)`; inside the tolerance nothing.
    #[default]
    TargetTracking,
    /// So many more or fewer at a time.
    Step,
    /// `N + α·(D − C)`, of a demand D and a capacity C.
    Proportional,
    /// Half of what is missing at a time.
    HalfGap,
    /// A PID controller in its velocity form.
    Pid,
}

/// How fast the number changes in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ScalingPace {
    /// For so long the least (upwards) or the most (downwards) that was asked for counts.
    pub window: DurationMs,
    /// Within `every` at most so many per cent of the replicas, or
    pub percent: u32,
    /// so many replicas, whichever is more; one of the two is above zero.
    pub replicas: u32,
    pub every: DurationMs,
}

/// The gains of a PID controller, in thousandths, with times in seconds; the error is
/// `(metric − target)/target`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PidGains {
    pub proportional: u32,
    pub integral: u32,
    pub derivative: u32,
}

/// A service whose replicas follow its load.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Autoscale {
    /// 0: it may have none while nobody asks it anything.
    pub min: u32,
    /// Above `min`.
    pub max: u32,
    pub policy: ScalingPolicy,
    /// What one replica is to have of each, in thousandths, above zero; that which asks for most
    /// replicas counts. Empty: [`Autoscale::targets`] says what is usual.
    pub targets: BTreeMap<ScalingMetric, u32>,
    /// So far from the target, in thousandths of it, nothing changes; below 1000.
    pub tolerance: u32,
    /// Over how long is measured.
    pub average: DurationMs,
    pub up: ScalingPace,
    pub down: ScalingPace,
    /// Nobody has asked it anything for so long: it needs no replica. Of `min = 0`.
    pub idle: DurationMs,
    /// Of the policy `step`; at least 1.
    pub step: u32,
    /// Of the policy `proportional`: replicas in thousandths for each unit that demand is above
    /// capacity; `None`: as many as carry it.
    pub alpha: Option<u32>,
    /// Of the policy `pid`.
    pub gains: PidGains,
}

impl ScalingMetric {
    pub const ALL: [ScalingMetric; 6] = [
        ScalingMetric::Concurrency,
        ScalingMetric::Requests,
        ScalingMetric::Queue,
        ScalingMetric::Latency,
        ScalingMetric::KvCache,
        ScalingMetric::Gpu,
    ];

    /// As it is written in a job file.
    pub fn name(self) -> &'static str {
        match self {
            ScalingMetric::Concurrency => "concurrency",
            ScalingMetric::Requests => "requests",
            ScalingMetric::Queue => "queue",
            ScalingMetric::Latency => "latency",
            ScalingMetric::KvCache => "kv-cache",
            ScalingMetric::Gpu => "gpu",
        }
    }

    /// Whether it is a part of a whole.
    pub fn is_fraction(self) -> bool {
        match self {
            ScalingMetric::KvCache | ScalingMetric::Gpu => true,
            ScalingMetric::Concurrency
            | ScalingMetric::Requests
            | ScalingMetric::Queue
            | ScalingMetric::Latency => false,
        }
    }
}

impl FromStr for ScalingMetric {
    type Err = ();

    fn from_str(text: &str) -> Result<ScalingMetric, ()> {
        ScalingMetric::ALL.into_iter().find(|metric| metric.name() == text).ok_or(())
    }
}

impl ScalingPolicy {
    pub const ALL: [ScalingPolicy; 5] = [
        ScalingPolicy::TargetTracking,
        ScalingPolicy::Step,
        ScalingPolicy::Proportional,
        ScalingPolicy::HalfGap,
        ScalingPolicy::Pid,
    ];

    /// As it is written in a job file.
    pub fn name(self) -> &'static str {
        match self {
            ScalingPolicy::TargetTracking => "target-tracking",
            ScalingPolicy::Step => "step",
            ScalingPolicy::Proportional => "proportional",
            ScalingPolicy::HalfGap => "half-gap",
            ScalingPolicy::Pid => "pid",
        }
    }
}

impl FromStr for ScalingPolicy {
    type Err = ();

    fn from_str(text: &str) -> Result<ScalingPolicy, ()> {
        ScalingPolicy::ALL.into_iter().find(|policy| policy.name() == text).ok_or(())
    }
}

impl ScalingPace {
    /// At once, and in a quarter of a minute twice as many or four more: as Kubernetes'
    /// HorizontalPodAutoscaler (`autoscaling/v2`, its default `scaleUp`).
    pub const UP_DEFAULT: ScalingPace = ScalingPace {
        window: DurationMs::ZERO,
        percent: 100,
        replicas: 4,
        every: DurationMs::from_secs(15),
    };
    /// When five minutes have not asked for more: as its default `scaleDown`.
    pub const DOWN_DEFAULT: ScalingPace = ScalingPace {
        window: DurationMs::from_secs(300),
        percent: 100,
        replicas: 0,
        every: DurationMs::from_secs(15),
    };
}

impl PidGains {
    /// Half of a jump at once, and the rest with a time constant of ten seconds.
    pub const DEFAULT: PidGains = PidGains { proportional: 500, integral: 100, derivative: 0 };
}

impl Autoscale {
    /// A batch of eight keeps a GPU that decodes busy, and answers still come soon.
    pub const CONCURRENCY_DEFAULT: u32 = 8_000;
    /// Of what a replica is sent at most, as Knative's autoscaler.
    pub const UTILISATION_DEFAULT: u32 = 700;
    pub const TOLERANCE_DEFAULT: u32 = 100;
    pub const AVERAGE_DEFAULT: DurationMs = DurationMs::from_secs(30);
    pub const IDLE_DEFAULT: DurationMs = DurationMs::from_secs(300);

    /// Between `min` and `max`, and else as a job file that says nothing.
    pub fn between(min: u32, max: u32) -> Autoscale {
        Autoscale {
            min,
            max,
            policy: ScalingPolicy::default(),
            targets: BTreeMap::new(),
            tolerance: Autoscale::TOLERANCE_DEFAULT,
            average: Autoscale::AVERAGE_DEFAULT,
            up: ScalingPace::UP_DEFAULT,
            down: ScalingPace::DOWN_DEFAULT,
            idle: Autoscale::IDLE_DEFAULT,
            step: 1,
            alpha: None,
            gains: PidGains::DEFAULT,
        }
    }

    /// What one replica is to have, in thousandths; where nothing is said seven tenths of what it
    /// is sent at most, else a few requests at once.
    pub fn targets(&self, in_flight_max: Option<u32>) -> BTreeMap<ScalingMetric, u32> {
        if !self.targets.is_empty() {
            return self.targets.clone();
        }
        let usual = match in_flight_max {
            Some(most) => most.saturating_mul(Autoscale::UTILISATION_DEFAULT),
            None => Autoscale::CONCURRENCY_DEFAULT,
        };
        BTreeMap::from([(ScalingMetric::Concurrency, usual)])
    }

    /// How many it begins with, or goes on with where it had `count`.
    pub fn count(&self, before: Option<u32>) -> u32 {
        // One is begun in any case: a version that does not run is found out at once.
        before.unwrap_or(1).clamp(self.min, self.max)
    }
}

impl JobSpec {
    /// The task whose replicas follow the load, by position, and how they do.
    pub fn scaled(&self) -> Option<(usize, &Autoscale)> {
        let rule = self.autoscale.as_ref()?;
        self.reached().map(|reached| (usize::from(reached.position.0), rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for policy in ScalingPolicy::ALL {
            assert_eq!(policy.name().parse(), Ok(policy));
        }
        for metric in ScalingMetric::ALL {
            assert_eq!(metric.name().parse(), Ok(metric));
        }
        assert_eq!("Pid".parse::<ScalingPolicy>(), Err(()));
        assert_eq!("cpu".parse::<ScalingMetric>(), Err(()));
    }

    #[test]
    fn what_is_not_said_follows_from_what_a_replica_is_sent() {
        let rule = Autoscale::between(1, 8);
        let usual = |most| rule.targets(most)[&ScalingMetric::Concurrency];
        assert_eq!(usual(None), 8_000);
        assert_eq!(usual(Some(10)), 7_000);
        assert_eq!(usual(Some(u32::MAX)), u32::MAX);
        let said = BTreeMap::from([(ScalingMetric::Gpu, 700)]);
        assert_eq!(Autoscale { targets: said.clone(), ..rule }.targets(Some(4)), said);
    }

    #[test]
    fn a_new_version_goes_on_with_as_many_as_there_are() {
        let rule = Autoscale::between(0, 8);
        assert_eq!(
            [None, Some(0), Some(5), Some(9)].map(|before| rule.count(before)),
            [1, 0, 5, 8]
        );
        assert_eq!(Autoscale::between(2, 3).count(None), 2);
    }
}
