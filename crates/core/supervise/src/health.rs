//! What a row of probe results means.

use berth_model::{DurationMs, HealthCheck};

use crate::clock::AgentMs;

/// When to probe and how often a probe may fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HealthPolicy {
    /// Between the end of one probe and the start of the next.
    pub interval: DurationMs,
    /// Consecutive failures that count as unhealthy, at least 1.
    pub failures: u32,
    /// After the start, failures do not count for this long, unless a probe
    /// has already passed.
    pub start_period: DurationMs,
}

/// What one probe said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeOutcome {
    Passed,
    Failed,
}

/// What the probes amount to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// Not ready yet.
    Pending,
    Ready,
    /// To be replaced. A probe that passes before that happens makes it ready
    /// again.
    Unhealthy,
}

/// The health of one running worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    policy: HealthPolicy,
    started_at: AgentMs,
    next_probe_at: AgentMs,
    consecutive_failures: u32,
    verdict: Verdict,
}

/// While failures do not count, probes come at least this often, so that a
/// worker with a long interval is not found ready long after it is.
const STARTING_INTERVAL_MAX: DurationMs = DurationMs(250);

impl Health {
    /// A worker that began at `started_at`; the first probe is due at once.
    #[must_use]
    pub fn new(policy: HealthPolicy, started_at: AgentMs) -> Health {
        Health {
            policy,
            started_at,
            next_probe_at: started_at,
            consecutive_failures: 0,
            verdict: Verdict::Pending,
        }
    }

    /// As [`Health::new`], for a worker that was watched before and had been
    /// found `verdict`: it stays that until a probe says otherwise.
    #[must_use]
    pub fn resume(policy: HealthPolicy, started_at: AgentMs, verdict: Verdict) -> Health {
        Health { verdict, ..Health::new(policy, started_at) }
    }

    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// When the next probe is due. Probes of one worker never overlap: this
    /// moves only when a result is in.
    #[must_use]
    pub fn next_probe_at(&self) -> AgentMs {
        self.next_probe_at
    }

    /// Takes the result of a probe that ended at `now`.
    pub fn observe(&mut self, outcome: ProbeOutcome, now: AgentMs) -> Verdict {
        match outcome {
            ProbeOutcome::Passed => {
                self.consecutive_failures = 0;
                self.verdict = Verdict::Ready;
            }
            ProbeOutcome::Failed if self.is_starting(now) => {}
            ProbeOutcome::Failed => {
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                if self.consecutive_failures >= self.policy.failures.max(1) {
                    self.verdict = Verdict::Unhealthy;
                }
            }
        }
        let interval = if self.is_starting(now) {
            self.policy.interval.min(STARTING_INTERVAL_MAX)
        } else {
            self.policy.interval
        };
        self.next_probe_at = now.after(interval);
        self.verdict
    }

    fn is_starting(&self, now: AgentMs) -> bool {
        self.verdict == Verdict::Pending && now < self.started_at.after(self.policy.start_period)
    }
}

impl From<&HealthCheck> for HealthPolicy {
    fn from(check: &HealthCheck) -> HealthPolicy {
        HealthPolicy {
            interval: check.interval,
            failures: check.failures,
            start_period: check.start_period,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ProbeOutcome::{Failed, Passed};
    use super::*;

    const POLICY: HealthPolicy =
        HealthPolicy { interval: DurationMs(1000), failures: 3, start_period: DurationMs(5000) };

    fn check(results: &[(u64, ProbeOutcome)], expected: &[Verdict]) {
        let mut health = Health::new(POLICY, AgentMs(100));
        let verdicts: Vec<Verdict> =
            results.iter().map(|(at, outcome)| health.observe(*outcome, AgentMs(*at))).collect();
        assert_eq!(verdicts, expected, "{results:?}");
    }

    #[test]
    fn failures_count_only_in_a_row_and_after_the_start_period() {
        use Verdict::{Pending, Ready, Unhealthy};
        check(
            &[(200, Failed), (300, Failed), (400, Failed), (500, Passed)],
            &[Pending, Pending, Pending, Ready],
        );
        check(&[(5100, Failed), (5200, Failed), (5300, Failed)], &[Pending, Pending, Unhealthy]);
        check(
            &[(200, Passed), (300, Failed), (400, Failed), (500, Failed)],
            &[Ready, Ready, Ready, Unhealthy],
        );
        check(
            &[(200, Passed), (300, Failed), (400, Failed), (500, Passed), (600, Failed)],
            &[Ready, Ready, Ready, Ready, Ready],
        );
        check(
            &[(6000, Failed), (6001, Failed), (6002, Failed), (6003, Passed)],
            &[Pending, Pending, Unhealthy, Ready],
        );
    }

    #[test]
    fn a_ready_worker_stays_ready_over_a_restart_until_probes_say_otherwise() {
        let mut health = Health::resume(POLICY, AgentMs(100), Verdict::Ready);
        assert_eq!(health.verdict(), Verdict::Ready);
        let verdicts = [200, 300, 400].map(|at| health.observe(Failed, AgentMs(at)));
        assert_eq!(verdicts, [Verdict::Ready, Verdict::Ready, Verdict::Unhealthy]);
    }

    #[test]
    fn probes_come_faster_while_failures_do_not_count() {
        let mut health = Health::new(POLICY, AgentMs(100));
        assert_eq!(health.next_probe_at(), AgentMs(100));
        health.observe(Failed, AgentMs(200));
        assert_eq!(health.next_probe_at(), AgentMs(450));
        let mut late = health.clone();
        late.observe(Failed, AgentMs(5100));
        assert_eq!(late.next_probe_at(), AgentMs(6100));
        health.observe(Passed, AgentMs(500));
        assert_eq!(health.next_probe_at(), AgentMs(1500));
    }
}
