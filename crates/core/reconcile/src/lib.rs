//! What the leader proposes next, besides placements: silent nodes, passed
//! limits, drains, rolling replacements, reservations whose time has come, places kept in vain,
//! retention. A pure function of the
//! view, of what the leader has heard, and of the time.

#![forbid(unsafe_code)]

mod callers;
mod drain;
mod guards;
mod liveness;
mod node_reservations;
mod relief;
mod replicas;
mod reservations;
mod retention;
mod rolling;
mod scaling;
mod soft;
mod time_limits;

pub use callers::{GATEWAY_SILENCE, GATEWAYS_MAX, Gateways, TooManyGateways};
pub use drain::{DrainWait, HasPlace, drain_waits, turn_of};
pub use guards::{GuardRules, HostUse, HostWatch, Marks};
pub use liveness::{Liveness, LivenessRules};
pub use relief::{Relief, reliefs};
pub use scaling::{Reason, Scaled, Scaling};
pub use soft::{Heard, SoftState};

use std::collections::BTreeSet;

use berth_model::{AllocationId, StateMs};
use berth_state::{ClusterState, Command};

/// Commands of one tick; more wait for the next.
pub const COMMANDS_MAX: usize = 256;
/// Allocations in one command, so that it fits a log entry.
pub const ALLOCATIONS_IN_COMMAND_MAX: usize = 256;

/// What the leader should propose now. Where work finds places is another's to know: whether
/// what is to move has one is asked of `has_place`. An empty answer means that everything
/// is as it should be.
pub fn tick(
    view: &ClusterState,
    soft: &SoftState,
    rules: &LivenessRules,
    has_place: &mut HasPlace<'_>,
    now: StateMs,
) -> Vec<Command> {
    let mut commands = Vec::new();
    commands.extend(waited_long_enough(view, now));
    commands.extend(liveness::commands(view, soft, rules, now));
    commands.extend(callers::commands(view, &soft.gateways, soft.watching_since(), now));
    commands.extend(time_limits::commands(view, now));
    commands.extend(node_reservations::commands(view, now));
    commands.extend(drain::commands(view, &ordered(&commands), has_place, now));
    commands.extend(rolling::commands(view, &ordered(&commands), now));
    commands.extend(reservations::commands(view));
    commands.extend(retention::commands(view, now));
    commands.truncate(COMMANDS_MAX);
    commands
}

/// Nodes that a restored cluster has awaited for as long as it was told to.
fn waited_long_enough(view: &ClusterState, now: StateMs) -> Option<Command> {
    let restore = view.cluster().restore.as_ref()?;
    let over = !restore.awaited.is_empty() && now >= restore.await_until;
    over.then_some(Command::StopAwaiting)
}

/// The allocations that these commands end: one tick gives one order about
/// each, the first one, since a later one would change what its end means.
pub fn ordered(commands: &[Command]) -> BTreeSet<AllocationId> {
    let mut ordered = BTreeSet::new();
    for command in commands {
        if let Command::LoseAllocations { allocations, .. }
        | Command::StopAllocations { allocations, .. } = command
        {
            ordered.extend(allocations);
        }
    }
    ordered
}
