//! Settings of a node, and which of them are refused.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy as LibraryPolicy};

use crate::device::Identity;

/// How soon a silent leader is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// Time between heartbeats, and the deadline of each append, in
    /// milliseconds.
    pub heartbeat_ms: u64,
    /// Shortest silence before an election, in milliseconds.
    pub election_min_ms: u64,
    /// Longest one; also how long a leader believes in itself without hearing
    /// from a majority.
    pub election_max_ms: u64,
}

impl Timers {
    /// For disks whose `fdatasync` stays well below 10 ms.
    pub const DEFAULT: Self = Self { heartbeat_ms: 50, election_min_ms: 150, election_max_ms: 300 };
    /// For slower ones.
    pub const SLOW_DISK: Self =
        Self { heartbeat_ms: 150, election_min_ms: 750, election_max_ms: 1500 };
}

/// When to take a snapshot, and how much log to keep behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// A snapshot is taken when the log since the last one exceeds this many
    /// bytes and that snapshot's own size. Default 64 MiB.
    pub log_bytes_min: u64,
    /// Entries kept although a snapshot holds them, so that a follower a
    /// little behind needs none. Default 1000.
    pub entries_kept: u64,
}

impl SnapshotPolicy {
    /// The defaults.
    pub const DEFAULT: Self = Self { log_bytes_min: 64 << 20, entries_kept: 1000 };
}

/// Settings of a node.
#[derive(Debug, Clone)]
pub struct RaftOptions {
    /// Id of this node; never reused, not even after it was removed.
    pub node_id: u64,
    /// Id of the cluster.
    pub cluster_id: [u8; 16],
    /// Where peers reach this node.
    pub address: String,
    /// Timers; all nodes of a cluster have the same.
    pub timers: Timers,
    /// Snapshots.
    pub snapshots: SnapshotPolicy,
    /// How long a proposal or a read waits for a majority that does not
    /// answer before it is refused. Default 1 s.
    pub quorum_wait: Duration,
    /// How long a proposal waits at most while a majority does answer.
    /// Default 10 s.
    pub propose_wait_max: Duration,
    /// How long a change of members or a transfer may take. Default 30 s.
    pub membership_wait: Duration,
}

/// A setting that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error("heartbeat_ms is 0; give at least 1")]
    NoHeartbeat,
    #[error(
        "election_min_ms ({election_min_ms}) must be at least twice heartbeat_ms ({heartbeat_ms}): one lost heartbeat is no lost leader"
    )]
    ElectionTooShort { election_min_ms: u64, heartbeat_ms: u64 },
    #[error(
        "election_max_ms ({election_max_ms}) must exceed election_min_ms ({election_min_ms}): equal waits split every vote"
    )]
    ElectionSpan { election_min_ms: u64, election_max_ms: u64 },
    #[error("election_max_ms ({election_max_ms}) is above 60000; failover would take minutes")]
    ElectionTooLong { election_max_ms: u64 },
    #[error("log_bytes_min of snapshots is 0; give at least 1")]
    NoSnapshotThreshold,
    #[error("address is empty; peers could not reach this node")]
    NoAddress,
    #[error("the consensus library refuses the settings: {0}")]
    Library(String),
}

impl RaftOptions {
    /// The defaults for a node.
    #[must_use]
    pub fn new(node_id: u64, cluster_id: [u8; 16], address: impl Into<String>) -> Self {
        Self {
            node_id,
            cluster_id,
            address: address.into(),
            timers: Timers::DEFAULT,
            snapshots: SnapshotPolicy::DEFAULT,
            quorum_wait: Duration::from_secs(1),
            propose_wait_max: Duration::from_secs(10),
            membership_wait: Duration::from_secs(30),
        }
    }

    /// Whose data the device must hold.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { cluster_id: self.cluster_id, node_id: self.node_id }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is refused, and why.
    pub fn validate(&self) -> Result<(), OptionError> {
        self.library_config().map(drop)
    }

    pub(crate) fn library_config(&self) -> Result<Config, OptionError> {
        let Timers { heartbeat_ms, election_min_ms, election_max_ms } = self.timers;
        if heartbeat_ms == 0 {
            return Err(OptionError::NoHeartbeat);
        }
        if election_min_ms < heartbeat_ms.saturating_mul(2) {
            return Err(OptionError::ElectionTooShort { election_min_ms, heartbeat_ms });
        }
        if election_max_ms <= election_min_ms {
            return Err(OptionError::ElectionSpan { election_min_ms, election_max_ms });
        }
        if election_max_ms > 60_000 {
            return Err(OptionError::ElectionTooLong { election_max_ms });
        }
        if self.snapshots.log_bytes_min == 0 {
            return Err(OptionError::NoSnapshotThreshold);
        }
        if self.address.is_empty() {
            return Err(OptionError::NoAddress);
        }
        let config = Config {
            cluster_name: "berth".to_owned(),
            heartbeat_interval: heartbeat_ms,
            election_timeout_min: election_min_ms,
            election_timeout_max: election_max_ms,
            // With the default of 200 ms no snapshot of any size arrives.
            install_snapshot_timeout: 10_000,
            // 64 entries of 64 KiB stay below the transport's message limit.
            max_payload_entries: 64,
            snapshot_policy: LibraryPolicy::Never,
            // A learner this close counts as caught up.
            replication_lag_threshold: 100,
            max_in_snapshot_log_to_keep: self.snapshots.entries_kept,
            // Purges come in chunks, not one write per entry.
            purge_batch_size: 256,
            // Replication starts while the leader's own sync still runs.
            broadcast_submitted_on_append: Some(true),
            // An old leader that reaches a bridge node only must fall silent,
            // or the connected majority elects nobody. At least lease plus
            // longest election.
            quorum_loss_probe_interval: Some(election_max_ms.saturating_mul(2).max(3000)),
            // A node coming back from a partition deposes nobody.
            enable_pre_vote: Some(true),
            // On by default, it lets a restarted leader serve old state.
            enable_leader_restore: Some(false),
            allow_log_reversion: Some(false),
            backoff: "50ms 100ms 200ms ...1s".to_owned(),
            ..Config::default()
        };
        let validated = config.validate();
        validated.map_err(|error| OptionError::Library(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut RaftOptions)) -> Result<(), OptionError> {
        let mut options = RaftOptions::new(1, [1; 16], "127.0.0.1:1");
        change(&mut options);
        options.validate()
    }

    #[test]
    fn both_profiles_are_accepted() {
        assert_eq!(check(|_| {}), Ok(()));
        assert_eq!(check(|options| options.timers = Timers::SLOW_DISK), Ok(()));
    }

    #[test]
    fn each_bad_setting_is_named() {
        let zero = check(|options| options.timers.heartbeat_ms = 0);
        assert_eq!(zero, Err(OptionError::NoHeartbeat));
        let short = check(|options| options.timers.election_min_ms = 60);
        assert!(matches!(short, Err(OptionError::ElectionTooShort { .. })));
        let equal = check(|options| options.timers.election_max_ms = 150);
        assert!(matches!(equal, Err(OptionError::ElectionSpan { .. })));
        let long = check(|options| options.timers.election_max_ms = 60_001);
        assert!(matches!(long, Err(OptionError::ElectionTooLong { .. })));
        let never = check(|options| options.snapshots.log_bytes_min = 0);
        assert_eq!(never, Err(OptionError::NoSnapshotThreshold));
        let nowhere = check(|options| options.address.clear());
        assert_eq!(nowhere, Err(OptionError::NoAddress));
    }
}
