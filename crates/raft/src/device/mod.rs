//! Where the log and the snapshots lie. The traits exist because there are
//! two disks: sled in production, and one in memory which a simulation can
//! crash and make fail. A device knows bytes, never the consensus library.

mod high_water;
pub mod memory;
pub mod sled;
pub mod snapshots;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::fatal::FatalCell;

/// Where in the log something stands. Ordered as Raft orders logs: by term,
/// then by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Term of the leader that wrote the entry.
    pub term: u64,
    /// Index of the entry; the first one has index 0.
    pub index: u64,
}

/// One log entry as the device sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Index in the log.
    pub index: u64,
    /// Term of the leader that wrote it.
    pub term: u64,
    /// What the body is; the device keeps it and does not look inside.
    pub kind: u8,
    /// The encoded entry.
    pub body: Bytes,
}

impl Record {
    /// Where the record stands.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { term: self.term, index: self.index }
    }
}

/// Whom this node voted for in which term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteRecord {
    /// The term voted in.
    pub term: u64,
    /// The candidate.
    pub node_id: u64,
    /// Whether a quorum granted it, so that the candidate leads.
    pub committed: bool,
}

/// Whose data this is; a device refuses the data of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster's id.
    pub cluster_id: [u8; 16],
    /// The node's id within the cluster.
    pub node_id: u64,
}

/// Everything a device held when it was opened, already checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The last vote saved.
    pub vote: Option<VoteRecord>,
    /// The last committed position saved; it may lag what was committed.
    pub committed: Option<Position>,
    /// Everything up to here was purged.
    pub purged: Option<Position>,
    /// The log after `purged`, without holes, terms never falling.
    pub records: Vec<Record>,
}

impl Recovered {
    /// Where the log ends, purged entries included.
    #[must_use]
    pub fn last(&self) -> Option<Position> {
        self.records.last().map(Record::position).or(self.purged)
    }
}

/// Writes of one node's log, in one ordered stream. Nothing counts before
/// `sync` returned; after any error the device is never used again.
///
/// # Errors
/// Every method: the storage failed, or the caller broke the order (`append`
/// leaves no hole, `purge_to` never goes back).
pub trait LogDevice: Send + 'static {
    /// Adds entries after the last one.
    fn append(&mut self, records: &[Record]) -> io::Result<()>;
    /// Removes what follows `last_kept`, from the tail; `None` removes all.
    fn truncate_after(&mut self, last_kept: Option<u64>) -> io::Result<()>;
    /// Removes everything up to and including `upto`.
    fn purge_to(&mut self, upto: Position) -> io::Result<()>;
    /// Replaces the vote.
    fn save_vote(&mut self, vote: VoteRecord) -> io::Result<()>;
    /// Notes how far the log is committed; the next `sync` carries it along.
    fn save_committed(&mut self, committed: Position) -> io::Result<()>;
    /// Makes everything written so far survive a power cut.
    fn sync(&mut self) -> io::Result<()>;
    /// How long a simulated disk takes for the next `sync`.
    fn latency(&self) -> Duration {
        Duration::ZERO
    }
}

/// Where blocking work of a device runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Log writes on one thread of their own, snapshot work on the runtime's
    /// threads for blocking work.
    Threads,
    /// On the runtime itself: simulated runtimes have no other place.
    Inline,
}

/// A disk for one node: opened once per start.
pub trait Device: Send + Sync + 'static {
    /// Its log.
    type Log: LogDevice;
    /// Its snapshots.
    type Snapshots: snapshots::SnapshotStore;
    /// Where its blocking work runs.
    const PLACE: Place;

    /// Opens or creates, and reads back everything.
    ///
    /// # Errors
    /// Refuses whatever is not provably the whole of what this node had.
    fn open(&self, identity: Identity, fatal: &FatalCell) -> Result<Opened<Self>, OpenError>;
}

/// An opened device.
pub struct Opened<D: Device + ?Sized> {
    /// For the writer alone.
    pub log: D::Log,
    /// What the log held.
    pub recovered: Recovered,
    /// The snapshot files.
    pub snapshots: D::Snapshots,
    /// What the disk's guard sees; shared with the application.
    pub health: Arc<DiskHealth>,
    /// Keeps locks and threads for as long as the node runs.
    pub keep: Box<dyn Send + Sync>,
}

/// What the guard of the disk last saw.
#[derive(Debug, Default)]
pub struct DiskHealth {
    low: std::sync::atomic::AtomicBool,
    free_bytes: std::sync::atomic::AtomicU64,
    busy_since_ms: std::sync::atomic::AtomicU64,
}

impl DiskHealth {
    /// Whether free space fell below the soft limit: submissions should be
    /// refused, everything that frees capacity still accepted.
    #[must_use]
    pub fn is_low(&self) -> bool {
        self.low.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Free bytes at the last look; 0 before the first one.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.free_bytes.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn set_space(&self, free_bytes: u64, soft_limit_bytes: u64) {
        let order = std::sync::atomic::Ordering::Relaxed;
        self.free_bytes.store(free_bytes, order);
        self.low.store(free_bytes < soft_limit_bytes, order);
    }

    /// Milliseconds on the process's own clock at which the write under way
    /// began, 0 for none.
    pub(crate) fn busy_since_ms(&self) -> u64 {
        self.busy_since_ms.load(std::sync::atomic::Ordering::Acquire)
    }

    pub(crate) fn set_busy_since_ms(&self, value: u64) {
        self.busy_since_ms.store(value, std::sync::atomic::Ordering::Release);
    }
}

/// Why a device was not opened. The text of each variant ends in the way out.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing is there and nothing may be made there.
    #[error(
        "data directory {path} is missing or empty; was it unmounted? mount it, or join as a new node under a new id"
    )]
    Missing { path: PathBuf },
    /// Another process holds it.
    #[error("data directory {path} is in use by pid {pid} since {since}; stop that process first")]
    InUse { path: PathBuf, pid: String, since: String },
    /// Another node's data.
    #[error(
        "{file} belongs to node {found_node} of cluster {found_cluster}, this is node {node} of cluster {cluster}; point data_dir at this node's own directory"
    )]
    WrongNode { file: PathBuf, found_node: u64, found_cluster: String, node: u64, cluster: String },
    /// A format of another version.
    #[error("{file} has format {found}, this build reads {known}; run the build that wrote it")]
    Version { file: PathBuf, found: u32, known: u32 },
    /// The file system cannot keep promises.
    #[error(
        "{path} lies on {filesystem}, which cannot keep a log safe; use a local disk file system"
    )]
    Filesystem { path: PathBuf, filesystem: String },
    /// The disk is too full to recover.
    #[error(
        "{path} has {free_bytes} bytes free, fewer than {needed_bytes}; free space on this disk, then start again"
    )]
    Full { path: PathBuf, free_bytes: u64, needed_bytes: u64 },
    /// Something that was there is damaged or gone.
    #[error("{file}: {what}{}; this node must not vote from it: move the directory away, remove node from the cluster and join again under a new id (or restore the directory whole)", .index.map(|index| format!(" at index {index}")).unwrap_or_default())]
    Damaged { file: PathBuf, index: Option<u64>, what: String },
    /// The operating system refused.
    #[error("{action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl OpenError {
    pub(crate) fn damaged(
        file: impl Into<PathBuf>,
        index: Option<u64>,
        what: impl Into<String>,
    ) -> Self {
        Self::Damaged { file: file.into(), index, what: what.into() }
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// Refuses a log with holes or falling terms, naming the first bad index.
pub(crate) fn check_sequence(
    file: &std::path::Path,
    recovered: &Recovered,
) -> Result<(), OpenError> {
    let mut before = recovered.purged;
    let first = recovered.purged.map_or(0, |purged| purged.index + 1);
    for (next, record) in (first..).zip(&recovered.records) {
        if record.index != next {
            let what = format!("log entry {next} is missing, {} follows", record.index);
            return Err(OpenError::damaged(file, Some(next), what));
        }
        if before.is_some_and(|before| record.term < before.term) {
            return Err(OpenError::damaged(file, Some(record.index), "term falls"));
        }
        before = Some(record.position());
    }
    Ok(())
}

/// The error of an append that would leave a hole.
pub(crate) fn check_contiguous(last: Option<Position>, records: &[Record]) -> io::Result<()> {
    let first = last.map_or(0, |last| last.index + 1);
    for (next, record) in (first..).zip(records) {
        if record.index != next {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("append of entry {} where {next} is next", record.index),
            ));
        }
    }
    Ok(())
}
