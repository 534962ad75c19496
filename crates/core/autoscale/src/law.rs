//! How many replicas a measure asks for.

use berth_model::{Autoscale, ScalingPolicy, StateMs};

/// What a law goes by.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// Replicas that are wanted now.
    pub wanted: u32,
    /// The sum over all replicas, and what one is to have; above zero.
    pub total: f64,
    pub target: f64,
}

/// What a PID controller remembers of one metric.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pid {
    at: Option<StateMs>,
    /// Its own number of replicas, which need not be whole.
    level: f64,
    /// The errors of the last two looks, the newest first.
    errors: [f64; 2],
}

/// No controller is told that more time has passed: it would take a pause for a trend.
const PID_STEP_MAX_S: f64 = 5.0;

impl Load {
    /// Replicas that would have just their target.
    fn carrying(&self) -> f64 {
        self.total / self.target
    }

    /// Replicas that the law asks for; need not be whole, and may be below zero.
    pub(crate) fn asked(&self, rule: &Autoscale) -> f64 {
        let Load { total, target, .. } = *self;
        let wanted = f64::from(self.wanted);
        let carrying = self.carrying();
        match rule.policy {
            ScalingPolicy::TargetTracking | ScalingPolicy::Pid => carrying,
            ScalingPolicy::Step => {
                let (step, tolerance) = (f64::from(rule.step), thousandths(rule.tolerance));
                // What they carry is at most what they are to carry.
                let fewer = (wanted - step).max(0.0);
                if carrying > wanted * (1.0 + tolerance) {
                    wanted + step
                } else if carrying < wanted * (1.0 - tolerance) && carrying <= fewer {
                    fewer
                } else {
                    wanted
                }
            }
            ScalingPolicy::Proportional => {
                let alpha = rule.alpha.map_or(1.0 / target, thousandths);
                wanted + alpha * (total - wanted * target)
            }
            // The capacity is kept where demand is below it, so it falls as with a target.
            ScalingPolicy::HalfGap => match carrying > wanted {
                true => wanted + (carrying - wanted) / 2.0,
                false => carrying,
            },
        }
    }

    /// A whole number of replicas: `wanted` while what is asked for is inside the tolerance.
    pub(crate) fn settled(&self, asked: f64, rule: &Autoscale) -> u32 {
        let wanted = f64::from(self.wanted);
        let is_within = (asked - wanted).abs() <= wanted * thousandths(rule.tolerance);
        if is_within && self.wanted > 0 { self.wanted } else { whole(asked) }
    }
}

impl Pid {
    /// Goes on to `now`; what it asks for.
    ///
    /// In its velocity form, so that nothing winds up but the level itself, which is bounded. The
    /// error is measured by its own level: replicas that are on their way count, and do not delay
    /// what it sees (a Smith predictor for a known dead time).
    pub(crate) fn asked(&mut self, load: &Load, rule: &Autoscale, now: StateMs) -> f64 {
        let (least, most) = (f64::from(rule.min.max(1)), f64::from(rule.max));
        let Some(before) = self.at.replace(now) else {
            self.level = f64::from(load.wanted).clamp(least, most);
            let error = self.error(load);
            self.errors = [error, error];
            return self.level;
        };
        // Milliseconds between two looks are few.
        #[expect(clippy::cast_precision_loss, reason = "milliseconds between two looks are few")]
        let seconds = (now.since(before).0 as f64 / 1_000.0).min(PID_STEP_MAX_S);
        if seconds <= 0.0 {
            return self.level;
        }
        let gains = rule.gains;
        let (kp, ki, kd) = (
            thousandths(gains.proportional),
            thousandths(gains.integral),
            thousandths(gains.derivative),
        );
        let error = self.error(load);
        let [last, before_last] = self.errors;
        let bend = (error - 2.0 * last + before_last) / seconds;
        let change = kp * (error - last) + ki * seconds * error + kd * bend;
        self.errors = [error, last];
        self.level = (self.level * (1.0 + change)).clamp(least, most);
        self.level
    }

    /// Between all too many and as much above the target as that is: of a larger one the
    /// proportional part would take back more than it gave as soon as it is met.
    fn error(&self, load: &Load) -> f64 {
        (load.carrying() / self.level - 1.0).clamp(-1.0, 1.0)
    }

    /// Nothing was there to go by.
    pub(crate) fn forget(&mut self) {
        *self = Pid::default();
    }
}

pub(crate) fn thousandths(count: u32) -> f64 {
    f64::from(count) / 1_000.0
}

/// The next whole number; 0 for what is below.
fn whole(asked: f64) -> u32 {
    // What is a whole number but for the last bits is one.
    let next = (asked - 1e-9).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is within bounds by then"
    )]
    let next = next.clamp(0.0, f64::from(u32::MAX)) as u32;
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(policy: ScalingPolicy) -> Autoscale {
        Autoscale { policy, ..Autoscale::between(0, 1_000) }
    }

    fn asked(rule: &Autoscale, wanted: u32, total: f64, target: f64) -> u32 {
        let load = Load { wanted, total, target };
        load.settled(load.asked(rule), rule)
    }

    #[test]
    fn target_tracking_is_as_in_its_worked_example() {
        let rule = rule(ScalingPolicy::TargetTracking);
        // Four that are used at 0.90 against 0.70.
        assert_eq!(asked(&rule, 4, 3.6, 0.7), 6);
        assert_eq!(asked(&rule, 10, 10.9, 1.0), 10, "inside the tolerance");
        assert_eq!(asked(&rule, 10, 11.1, 1.0), 12);
        assert_eq!(asked(&rule, 10, 8.9, 1.0), 9);
        assert_eq!(asked(&rule, 0, 0.1, 8.0), 1);
        assert_eq!(asked(&rule, 3, 0.0, 8.0), 0);
    }

    #[test]
    fn proportional_is_as_in_its_worked_examples() {
        // N 5 at a capacity of 80, a demand of 100.
        for (alpha, expected) in [(250, 10), (2_000, 45)] {
            let rule = Autoscale { alpha: Some(alpha), ..rule(ScalingPolicy::Proportional) };
            assert_eq!(asked(&rule, 5, 100.0, 16.0), expected);
        }
        let usual = rule(ScalingPolicy::Proportional);
        assert_eq!(asked(&usual, 5, 100.0, 16.0), 7, "as many as carry it");
        let far = Autoscale { alpha: Some(250), ..usual };
        assert_eq!(asked(&far, 5, 0.0, 16.0), 0, "never below none");
    }

    #[test]
    fn half_of_the_gap_is_as_in_its_worked_example() {
        let rule = rule(ScalingPolicy::HalfGap);
        // A capacity of 80 and a demand of 100: of 90.
        assert_eq!(asked(&rule, 80, 100.0, 1.0), 90);
        assert_eq!(asked(&rule, 80, 40.0, 1.0), 40);
    }

    #[test]
    fn a_step_is_taken_where_the_others_carry_what_is_left() {
        let rule = Autoscale { step: 2, ..rule(ScalingPolicy::Step) };
        assert_eq!(asked(&rule, 4, 5.0, 1.0), 6);
        assert_eq!(asked(&rule, 4, 4.2, 1.0), 4);
        assert_eq!(asked(&rule, 4, 2.5, 1.0), 4, "two would have more than their target");
        assert_eq!(asked(&rule, 4, 2.0, 1.0), 2);
        assert_eq!(asked(&rule, 1, 0.0, 1.0), 0);
    }

    #[test]
    fn a_controller_comes_to_the_target_and_stays() {
        let rule = rule(ScalingPolicy::Pid);
        let mut pid = Pid::default();
        let mut levels = Vec::new();
        for second in 0..120 {
            let total = if second < 5 { 16.0 } else { 80.0 };
            let load = Load { wanted: 2, total, target: 8.0 };
            levels.push(pid.asked(&load, &rule, StateMs(second * 1_000)));
        }
        assert!((levels[4] - 2.0).abs() < 1e-9, "{levels:?}");
        assert!(levels[5] > 3.0 && levels[5] < 10.0, "part of a jump at once: {levels:?}");
        assert!(levels.iter().all(|level| *level < 12.0), "{levels:?}");
        assert!(levels[60..].iter().all(|level| (level - 10.0).abs() < 0.5), "{levels:?}");
    }

    #[test]
    fn a_controller_does_not_wind_up_at_its_bounds() {
        let rule = Autoscale { max: 4, ..rule(ScalingPolicy::Pid) };
        let mut pid = Pid::default();
        let mut at = |second: u64, total: f64| {
            let load = Load { wanted: 4, total, target: 8.0 };
            pid.asked(&load, &rule, StateMs(second * 1_000))
        };
        for second in 0..600 {
            assert!(at(second, 800.0) <= 4.0);
        }
        let mut after = 600;
        while at(after, 8.0) > 1.5 {
            after += 1;
        }
        assert!(after < 660, "{after}");
    }
}
