//! The agent's clock as a value.

use berth_model::DurationMs;

/// Milliseconds since the host booted, time asleep included. It outlives the
/// agent's process, so that a lease can be carried over a restart, and means
/// nothing on another host or after a reboot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AgentMs(pub u64);

impl AgentMs {
    /// This moment plus `span`; the end of time where that would not fit.
    #[must_use]
    pub fn after(self, span: DurationMs) -> AgentMs {
        AgentMs(self.0.saturating_add(span.0))
    }
}
