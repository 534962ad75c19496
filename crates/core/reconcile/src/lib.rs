//! What the leader proposes next, besides placements: silent nodes, passed
//! limits, drains, rolling replacements, retention. A pure function of the
//! view, of what the leader has heard, and of the time.

#![forbid(unsafe_code)]

mod drain;
mod liveness;
mod retention;
mod rolling;
mod soft;
mod time_limits;

pub use liveness::{Liveness, LivenessRules};
pub use soft::{Heard, SoftState};

use berth_model::StateMs;
use berth_state::{ClusterState, Command};

/// Commands of one tick; more wait for the next.
pub const COMMANDS_MAX: usize = 256;
/// Allocations in one command, so that it fits a log entry.
pub const ALLOCATIONS_IN_COMMAND_MAX: usize = 256;

/// What the leader should propose now. An empty answer means that everything
/// is as it should be.
pub fn tick(
    view: &ClusterState,
    soft: &SoftState,
    rules: &LivenessRules,
    now: StateMs,
) -> Vec<Command> {
    let mut commands = Vec::new();
    commands.extend(liveness::commands(view, soft, rules, now));
    commands.extend(time_limits::commands(view, now));
    commands.extend(drain::commands(view, now));
    commands.extend(rolling::commands(view));
    commands.extend(retention::commands(view, now));
    commands.truncate(COMMANDS_MAX);
    commands
}
