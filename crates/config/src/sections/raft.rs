//! `[scheduler.raft]`: timers and snapshots of consensus.

use crate::kind::{COUNT, PROFILE, SIZE, TIMER};
use crate::reader::Reader;
use crate::source::Setting;

/// Which timers to run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaftProfile {
    /// The same as `Fast`: every scheduler must have the same timers, so none
    /// chooses by its own disk. One that measures a slow disk says so.
    Auto,
    /// For disks that sync within 10 ms.
    Fast,
    /// For disks that do not.
    SlowDisk,
}

impl RaftProfile {
    pub(crate) const ALL: [Self; 3] = [Self::Auto, Self::Fast, Self::SlowDisk];

    /// The word used in files.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fast => "fast",
            Self::SlowDisk => "slow-disk",
        }
    }
}

/// The three timers in force, in milliseconds; strictly increasing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftTimers {
    /// How often a leader calls.
    pub heartbeat_ms: u64,
    /// The least silence after which a follower stands for election.
    pub election_min_ms: u64,
    /// The longest such silence; each follower draws between the two.
    pub election_max_ms: u64,
}

impl RaftTimers {
    /// The timers of profile `fast`.
    pub const FAST: Self = Self { heartbeat_ms: 50, election_min_ms: 150, election_max_ms: 300 };
    /// The timers of profile `slow-disk`: an election must outlast the worst
    /// sync of a disk that others use too.
    pub const SLOW_DISK: Self =
        Self { heartbeat_ms: 150, election_min_ms: 750, election_max_ms: 1_500 };
}

/// `[scheduler.raft]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raft {
    /// Which timers apply where none is set below.
    pub profile: Setting<RaftProfile>,
    /// Milliseconds, 1 to 60,000; overrides the profile's.
    pub heartbeat: Option<Setting<u64>>,
    /// Milliseconds, 1 to 60,000; overrides the profile's.
    pub election_min: Option<Setting<u64>>,
    /// Milliseconds, 1 to 60,000; overrides the profile's.
    pub election_max: Option<Setting<u64>>,
    /// Bytes of log after which a snapshot is due, if the last one was smaller.
    pub snapshot_log_bytes: Setting<u64>,
    /// Log entries kept behind a snapshot for followers that lag a little.
    pub snapshot_keep_entries: Setting<u64>,
    /// Milliseconds that sending one piece of a snapshot may take.
    pub snapshot_timeout: Setting<u64>,
}

impl Raft {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            profile: reader.setting("scheduler.raft.profile", &PROFILE, RaftProfile::Auto),
            heartbeat: reader.optional("scheduler.raft.heartbeat", &TIMER),
            election_min: reader.optional("scheduler.raft.election_min", &TIMER),
            election_max: reader.optional("scheduler.raft.election_max", &TIMER),
            snapshot_log_bytes: reader.setting(
                "scheduler.raft.snapshot_log_bytes",
                &SIZE,
                64 << 20,
            ),
            snapshot_keep_entries: reader.setting(
                "scheduler.raft.snapshot_keep_entries",
                &COUNT,
                1_000,
            ),
            snapshot_timeout: reader.setting("scheduler.raft.snapshot_timeout", &TIMER, 10_000),
        }
    }

    /// The timers in force under `profile`, single settings coming first.
    #[must_use]
    pub fn timers(&self, profile: RaftProfile) -> RaftTimers {
        let base = match profile {
            RaftProfile::Auto | RaftProfile::Fast => RaftTimers::FAST,
            RaftProfile::SlowDisk => RaftTimers::SLOW_DISK,
        };
        let over = |setting: &Option<Setting<u64>>, base| {
            setting.as_ref().map_or(base, |setting| setting.value)
        };
        RaftTimers {
            heartbeat_ms: over(&self.heartbeat, base.heartbeat_ms),
            election_min_ms: over(&self.election_min, base.election_min_ms),
            election_max_ms: over(&self.election_max, base.election_max_ms),
        }
    }
}
