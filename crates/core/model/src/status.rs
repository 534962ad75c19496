//! The states that jobs, allocations and nodes go through, and which step may
//! follow which.

use thiserror::Error;

use crate::time::{StateMs, WallMs};

/// The state of a live allocation. An ended one has an `Outcome` and no row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AllocationState {
    /// In the log; the agent has not yet said that it works on it.
    Planned,
    Starting(StartPhase),
    /// `ready` is false while a health check has not passed.
    Running {
        ready: bool,
    },
    /// Asked to end.
    Stopping(StopIntent),
    /// Sent SIGKILL and still there: holds its devices.
    Unkillable(StopIntent),
}

/// What a starting allocation waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StartPhase {
    Fetch,
    Launch,
    WarmUp,
}

/// Why an allocation is being ended; decides what its end means.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StopIntent {
    /// Its job was stopped or scaled down: it is not replaced.
    Cancel,
    /// Its time limit or its job's deadline passed.
    TimeOut,
    /// Its node is drained: it is replaced elsewhere.
    Drain,
    /// A newer version or a restart takes its place.
    Replace,
    /// Its health check failed: it counts as a failed attempt.
    Unhealthy,
    /// What is more urgent takes its place: it waits for another.
    Preempt,
}

/// How an allocation ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Outcome {
    Succeeded,
    Failed,
    Cancelled,
    TimedOut,
    Preempted,
    Lost,
}

/// What an agent observed of an end.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct EndReport {
    pub cause: EndCause,
    /// 0 to 255, for a worker that exited by itself.
    pub exit_code: Option<i32>,
    /// 1 to 64, for a worker ended by a signal.
    pub signal: Option<i32>,
    /// One sentence for people; empty where code and signal say it all.
    pub reason: String,
    /// At most the last 4 KiB.
    pub stderr_tail: String,
    pub started_at: Option<WallMs>,
    pub finished_at: WallMs,
}

/// What brought an end about, as the agent saw it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EndCause {
    /// The worker ended by itself.
    Exited,
    /// The agent ended it because desired state asked for that.
    Stopped,
    /// It never began: no such program, no permission, no such directory.
    CannotStart,
    /// A port of its plan was taken by a stranger: placed again without
    /// costing an attempt.
    PortTaken,
    OutOfMemory,
    /// The host came back with another boot id.
    HostRebooted,
    /// Nobody saw the end; exit code and signal are unknown.
    Unseen,
    /// The agent ended it itself when its lease ran out.
    Fenced,
    /// The host could start nothing, whatever it was: a full disk, a process
    /// table without room. Says nothing of the worker, which is placed again
    /// without costing an attempt.
    HostFault,
}

/// The state of a job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum JobState {
    /// Waiting; nothing alive.
    Queued,
    /// Something alive.
    Running,
    Succeeded,
    Failed,
    Cancelled,
    TimedOut,
}

/// The state of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NodeState {
    Ready,
    /// Silent, and its allocations are still taken to be alive.
    Disconnected,
    /// Silent for so long that nothing on it counts any more.
    Down,
}

/// A node being emptied.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Drain {
    /// When the rest is stopped whatever it is.
    pub deadline: Option<StateMs>,
}

/// A step that a state machine does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("an allocation that is {from:?} cannot become {to:?}")]
pub struct IllegalTransition {
    pub from: AllocationState,
    pub to: AllocationState,
}

impl AllocationState {
    /// The state after an observation or an order; the same state again is
    /// allowed, a step back is not.
    ///
    /// # Errors
    /// `IllegalTransition` for a step back, which happens only when a report
    /// is late.
    pub fn advance(self, to: AllocationState) -> Result<AllocationState, IllegalTransition> {
        use AllocationState as A;
        let allowed = match (self, to) {
            (A::Planned, A::Planned | A::Starting(_) | A::Running { .. } | A::Stopping(_)) => true,
            (A::Planned, A::Unkillable(_)) => false,
            (A::Starting(from), A::Starting(to)) => to >= from,
            (A::Starting(_), A::Running { .. } | A::Stopping(_)) => true,
            (A::Starting(_), A::Planned | A::Unkillable(_)) => false,
            (A::Running { .. }, A::Running { .. } | A::Stopping(_)) => true,
            (A::Running { .. }, A::Planned | A::Starting(_) | A::Unkillable(_)) => false,
            (A::Stopping(_), A::Stopping(_) | A::Unkillable(_)) => true,
            (A::Stopping(_), A::Planned | A::Starting(_) | A::Running { .. }) => false,
            (A::Unkillable(_), A::Unkillable(_)) => true,
            (
                A::Unkillable(_),
                A::Planned | A::Starting(_) | A::Running { .. } | A::Stopping(_),
            ) => false,
        };
        if allowed { Ok(to) } else { Err(IllegalTransition { from: self, to }) }
    }

    /// Why it is being ended, if it is.
    pub fn stop_intent(self) -> Option<StopIntent> {
        match self {
            AllocationState::Stopping(intent) | AllocationState::Unkillable(intent) => Some(intent),
            AllocationState::Planned
            | AllocationState::Starting(_)
            | AllocationState::Running { .. } => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            AllocationState::Planned => "planned",
            AllocationState::Starting(_) => "starting",
            AllocationState::Running { .. } => "running",
            AllocationState::Stopping(StopIntent::Drain) => "draining",
            AllocationState::Stopping(_) => "stopping",
            AllocationState::Unkillable(_) => "unkillable",
        }
    }
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Succeeded => "succeeded",
            Outcome::Failed => "failed",
            Outcome::Cancelled => "cancelled",
            Outcome::TimedOut => "timed_out",
            Outcome::Preempted => "preempted",
            Outcome::Lost => "lost",
        }
    }
}

impl JobState {
    pub fn name(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Succeeded => "succeeded",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
            JobState::TimedOut => "timed_out",
        }
    }

    pub fn is_ended(self) -> bool {
        match self {
            JobState::Queued | JobState::Running => false,
            JobState::Succeeded | JobState::Failed | JobState::Cancelled | JobState::TimedOut => {
                true
            }
        }
    }
}

impl NodeState {
    pub fn name(self) -> &'static str {
        match self {
            NodeState::Ready => "ready",
            NodeState::Disconnected => "disconnected",
            NodeState::Down => "down",
        }
    }
}

impl EndReport {
    /// What the report amounts to for people, such as `exit code 1`.
    pub fn summary(&self) -> String {
        let how = match (self.exit_code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("ended by signal {signal}"),
            (None, None) => String::new(),
        };
        match (how.is_empty(), self.reason.is_empty()) {
            (_, true) => how,
            (true, false) => self.reason.clone(),
            (false, false) => format!("{} ({how})", self.reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_report_never_moves_an_allocation_back() {
        use AllocationState as A;
        let running = A::Running { ready: true };
        let stopping = A::Stopping(StopIntent::Cancel);
        assert!(running.advance(A::Starting(StartPhase::Launch)).is_err());
        assert!(stopping.advance(running).is_err());
        assert!(A::Unkillable(StopIntent::Cancel).advance(stopping).is_err());
        assert_eq!(A::Planned.advance(running), Ok(running));
        assert_eq!(running.advance(stopping), Ok(stopping));
        assert!(A::Starting(StartPhase::WarmUp).advance(A::Starting(StartPhase::Fetch)).is_err());
    }
}
