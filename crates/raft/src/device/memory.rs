//! A disk in memory for simulations: it loses what was not synced when it is
//! crashed, and fails when told to. It starts no thread and reads no clock.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::snapshots::{MemorySnapshots, SnapshotName};
use super::{
    Device, DiskHealth, Identity, LogDevice, OpenError, Opened, Place, Position, Record, Recovered,
    VoteRecord, check_contiguous, check_sequence,
};
use crate::fatal::FatalCell;

#[derive(Clone)]
enum Write {
    Append(Vec<Record>),
    Truncate(Option<u64>),
    Purge(Position),
    Vote(VoteRecord),
    Committed(Position),
}

#[derive(Clone, Default)]
struct Content {
    vote: Option<VoteRecord>,
    committed: Option<Position>,
    purged: Option<Position>,
    records: BTreeMap<u64, Record>,
}

impl Content {
    fn last(&self) -> Option<Position> {
        let last = self.records.last_key_value();
        last.map(|(_, record)| record.position()).or(self.purged)
    }

    fn apply(&mut self, write: Write) {
        match write {
            Write::Append(records) => {
                let records = records.into_iter().map(|record| (record.index, record));
                self.records.extend(records);
            }
            Write::Truncate(None) => self.records.clear(),
            Write::Truncate(Some(last_kept)) => {
                self.records.split_off(&(last_kept + 1));
            }
            Write::Purge(upto) => {
                self.purged = Some(upto);
                self.records = self.records.split_off(&(upto.index + 1));
            }
            Write::Vote(vote) => self.vote = Some(vote),
            Write::Committed(committed) => self.committed = Some(committed),
        }
    }
}

#[derive(Default)]
struct Inner {
    identity: Option<Identity>,
    synced: Content,
    current: Content,
    unsynced: Vec<Write>,
    generation: u64,
    latency: Duration,
    syncs_until_failure: Option<u64>,
    snapshots: MemorySnapshots,
}

/// The disk; clones share it, so that it outlives the node using it.
#[derive(Clone, Default)]
pub struct MemoryDevice(Arc<Mutex<Inner>>);

impl MemoryDevice {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the power: of the writes not yet synced the first `kept` survive,
    /// the rest is gone, and every handle opened before fails from now on.
    pub fn crash(&self, kept: usize) {
        let mut inner = self.lock();
        let writes = std::mem::take(&mut inner.unsynced);
        for write in writes.into_iter().take(kept) {
            inner.synced.apply(write);
        }
        inner.current = inner.synced.clone();
        inner.generation += 1;
        inner.syncs_until_failure = None;
    }

    /// How many writes wait for a sync.
    #[must_use]
    pub fn unsynced_count(&self) -> usize {
        self.lock().unsynced.len()
    }

    /// Makes each sync take this long.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Makes a sync fail after `count` more that succeed.
    pub fn fail_sync_after(&self, count: u64) {
        self.lock().syncs_until_failure = Some(count);
    }

    /// The snapshots on this disk, to look at or to damage.
    #[must_use]
    pub fn snapshot_names(&self) -> Vec<SnapshotName> {
        self.lock().snapshots.names()
    }
}

impl Device for MemoryDevice {
    type Log = MemoryLog;
    type Snapshots = MemorySnapshots;
    const PLACE: Place = Place::Inline;

    fn open(&self, identity: Identity, _: &FatalCell) -> Result<Opened<Self>, OpenError> {
        let mut inner = self.lock();
        let owner = *inner.identity.get_or_insert(identity);
        if owner != identity {
            return Err(OpenError::WrongNode {
                file: "memory".into(),
                found_node: owner.node_id,
                found_cluster: format!("{:02x?}", owner.cluster_id),
                node: identity.node_id,
                cluster: format!("{:02x?}", identity.cluster_id),
            });
        }
        let content = &inner.current;
        let recovered = Recovered {
            vote: content.vote,
            committed: content.committed,
            purged: content.purged,
            records: content.records.values().cloned().collect(),
        };
        check_sequence("memory".as_ref(), &recovered)?;
        inner.generation += 1;
        Ok(Opened {
            log: MemoryLog { disk: self.clone(), generation: inner.generation },
            recovered,
            snapshots: inner.snapshots.clone(),
            health: Arc::new(DiskHealth::default()),
            keep: Box::new(()),
        })
    }
}

/// The log of a [`MemoryDevice`], for one life of a node.
pub struct MemoryLog {
    disk: MemoryDevice,
    generation: u64,
}

impl MemoryLog {
    fn write(&self, write: Write) -> io::Result<()> {
        let mut inner = self.disk.lock();
        self.check_alive(&inner)?;
        if let Write::Append(records) = &write {
            check_contiguous(inner.current.last(), records)?;
        }
        inner.current.apply(write.clone());
        inner.unsynced.push(write);
        Ok(())
    }

    fn check_alive(&self, inner: &Inner) -> io::Result<()> {
        if inner.generation == self.generation {
            Ok(())
        } else {
            Err(io::Error::other("the disk was crashed or opened again"))
        }
    }
}

impl LogDevice for MemoryLog {
    fn append(&mut self, records: &[Record]) -> io::Result<()> {
        self.write(Write::Append(records.to_vec()))
    }

    fn truncate_after(&mut self, last_kept: Option<u64>) -> io::Result<()> {
        self.write(Write::Truncate(last_kept))
    }

    fn purge_to(&mut self, upto: Position) -> io::Result<()> {
        self.write(Write::Purge(upto))
    }

    fn save_vote(&mut self, vote: VoteRecord) -> io::Result<()> {
        self.write(Write::Vote(vote))
    }

    fn save_committed(&mut self, committed: Position) -> io::Result<()> {
        self.write(Write::Committed(committed))
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut inner = self.disk.lock();
        self.check_alive(&inner)?;
        match &mut inner.syncs_until_failure {
            Some(0) => return Err(io::Error::other("injected failure of a sync")),
            Some(left) => *left -= 1,
            None => {}
        }
        for write in std::mem::take(&mut inner.unsynced) {
            inner.synced.apply(write);
        }
        Ok(())
    }

    fn latency(&self) -> Duration {
        self.disk.lock().latency
    }
}
