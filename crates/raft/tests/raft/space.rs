//! What was purged gives its space back.

use berth_raft::FatalCell;
use berth_raft::device::sled::{Directory, SledDevice};
use berth_raft::device::{Device, LogDevice, Position};

use crate::model::{IDENTITY, options, record};

/// Bytes of entries written altogether. sled takes about four bytes for each,
/// and stays at 80 to 112 MiB however many follow (520,000 tried, November 2026).
const WRITTEN: u64 = 160 << 20;
const ENTRY_BYTES: usize = 1000;
const BATCH: u64 = 200;
/// Entries kept, as a snapshot leaves them.
const KEPT: u64 = 1000;
const PURGE_EVERY: u64 = 20_000;
/// Four times the longest log, and 128 MiB.
const BOUND: u64 = 4 * (PURGE_EVERY + KEPT) * ENTRY_BYTES as u64 + (128 << 20);

#[test]
fn a_log_that_is_purged_stays_small() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("data");
    let device = SledDevice::new(options(&place, Directory::MayCreate));
    let mut opened = device.open(IDENTITY, &FatalCell::default()).unwrap();
    let mut largest = 0;
    let mut index = 0;
    while index * (ENTRY_BYTES as u64) < WRITTEN {
        let records: Vec<_> =
            (index..index + BATCH).map(|index| record(index, 2, ENTRY_BYTES)).collect();
        opened.log.append(&records).unwrap();
        index += BATCH;
        if index.is_multiple_of(PURGE_EVERY) {
            opened.log.purge_to(Position { term: 2, index: index - KEPT }).unwrap();
            opened.log.sync().unwrap();
            largest = largest.max(std::fs::metadata(place.join("log/db")).unwrap().len());
        }
    }
    assert!(largest <= BOUND, "{largest} bytes for a log of at most {BOUND}");
}
