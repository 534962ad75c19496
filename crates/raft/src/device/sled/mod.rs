//! The disk of a production node: the log in sled, the rest in plain files.
//!
//! `flush` of sled 0.34 does not survive a power cut (it never calls fsync,
//! upstream issues 1351 and 1452), so each flush is followed by `fdatasync`
//! on a handle of our own. What was not provably whole at the start is
//! refused: a node that lost acknowledged data must not vote.

mod codec;
mod guard;
mod load;
mod lock;
mod open;
mod pace;
mod salvage;
mod store;
mod verify;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub(crate) use guard::process_ms;
pub use load::panic_is_guarded;
pub use lock::{Lock, hold};
pub(crate) use open::list_snapshots as snapshots_of;
pub use pace::{SyncPace, measure_syncs};
pub(crate) use salvage::read_store;
pub use salvage::{Salvaged, newest_state};
pub use store::SledLog;
pub use verify::{Problem, owner, verify};

use super::high_water::HighWater;
use super::snapshots::FileSnapshots;
use super::{Device, Identity, OpenError, Opened, Place};
use crate::fatal::FatalCell;

/// Whether the data directory may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directory {
    /// Only at bootstrap or when joining: a directory that should be there
    /// and is not may be an unmounted disk.
    MayCreate,
    /// Every later start.
    MustExist,
}

/// Which file systems are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filesystem {
    /// Neither network nor memory file systems.
    LocalDisk,
    /// Memory file systems too, for trials whose data may vanish.
    LocalOrMemory,
}

/// Settings of a [`SledDevice`].
#[derive(Debug, Clone)]
pub struct SledOptions {
    /// The node's own directory.
    pub data_dir: PathBuf,
    /// Whether it may be made.
    pub directory: Directory,
    /// Where it may lie.
    pub filesystem: Filesystem,
    /// Free space below which submissions should be refused. Default 1 GiB.
    pub soft_limit_bytes: u64,
    /// Free space below which the node stops. Default 256 MiB.
    pub hard_limit_bytes: u64,
    /// Size of a file that a start on a full disk gives up, so that recovery
    /// has room. Default 64 MiB; 0 for none.
    pub ballast_bytes: u64,
    /// A flush that takes longer stops the node. Default 10 s.
    pub flush_limit: Duration,
}

impl SledOptions {
    /// The defaults for a directory.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, directory: Directory) -> Self {
        Self {
            data_dir: data_dir.into(),
            directory,
            filesystem: Filesystem::LocalDisk,
            soft_limit_bytes: 1 << 30,
            hard_limit_bytes: 256 << 20,
            ballast_bytes: 64 << 20,
            flush_limit: Duration::from_secs(10),
        }
    }
}

/// Log and snapshots in a directory.
#[derive(Debug, Clone)]
pub struct SledDevice {
    options: SledOptions,
}

impl SledDevice {
    /// Nothing is touched before `open`.
    #[must_use]
    pub fn new(options: SledOptions) -> Self {
        Self { options }
    }
}

impl Device for SledDevice {
    type Log = SledLog;
    type Snapshots = FileSnapshots;
    const PLACE: Place = Place::Threads;

    fn open(&self, identity: Identity, fatal: &FatalCell) -> Result<Opened<Self>, OpenError> {
        open::open(&self.options, identity, fatal)
    }
}

/// The high-water note, shared by the log's writer, which must write it
/// before a vote is answered, and the guard, which writes it once a second.
/// The lock guards note and file together, so that neither goes back.
pub(super) struct Keeper {
    folder: PathBuf,
    note: Mutex<Note>,
}

struct Note {
    current: HighWater,
    /// `None` while there is no file.
    written: Option<HighWater>,
}

impl Keeper {
    fn new(folder: PathBuf, current: HighWater, written: Option<HighWater>) -> Self {
        Self { folder, note: Mutex::new(Note { current, written }) }
    }

    /// Changes the note in memory; the store must already hold as much.
    fn update(&self, change: impl FnOnce(&mut HighWater)) {
        let mut note = self.note.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut note.current);
    }

    /// Brings the file up to date.
    fn write(&self) -> std::io::Result<()> {
        let mut note = self.note.lock().unwrap_or_else(PoisonError::into_inner);
        if note.written != Some(note.current) {
            note.current.write(&self.folder)?;
            note.written = Some(note.current);
        }
        Ok(())
    }
}

type SharedKeeper = Arc<Keeper>;
