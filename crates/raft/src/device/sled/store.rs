//! Writes to sled. One owner, in order; nothing counts before `sync`.

use std::fs::File;
use std::io;
use std::sync::Arc;

use sled::{Batch, Db, Tree};

use super::SharedKeeper;
use super::codec::{encode_meta, encode_record, log_key};
use super::lock::Lock;
use crate::device::{LogDevice, Position, Record, VoteRecord, check_contiguous};

pub(super) const KEY_VOTE: &str = "vote";
pub(super) const KEY_COMMITTED: &str = "committed";
pub(super) const KEY_PURGED: &str = "purged";
pub(super) const KEY_IDENTITY: &str = "identity";

/// A batch takes sled's global write lock, so none is larger than this.
const BATCH_ENTRIES_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 1 << 20;
const REMOVE_BATCH_MAX: u64 = 500;

/// The log of a production node.
pub struct SledLog {
    pub(super) database: Db,
    pub(super) log: Tree,
    pub(super) meta: Tree,
    pub(super) data_file: File,
    pub(super) keeper: SharedKeeper,
    pub(super) vote: Option<VoteRecord>,
    pub(super) last: Option<Position>,
    pub(super) first: u64,
    /// Terms of the entries held, by index of their first entry: a truncation
    /// must know the term of the entry it ends on.
    pub(super) term_starts: Vec<Position>,
    pub(super) vote_changed: bool,
    pub(super) failed: bool,
    pub(super) _lock: Arc<Lock>,
}

fn storage(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        error @ (sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Corruption { .. }) => io::Error::other(error.to_string()),
    }
}

impl SledLog {
    fn put_meta<T: serde::Serialize>(&self, key: &str, content: &T) -> io::Result<()> {
        let value = encode_meta(key, content)?;
        self.meta.insert(key, value).map_err(storage)?;
        Ok(())
    }

    pub(super) fn note_terms(&mut self, records: &[Record]) {
        for record in records {
            if self.term_starts.last().is_none_or(|start| start.term != record.term) {
                self.term_starts.push(record.position());
            }
        }
    }

    fn position_of(&self, index: u64) -> Option<Position> {
        let start = self.term_starts.iter().rev().find(|start| start.index <= index)?;
        Some(Position { term: start.term, index })
    }

    fn flush(&self) -> io::Result<()> {
        self.database.flush().map_err(storage)?;
        self.data_file.sync_data()
    }

    /// Every write goes through here: after a failure nothing is tried again,
    /// since the state of the file is unknown then.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        if self.failed {
            return Err(io::Error::other("the store has failed before"));
        }
        self.failed = true;
        let done = work(self)?;
        self.failed = false;
        Ok(done)
    }

    fn remove(&self, indices: impl Iterator<Item = u64>) -> io::Result<()> {
        let mut batch = Batch::default();
        let mut count = 0;
        for index in indices {
            batch.remove(&log_key(index));
            count += 1;
            if count == REMOVE_BATCH_MAX {
                let full = std::mem::take(&mut batch);
                self.log.apply_batch(full).map_err(storage)?;
                count = 0;
            }
        }
        self.log.apply_batch(batch).map_err(storage)
    }

    /// Drops what an interrupted purge left below its mark.
    pub(super) fn finish_purge(&mut self, stale: &[u64]) -> io::Result<()> {
        if stale.is_empty() {
            return Ok(());
        }
        self.guarded(|log| {
            log.remove(stale.iter().copied())?;
            log.flush()
        })
    }

    fn append_batches(&self, records: &[Record]) -> io::Result<()> {
        let mut batch = Batch::default();
        let mut held = (0, 0);
        for record in records {
            batch.insert(&log_key(record.index), encode_record(record));
            held = (held.0 + 1, held.1 + record.body.len());
            if held.0 == BATCH_ENTRIES_MAX || held.1 >= BATCH_BYTES_MAX {
                let full = std::mem::take(&mut batch);
                self.log.apply_batch(full).map_err(storage)?;
                held = (0, 0);
            }
        }
        self.log.apply_batch(batch).map_err(storage)
    }

    pub(super) fn write_new(&mut self, identity: &crate::device::Identity) -> io::Result<()> {
        self.guarded(|log| {
            log.put_meta(KEY_IDENTITY, identity)?;
            log.flush()
        })
    }
}

impl LogDevice for SledLog {
    fn append(&mut self, records: &[Record]) -> io::Result<()> {
        check_contiguous(self.last, records)?;
        self.guarded(|log| {
            if let [record] = records {
                // A batch of one costs a note of its own in sled's log, and
                // with it a second write before every sync.
                let inserted = log.log.insert(log_key(record.index), encode_record(record));
                inserted.map_err(storage)?;
            } else {
                log.append_batches(records)?;
            }
            log.note_terms(records);
            log.last = records.last().map(Record::position).or(log.last);
            Ok(())
        })
    }

    fn truncate_after(&mut self, last_kept: Option<u64>) -> io::Result<()> {
        let Some(last) = self.last else {
            return Ok(());
        };
        let from = last_kept.map_or(0, |index| index.saturating_add(1)).max(self.first);
        if from > last.index {
            return Ok(());
        }
        self.guarded(|log| {
            let kept = from.checked_sub(1).and_then(|index| log.position_of(index));
            // The note must never promise more than the store holds, so it
            // goes down first.
            log.keeper.update(|note| note.last = kept.min(note.last));
            log.keeper.write()?;
            log.remove((from..=last.index).rev())?;
            log.term_starts.retain(|start| start.index < from);
            log.last = kept;
            Ok(())
        })
    }

    fn purge_to(&mut self, upto: Position) -> io::Result<()> {
        if upto.index < self.first {
            return Ok(());
        }
        self.guarded(|log| {
            log.put_meta(KEY_PURGED, &upto)?;
            // A log without entries has none to remove, however far it begins.
            if let Some(last) = log.last {
                log.remove(log.first..=last.index.min(upto.index))?;
            }
            log.first = upto.index + 1;
            let after = log.term_starts.partition_point(|start| start.index <= upto.index);
            // The purged position itself may be what a truncation ends on.
            let ended = after.saturating_sub(1);
            log.term_starts.drain(..ended);
            match log.term_starts.first_mut() {
                Some(start) if start.index <= upto.index => *start = upto,
                Some(_) | None => log.term_starts.insert(0, upto),
            }
            log.last = log.last.filter(|last| last.index > upto.index).or(Some(upto));
            Ok(())
        })
    }

    fn save_vote(&mut self, vote: VoteRecord) -> io::Result<()> {
        self.guarded(|log| {
            log.put_meta(KEY_VOTE, &vote)?;
            let said = log.vote.map(|vote| (vote.term, vote.node_id));
            log.vote_changed |= said != Some((vote.term, vote.node_id));
            log.vote = Some(vote);
            Ok(())
        })
    }

    fn save_committed(&mut self, committed: Position) -> io::Result<()> {
        self.guarded(|log| log.put_meta(KEY_COMMITTED, &committed))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.guarded(|log| {
            log.flush()?;
            let (vote, last) = (log.vote, log.last);
            log.keeper.update(|note| {
                *note = crate::device::high_water::HighWater::new(note.identity, vote, last);
            });
            if std::mem::take(&mut log.vote_changed) {
                log.keeper.write()?;
            }
            Ok(())
        })
    }
}

impl Drop for SledLog {
    fn drop(&mut self) {
        if self.failed {
            return;
        }
        let closed = self.sync().and_then(|()| self.keeper.write());
        if let Err(error) = closed {
            tracing::warn!(error = %error, "log store closed without a last sync");
        }
    }
}
