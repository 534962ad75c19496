//! The lane journal `exits`: a ring of preallocated slots in the shim's directory, so that the record of a short
//! allocation costs one write and one fdatasync, with no metadata to flush. It never grows and never holds the only
//! copy of anything but the last [`SLOT_COUNT`] ends: a client retires an allocation only once it has its end.
//!
//! A slot is written whole and carries a CRC. A write torn by a power cut makes that slot unreadable, which means "no
//! record"; the slots of other allocations are other blocks of the file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::record::{self, ExitRecord, RECORD_BYTES_MAX, RecordError};

/// Name of the journal in a shim's directory.
pub const LANE_FILE: &str = "exits";
/// Ends kept; 32 slots of 8 KiB are 256 KiB per shim.
pub const SLOT_COUNT: usize = 32;

const JOURNAL_BYTES: usize = SLOT_COUNT * RECORD_BYTES_MAX;

/// The ends in a shim's lane journal, oldest first. Empty and torn slots are left out.
///
/// # Errors
/// [`RecordError::Missing`] if this shim never ran a lane, [`RecordError::Io`] if the file cannot be read.
pub fn read_lane_records(shim_dir: &Path) -> Result<Vec<ExitRecord>, RecordError> {
    let path = shim_dir.join(LANE_FILE);
    match File::open(&path).and_then(|file| read_slots(&file)) {
        Ok(records) => Ok(records),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(RecordError::Missing { path }),
        Err(source) => Err(RecordError::Io { path, source }),
    }
}

/// The writing side, held by the shim.
#[derive(Debug)]
pub(crate) struct LaneJournal {
    file: File,
    next_sequence: u64,
}

impl LaneJournal {
    /// Opens or makes the journal in `shim_dir`. A new one is filled with zeros and synced with its directory, so that
    /// later writes allocate nothing and cannot fail for want of space.
    pub(crate) fn open(shim_dir: &Path) -> io::Result<Self> {
        let path = shim_dir.join(LANE_FILE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let whole = u64::try_from(JOURNAL_BYTES).unwrap_or(u64::MAX);
        if file.metadata()?.len() != whole {
            // A shorter file is one whose preallocation was interrupted: nothing was ever recorded in it.
            file.set_len(0)?;
            let zeros = vec![0; RECORD_BYTES_MAX];
            for slot in 0..SLOT_COUNT {
                file.write_all_at(&zeros, slot_offset(slot))?;
            }
            file.sync_all()?;
            File::open(shim_dir)?.sync_all()?;
        }
        let last = read_slots(&file)?.last().map_or(0, |record| record.lane_sequence);
        Ok(Self { file, next_sequence: last + 1 })
    }

    /// Makes `record` durable in the next slot and sets its `lane_sequence`.
    pub(crate) fn append(&mut self, record: &mut ExitRecord) -> io::Result<()> {
        record.lane_sequence = self.next_sequence;
        let slot_count = u64::try_from(SLOT_COUNT).unwrap_or(u64::MAX);
        let slot = usize::try_from(self.next_sequence % slot_count)
            .expect("a remainder of SLOT_COUNT fits usize");
        self.file.write_all_at(&record::encode(record), slot_offset(slot))?;
        self.file.sync_data()?;
        self.next_sequence += 1;
        Ok(())
    }
}

fn slot_offset(slot: usize) -> u64 {
    u64::try_from(slot * RECORD_BYTES_MAX).unwrap_or(u64::MAX)
}

fn read_slots(file: &File) -> io::Result<Vec<ExitRecord>> {
    let mut bytes = Vec::new();
    let bound = u64::try_from(JOURNAL_BYTES).unwrap_or(u64::MAX);
    file.take(bound).read_to_end(&mut bytes)?;
    let mut records: Vec<ExitRecord> = bytes
        .chunks(RECORD_BYTES_MAX)
        .filter_map(|slot| record::decode(slot).ok())
        .map(|(record, _)| record)
        .collect();
    records.sort_by_key(|record| record.lane_sequence);
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(dir: &Path) -> Vec<String> {
        read_lane_records(dir).unwrap().into_iter().map(|record| record.allocation_id).collect()
    }

    #[test]
    fn the_ring_keeps_the_last_slots_across_reopening() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read_lane_records(dir.path()), Err(RecordError::Missing { .. })));
        let mut journal = LaneJournal::open(dir.path()).unwrap();
        for index in 0..SLOT_COUNT + 3 {
            if index == 10 {
                journal = LaneJournal::open(dir.path()).unwrap();
            }
            journal.append(&mut ExitRecord::of(&format!("1.main.{index}.1"))).unwrap();
        }
        let expected: Vec<String> =
            (3..SLOT_COUNT + 3).map(|index| format!("1.main.{index}.1")).collect();
        assert_eq!(ids(dir.path()), expected);
        let length = dir.path().join(LANE_FILE).metadata().unwrap().len();
        assert_eq!(usize::try_from(length).unwrap(), JOURNAL_BYTES);
    }

    #[test]
    fn a_torn_slot_is_no_record_and_hurts_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = LaneJournal::open(dir.path()).unwrap();
        for index in 1..=3 {
            journal.append(&mut ExitRecord::of(&format!("1.main.{index}.1"))).unwrap();
        }
        journal.file.write_all_at(&[0xff], slot_offset(2) + 20).unwrap();
        assert_eq!(ids(dir.path()), ["1.main.1.1", "1.main.3.1"]);
    }

    #[test]
    fn an_interrupted_preallocation_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LANE_FILE), [0; 100]).unwrap();
        LaneJournal::open(dir.path()).unwrap().append(&mut ExitRecord::of("1.main.0.1")).unwrap();
        assert_eq!(ids(dir.path()), ["1.main.0.1"]);
    }
}
