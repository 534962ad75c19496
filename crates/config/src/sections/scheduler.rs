//! `[scheduler]`

use std::path::PathBuf;

use super::Raft;
use crate::kind::{ADDRESS, COUNT, LISTEN, PATH, PERCENT, SIZE, SWITCH, TIMER, WAIT};
use crate::reader::Reader;
use crate::source::Setting;
use crate::units::Address;

/// `[scheduler]`: one scheduler node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduler {
    /// Where log, snapshots and identity are kept. Needed to start.
    pub data_dir: Option<Setting<PathBuf>>,
    /// gRPC for clients, agents and peers.
    pub listen: Setting<Address>,
    /// The address others reach `listen` by, where it differs.
    pub advertise: Option<Setting<Address>>,
    /// Health, metrics and dashboard.
    pub http: Setting<Address>,
    /// The gateway, which is off unless set.
    pub gateway: Option<Setting<Address>>,
    /// Certificate, key and authority.
    pub tls_dir: Option<Setting<PathBuf>>,
    /// Whether to talk to other machines without encryption, which listening
    /// beyond loopback without certificates needs.
    pub plain_text: Setting<bool>,
    /// Jobs that each namespace may submit in a second; 0 for no limit.
    pub submits_per_second: Setting<u64>,
    /// Form a new cluster. Excludes `join`.
    pub bootstrap: Setting<bool>,
    /// Schedulers of the cluster to join. Excludes `bootstrap`.
    pub join: Setting<Vec<Address>>,
    /// Join without a vote.
    pub learner: Setting<bool>,
    /// The file that holds the join token.
    pub join_token_file: Option<Setting<PathBuf>>,
    /// `[scheduler.raft]`
    pub raft: Raft,
    /// `[scheduler.disk]`
    pub disk: Disk,
    /// `[scheduler.lease]`
    pub lease: Lease,
    /// `[scheduler.guards]`
    pub guards: Guards,
    /// `[scheduler.backup]`
    pub backup: BackupCopies,
}

/// `[scheduler.guards]`: when a node takes nothing new because its host is short of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guards {
    /// Whether processors are watched.
    pub cpu: Setting<bool>,
    /// Percent in use above which a node is closed, and below which it opens again.
    pub cpu_high: Setting<u64>,
    pub cpu_low: Setting<u64>,
    /// Milliseconds over which the use of processors is averaged.
    pub window: Setting<u64>,
    /// Whether memory is watched.
    pub memory: Setting<bool>,
    /// As for processors; above it work also leaves the node.
    pub memory_high: Setting<u64>,
    pub memory_low: Setting<u64>,
}

/// `[scheduler.backup]`: copies of the cluster's state that are made by
/// themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupCopies {
    /// Where they go; none are made unless set.
    pub folder: Option<Setting<PathBuf>>,
    /// Milliseconds from one to the next.
    pub every: Setting<u64>,
    /// How many stay; at least 1.
    pub keep: Setting<u64>,
}

/// `[scheduler.disk]`: what to do as the data directory's disk fills up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Bytes free below which submissions are refused.
    pub soft_free: Setting<u64>,
    /// Bytes free below which the node leaves; below `soft_free`.
    pub hard_free: Setting<u64>,
    /// Bytes of the file that a restart on a full disk may delete.
    pub ballast: Setting<u64>,
    /// The data may lie in memory, where a reboot loses it.
    pub allow_memory: Setting<bool>,
}

/// `[scheduler.lease]`: when a silent agent counts as gone; increasing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Milliseconds between an agent's renewals.
    pub heartbeat: Setting<u64>,
    /// Milliseconds of silence after which a node gets nothing new.
    pub suspect_after: Setting<u64>,
    /// Milliseconds of silence after which its work may be replaced.
    pub lost_after: Setting<u64>,
}

impl Scheduler {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            data_dir: reader.optional("scheduler.data_dir", &PATH),
            listen: reader.setting("scheduler.listen", &LISTEN, loopback(7070)),
            advertise: reader.optional("scheduler.advertise", &ADDRESS),
            http: reader.setting("scheduler.http", &LISTEN, loopback(7071)),
            gateway: reader.optional("scheduler.gateway", &LISTEN),
            tls_dir: reader.optional("scheduler.tls_dir", &PATH),
            plain_text: reader.setting("scheduler.plain_text", &SWITCH, false),
            submits_per_second: reader.setting("scheduler.submits_per_second", &COUNT, 0),
            bootstrap: reader.setting("scheduler.bootstrap", &SWITCH, false),
            join: reader.list("scheduler.join", &ADDRESS, Vec::new()),
            learner: reader.setting("scheduler.learner", &SWITCH, false),
            join_token_file: reader.optional("scheduler.join_token_file", &PATH),
            raft: Raft::read(reader),
            disk: Disk {
                soft_free: reader.setting("scheduler.disk.soft_free", &SIZE, 1 << 30),
                hard_free: reader.setting("scheduler.disk.hard_free", &SIZE, 256 << 20),
                ballast: reader.setting("scheduler.disk.ballast", &SIZE, 64 << 20),
                allow_memory: reader.setting("scheduler.disk.allow_memory", &SWITCH, false),
            },
            lease: Lease {
                heartbeat: reader.setting("scheduler.lease.heartbeat", &TIMER, 2_000),
                suspect_after: reader.setting("scheduler.lease.suspect_after", &TIMER, 6_000),
                lost_after: reader.setting("scheduler.lease.lost_after", &TIMER, 10_000),
            },
            guards: Guards {
                cpu: reader.setting("scheduler.guards.cpu", &SWITCH, true),
                cpu_high: reader.setting("scheduler.guards.cpu_high", &PERCENT, 85),
                cpu_low: reader.setting("scheduler.guards.cpu_low", &PERCENT, 80),
                window: reader.setting("scheduler.guards.window", &TIMER, 10_000),
                memory: reader.setting("scheduler.guards.memory", &SWITCH, true),
                memory_high: reader.setting("scheduler.guards.memory_high", &PERCENT, 90),
                memory_low: reader.setting("scheduler.guards.memory_low", &PERCENT, 85),
            },
            backup: BackupCopies {
                folder: reader.optional("scheduler.backup.folder", &PATH),
                every: reader.setting("scheduler.backup.every", &WAIT, 300_000),
                keep: reader.setting("scheduler.backup.keep", &COUNT, 12),
            },
        }
    }
}

/// Nothing listens beyond this host unless somebody says so.
pub(super) fn loopback(port: u16) -> Address {
    Address { host: "127.0.0.1".to_owned(), port }
}
