//! A store as a file and back.

use berth_raft::device::memory::MemoryDevice;
use berth_raft::device::sled::{Directory, SledDevice};
use berth_raft::device::{Device, Identity, LogDevice, Opened, Position, Recovered, VoteRecord};
use berth_raft::{CarryError, FatalCell, check_carried, export_store, import_store};

use crate::model::{IDENTITY, open, options, record};

/// A store with a vote and with entries behind a purge, as a file.
fn exported() -> (Recovered, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open(folder.path());
    let log = &mut opened.log;
    log.save_vote(VoteRecord { term: 3, node_id: 2, committed: true }).unwrap();
    let records: Vec<_> = (0..700).map(|index| record(index, 3, 100)).collect();
    log.append(&records).unwrap();
    log.sync().unwrap();
    log.purge_to(Position { term: 3, index: 99 }).unwrap();
    log.save_committed(Position { term: 3, index: 650 }).unwrap();
    log.sync().unwrap();
    drop(opened);
    let mut file = Vec::new();
    let carried = export_store(folder.path(), &mut file).unwrap();
    assert_eq!((carried.entries, carried.snapshots), (600, 0));
    assert_eq!(carried.last, Some(Position { term: 3, index: 699 }));
    // It was not changed.
    (open(folder.path()).recovered, file)
}

#[test]
fn a_store_comes_back_from_its_file_on_either_device() {
    let (recovered, file) = exported();
    assert_eq!(check_carried(&mut &file[..]).unwrap().identity, IDENTITY);

    let folder = tempfile::tempdir().unwrap();
    let sled = SledDevice::new(options(folder.path(), Directory::MayCreate));
    import_store(&sled, IDENTITY, &mut &file[..]).unwrap();
    let Opened { recovered: found, .. } = open(folder.path());
    assert_eq!(found, recovered);

    let memory = MemoryDevice::new();
    import_store(&memory, IDENTITY, &mut &file[..]).unwrap();
    assert_eq!(memory.open(IDENTITY, &FatalCell::default()).unwrap().recovered, recovered);

    // Never over another, and never for another.
    let again = import_store(&memory, IDENTITY, &mut &file[..]);
    assert!(matches!(again, Err(CarryError::NotEmpty)), "{again:?}");
    let other = Identity { node_id: 9, ..IDENTITY };
    let wrong = import_store(&MemoryDevice::new(), other, &mut &file[..]).unwrap_err();
    assert_eq!(wrong.to_string(), "is the store of node 1, not of node 9, or of another cluster");
}

#[test]
fn a_damaged_file_is_refused_wherever_it_is_damaged() {
    let (_, file) = exported();
    for at in (0..file.len()).step_by(211).chain(0..40) {
        let mut bytes = file.clone();
        bytes[at] ^= 0x20;
        check_carried(&mut &bytes[..]).unwrap_err();
    }
    for length in (0..file.len()).step_by(301) {
        check_carried(&mut &file[..length]).unwrap_err();
    }
    let longer = [&file[..], b"x"].concat();
    check_carried(&mut &longer[..]).unwrap_err();
    let mut newer = file;
    newer[8] = 2;
    let refused = check_carried(&mut &newer[..]);
    assert!(matches!(refused, Err(CarryError::Version { found: 2 })), "{refused:?}");
}
