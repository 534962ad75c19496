//! Silent nodes: first disconnected, then their work is given up job by job as
//! each job asked for, then down.

use berth_model::{AllocationId, DurationMs, NodeState, StateMs};
use berth_state::{AllocationRow, ClusterState, Command, NodeRow, Purpose};

use crate::soft::SoftState;
use crate::{ALLOCATIONS_IN_COMMAND_MAX, drain};

/// When silence means what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LivenessRules {
    pub heartbeat: DurationMs,
    /// Silent this long: disconnected. Three missed heartbeats by default.
    pub suspect_after: DurationMs,
    /// Silent this long and empty: down.
    pub down_after: DurationMs,
    /// The lease of exclusive work; its agent ends it itself this long after
    /// its last acknowledged heartbeat.
    pub lease: DurationMs,
    /// Added to the lease before exclusive work is replaced: clocks of two
    /// machines drift apart by 5 % at the worst, over a lease and a grace.
    pub margin: DurationMs,
    /// Beyond this share of all nodes (at least two) silence at once is taken
    /// for the leader's own trouble, and expiry waits ten times as long.
    pub brake_percent: u32,
}

/// A named reason why nothing is expired although nodes are silent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Liveness {
    Normal,
    /// Too many nodes fell silent together.
    Braked,
}

impl Default for LivenessRules {
    fn default() -> LivenessRules {
        LivenessRules {
            heartbeat: DurationMs(2_000),
            suspect_after: DurationMs(6_000),
            down_after: DurationMs(10_000),
            lease: DurationMs(10_000),
            margin: DurationMs(2_000),
            brake_percent: 30,
        }
    }
}

impl LivenessRules {
    /// For a leader that hears heartbeats so late: silence begins that much later.
    #[must_use]
    pub fn heard_late(self, by: DurationMs) -> LivenessRules {
        let later = |span: DurationMs| DurationMs(span.0.saturating_add(by.0));
        LivenessRules {
            suspect_after: later(self.suspect_after),
            down_after: later(self.down_after),
            margin: later(self.margin),
            ..self
        }
    }
}

/// An orphan of an exclusive job ends with its lease and its grace; so long its
/// silent node keeps what it is from running elsewhere.
const ORPHANS_LIVE: DurationMs = DurationMs::from_secs(300);

/// A node that has said what is on it registers at once; how long that may take.
const REGISTERS_WITHIN: DurationMs = DurationMs::from_secs(60);

/// Silence is stretched by this while the brake is on.
const BRAKE_FACTOR: u64 = 10;

impl Liveness {
    /// Whether expiry is slowed down at `now`.
    pub fn judge(
        view: &ClusterState,
        soft: &SoftState,
        rules: &LivenessRules,
        now: StateMs,
    ) -> Liveness {
        let watched = view
            .nodes()
            .values()
            .filter(|node| node.state != NodeState::Down && !view.awaits(node.id));
        let (mut total, mut silent) = (0_u64, 0_u64);
        for node in watched {
            total += 1;
            if now.since(soft.silent_since(node.id)) >= rules.suspect_after {
                silent += 1;
            }
        }
        let allowed = (total * u64::from(rules.brake_percent)).div_ceil(100).max(2);
        if silent > allowed { Liveness::Braked } else { Liveness::Normal }
    }
}

pub(crate) fn commands(
    view: &ClusterState,
    soft: &SoftState,
    rules: &LivenessRules,
    now: StateMs,
) -> Vec<Command> {
    let stretch = match Liveness::judge(view, soft, rules, now) {
        Liveness::Normal => 1,
        Liveness::Braked => BRAKE_FACTOR,
    };
    let mut commands = Vec::new();
    for node in view.nodes().values() {
        // Its agent may not even know yet where the restored cluster is.
        let comes = node.session == 0 && now.since(node.since) < REGISTERS_WITHIN;
        if view.awaits(node.id) || comes {
            continue;
        }
        let silent = now.since(soft.silent_since(node.id));
        let passed = |span: DurationMs| silent.0 >= span.0.saturating_mul(stretch);
        match node.state {
            NodeState::Ready if passed(rules.suspect_after) => {
                commands.push(Command::DisconnectNode { node: node.id, session: node.session });
            }
            NodeState::Disconnected
                if node.live.is_empty()
                    && passed(rules.down_after)
                    && (node.orphans.is_empty() || passed(ORPHANS_LIVE)) =>
            {
                commands.push(Command::DownNode { node: node.id, session: node.session });
            }
            NodeState::Disconnected => {
                commands.extend(give_up(view, node, rules, (&passed, now)));
            }
            NodeState::Ready | NodeState::Down => {}
        }
    }
    commands
}

/// What is given up on a disconnected node by now.
fn give_up(
    view: &ClusterState,
    node: &NodeRow,
    rules: &LivenessRules,
    (passed, now): (&dyn Fn(DurationMs) -> bool, StateMs),
) -> Option<Command> {
    // The node was to be empty by then, and nobody waits for it any longer.
    let drained = match node.purpose {
        Purpose::Draining(drain) => drain::is_over(drain, now),
        Purpose::Work | Purpose::Cordoned => false,
    };
    let asked = if drained { Some(rules.suspect_after) } else { None };
    let over = |row: &AllocationRow| passed(patience(view, row, rules, asked));
    let allocations: Vec<AllocationId> = node
        .live
        .iter()
        .filter_map(|id| view.allocations().get(id))
        .filter(|row| over(row))
        .map(|row| row.id)
        .take(ALLOCATIONS_IN_COMMAND_MAX)
        .collect();
    let reason = format!("node {} is silent", node.name);
    let session = node.session;
    (!allocations.is_empty()).then_some(Command::LoseAllocations {
        node: node.id,
        session,
        allocations,
        reason,
    })
}

/// How long its node may be silent before an allocation is replaced. What the
/// agent does about a lease that ends follows from the version that it runs.
fn patience(
    view: &ClusterState,
    row: &AllocationRow,
    rules: &LivenessRules,
    at_most: Option<DurationMs>,
) -> DurationMs {
    let Some(job) = view.jobs().get(&row.id.job) else { return rules.down_after };
    let asked = at_most.unwrap_or(job.spec.max_disconnect).max(rules.suspect_after);
    let old = job.versions.iter().find(|old| old.version == row.job_version);
    let running = old.map_or(&job.spec, |old| &old.spec);
    if !running.exclusive {
        return asked;
    }
    let grace = running
        .tasks
        .get(usize::from(row.id.task.0))
        .map_or(DurationMs::ZERO, |task| task.stop.grace);
    let certain = rules.lease.0 + rules.margin.0 + grace.0.saturating_mul(21) / 20;
    DurationMs(asked.0.max(certain))
}
