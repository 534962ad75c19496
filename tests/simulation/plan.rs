//! What kind of cluster and how much trouble a seed stands for.

use std::time::Duration;

use berth_model::DurationMs;
use berth_raft::{SnapshotPolicy, Timers};
use berth_reconcile::LivenessRules;

use crate::rng::Rng;
use crate::world::{MILLI, SECOND};

/// The fixed facts of one run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub schedulers: u64,
    pub agents: usize,
    pub clients: usize,
    /// Microseconds of virtual time in which faults happen.
    pub chaos_us: u64,
    pub timers: Timers,
    pub snapshots: SnapshotPolicy,
    pub rules: LivenessRules,
    pub delay: (Duration, Duration),
    pub lost_per_mille: u64,
    /// Commands in one log entry at most.
    pub commands_max: usize,
    /// Mean time between two faults.
    pub fault_gap_us: u64,
    /// Longest time that an agent's write of desired state takes.
    pub journal_us_max: u64,
    /// Of a thousand messages with desired state, how many come again later.
    pub doubled_per_mille: u64,
    /// Of a thousand changes of desired state, how many were put together
    /// wrongly by their sender.
    pub garbled_per_mille: u64,
    pub wall: Wall,
}

/// How the wall clocks of the schedulers go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wall {
    Steady,
    /// Each steps every two seconds, to anywhere within an hour of the truth.
    Steps,
}

impl Plan {
    pub fn draw(seed: u64, rng: &mut Rng) -> Plan {
        let fast = rng.chance(80);
        Plan {
            seed,
            schedulers: rng.pick(&[3, 3, 3, 3, 3, 3, 3, 3, 5, 1]),
            agents: usize::try_from(rng.range(1, 5)).unwrap(),
            clients: usize::try_from(rng.range(1, 3)).unwrap(),
            chaos_us: rng.range(9, 16) * SECOND,
            timers: if fast {
                Timers::DEFAULT
            } else {
                Timers { heartbeat_ms: 200, election_min_ms: 450, election_max_ms: 900 }
            },
            snapshots: SnapshotPolicy {
                log_bytes_min: rng.pick(&[2 << 10, 8 << 10, 1 << 20]),
                entries_kept: rng.pick(&[0, 3, 50]),
            },
            rules: LivenessRules {
                heartbeat: DurationMs(500),
                suspect_after: DurationMs(1500),
                down_after: DurationMs(3000),
                lease: DurationMs(2500),
                margin: DurationMs(500),
                brake_percent: rng.pick(&[30, 60, 100]),
            },
            delay: rng.pick(&[
                (Duration::from_micros(100), Duration::from_millis(1)),
                (Duration::from_micros(100), Duration::from_millis(20)),
                (Duration::from_millis(5), Duration::from_millis(40)),
            ]),
            lost_per_mille: rng.pick(&[0, 0, 0, 20]),
            commands_max: rng.pick(&[2, 16, 256]),
            fault_gap_us: rng.pick(&[300, 700, 1_500]) * MILLI,
            journal_us_max: rng.pick(&[5, 20, 400, 2_000]) * MILLI,
            doubled_per_mille: rng.pick(&[0, 50, 200]),
            garbled_per_mille: rng.pick(&[0, 30, 100]),
            wall: Wall::Steps,
        }
    }
}
