//! What a scheduler is started with.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use berth_raft::Timers;
use berth_reconcile::{GuardRules, LivenessRules};
use berth_state::Seat;

use crate::copies::CopyOptions;

/// Everything that a scheduler needs to know to start.
#[derive(Clone, Debug)]
pub struct SchedulerOptions {
    pub data_dir: PathBuf,
    /// gRPC, for clients, agents and peers.
    pub listen: SocketAddr,
    /// What the others dial; the listen address unless given.
    pub advertise: String,
    /// Health and metrics.
    pub http: SocketAddr,
    pub formation: Formation,
    pub timers: Timers,
    pub liveness: LivenessRules,
    /// When a node takes nothing new because its host is short of something.
    pub guards: GuardRules,
    /// Jobs that each namespace may submit in a second; none: as many as there is
    /// room for.
    pub submits_per_second: Option<NonZeroU32>,
    /// Log bytes after which a snapshot is taken.
    pub snapshot_log_bytes: u64,
    /// Free bytes under which submits are refused.
    pub disk_soft_bytes: u64,
    /// Free bytes under which the node stops.
    pub disk_hard_bytes: u64,
    pub disk_ballast_bytes: u64,
    /// Scheduled copies of the state, if any.
    pub copies: Option<CopyOptions>,
    /// How this scheduler is reached.
    pub transport: Transport,
    /// Allows a data directory in memory, for trials.
    pub memory_disk: MemoryDisk,
}

/// How this node comes into its cluster. A node that has data comes back as
/// what it was, whatever this says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Formation {
    /// Found a new cluster.
    Bootstrap,
    /// Join through any of these schedulers; with a token, if they speak TLS.
    Join { servers: Vec<String>, seat: Seat, token_file: Option<PathBuf> },
    /// Only come back.
    Existing,
}

/// How a scheduler is reached, and reaches others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Plain text within this machine, and nobody is asked who they are.
    PlainTextOnLoopback,
    /// The same between machines: whoever can reach the scheduler can do
    /// anything.
    PlainTextAnywhere,
    /// Mutual TLS, with the credentials in this folder.
    Tls(PathBuf),
}

/// Whether a file system without a disk under it will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryDisk {
    Refused,
    Allowed,
}
