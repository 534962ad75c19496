//! How long an agent may go on without hearing from the cluster.

use berth_model::DurationMs;

use crate::clock::AgentMs;

/// The right to run what must never run twice.
///
/// It counts from the moment at which the last acknowledged heartbeat was
/// *sent*: the scheduler counts from when it arrived, which is later, so the
/// agent always gives up first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lease {
    renewed_at: Option<AgentMs>,
    length: DurationMs,
    stop_after: Option<DurationMs>,
}

impl Lease {
    /// No lease yet: exclusive work neither starts nor goes on.
    ///
    /// `stop_after` is the host's own limit of silence after which everything
    /// is stopped, exclusive or not; without it other work runs on for ever.
    #[must_use]
    pub fn none(stop_after: Option<DurationMs>) -> Lease {
        Lease { renewed_at: None, length: DurationMs::ZERO, stop_after }
    }

    /// A heartbeat sent at `sent_at` was acknowledged. An acknowledgement that
    /// comes late never shortens the lease.
    pub fn renew(&mut self, sent_at: AgentMs, length: DurationMs) {
        self.renewed_at = Some(self.renewed_at.map_or(sent_at, |before| before.max(sent_at)));
        self.length = length;
    }

    /// When the lease was last renewed and for how long; for keeping it over a
    /// restart.
    #[must_use]
    pub fn renewal(&self) -> Option<(AgentMs, DurationMs)> {
        self.renewed_at.map(|at| (at, self.length))
    }

    /// Whether exclusive work may run at `now`.
    #[must_use]
    pub fn holds(&self, now: AgentMs) -> bool {
        self.exclusive_ends_at().is_some_and(|end| now < end)
    }

    /// Whether the host's own limit of silence has passed at `now`.
    #[must_use]
    pub fn silence_is_over(&self, now: AgentMs) -> bool {
        self.all_ends_at().is_some_and(|end| now >= end)
    }

    /// The next moment after `now` at which an answer above changes by itself.
    #[must_use]
    pub fn next_change(&self, now: AgentMs) -> Option<AgentMs> {
        [self.exclusive_ends_at(), self.all_ends_at()]
            .into_iter()
            .flatten()
            .filter(|end| *end > now)
            .min()
    }

    /// Until when exclusive work may run; `None` before the first renewal.
    #[must_use]
    pub fn exclusive_ends_at(&self) -> Option<AgentMs> {
        self.renewed_at.map(|at| at.after(self.length))
    }

    fn all_ends_at(&self) -> Option<AgentMs> {
        Some(self.renewed_at?.after(self.stop_after?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_by_itself_and_late_answers_do_not_shorten_it() {
        let mut lease = Lease::none(Some(DurationMs(5000)));
        assert!(!lease.holds(AgentMs(0)), "nothing is held before the first acknowledgement");
        assert!(!lease.silence_is_over(AgentMs(u64::MAX)), "silence is counted from a first word");
        lease.renew(AgentMs(1000), DurationMs(300));
        lease.renew(AgentMs(900), DurationMs(300));
        assert!(lease.holds(AgentMs(1299)));
        assert!(!lease.holds(AgentMs(1300)));
        assert_eq!(lease.next_change(AgentMs(1000)), Some(AgentMs(1300)));
        assert_eq!(lease.next_change(AgentMs(1300)), Some(AgentMs(6000)));
        assert!(lease.silence_is_over(AgentMs(6000)));
        assert_eq!(lease.next_change(AgentMs(6000)), None);
    }
}
