//! The devices against a plain map: whatever is written in whatever order,
//! with the device opened again in between, is what is read back.

use std::collections::BTreeMap;

use berth_raft::FatalCell;
use berth_raft::device::memory::MemoryDevice;
use berth_raft::device::sled::{Directory, Filesystem, SledDevice, SledOptions};
use berth_raft::device::{Device, Identity, LogDevice, Opened, Position, Record, VoteRecord};
use proptest::prelude::*;

pub const IDENTITY: Identity = Identity { cluster_id: [9; 16], node_id: 1 };

/// Options that accept any test machine: small limits, no ballast.
pub fn options(folder: &std::path::Path, directory: Directory) -> SledOptions {
    let mut options = SledOptions::new(folder, directory);
    options.filesystem = Filesystem::LocalOrMemory;
    options.soft_limit_bytes = 0;
    options.hard_limit_bytes = 0;
    options.ballast_bytes = 0;
    options
}

pub fn open(folder: &std::path::Path) -> Opened<SledDevice> {
    SledDevice::new(options(folder, Directory::MayCreate))
        .open(IDENTITY, &FatalCell::default())
        .unwrap()
}

pub fn record(index: u64, term: u64, bytes: usize) -> Record {
    let fill = u8::try_from(index % 251).unwrap();
    Record { index, term, kind: 1, body: vec![fill; bytes].into() }
}

#[derive(Debug, Clone)]
enum Step {
    Append { count: u64, bytes: usize },
    Truncate { back: u64 },
    Purge { forward: u64 },
    Vote,
    Committed,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..40, prop_oneof![Just(0), 1_usize..400, Just(60_000)])
            .prop_map(|(count, bytes)| Step::Append { count, bytes }),
        2 => (0_u64..30).prop_map(|back| Step::Truncate { back }),
        2 => (0_u64..40).prop_map(|forward| Step::Purge { forward }),
        1 => Just(Step::Vote),
        1 => Just(Step::Committed),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Default)]
struct Model {
    records: BTreeMap<u64, Record>,
    purged: Option<Position>,
    vote: Option<VoteRecord>,
    committed: Option<Position>,
    term: u64,
}

impl Model {
    fn last(&self) -> Option<Position> {
        let last = self.records.last_key_value();
        last.map(|(_, record)| record.position()).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    fn append(&mut self, log: &mut impl LogDevice, count: u64, bytes: usize) {
        let from = self.next();
        let term = self.term;
        let records: Vec<_> =
            (from..from + count).map(|index| record(index, term, bytes)).collect();
        log.append(&records).unwrap();
        self.records.extend(records.into_iter().map(|record| (record.index, record)));
        // A hole is always refused and changes nothing.
        assert!(log.append(&[record(self.next() + 1, term, 0)]).is_err());
    }

    fn truncate(&mut self, log: &mut impl LogDevice, back: u64) {
        let first = self.purged.map_or(0, |purged| purged.index + 1);
        let kept = self.next().saturating_sub(back).max(first);
        log.truncate_after(kept.checked_sub(1)).unwrap();
        self.records.split_off(&kept);
        // What follows is of a newer leader.
        self.term += 1;
    }

    fn purge(&mut self, log: &mut impl LogDevice, forward: u64) {
        let first = self.purged.map_or(0, |purged| purged.index + 1);
        let index = first + forward;
        // Beyond the end, as after installing a snapshot, the position is of
        // the newest term.
        let term = self.records.get(&index).map_or(self.term, |r| r.term);
        let upto = Position { term, index };
        log.purge_to(upto).unwrap();
        self.purged = Some(upto);
        self.records = self.records.split_off(&(index + 1));
    }
}

fn check<D: Device>(device: &D, steps: &[Step]) {
    let fatal = FatalCell::default();
    let mut opened = device.open(IDENTITY, &fatal).unwrap();
    let mut model = Model { term: 1, ..Model::default() };
    for step in steps.iter().chain([&Step::Reopen]) {
        let log = &mut opened.log;
        match step {
            Step::Append { count, bytes } => model.append(log, *count, *bytes),
            Step::Truncate { back } => model.truncate(log, *back),
            Step::Purge { forward } => model.purge(log, *forward),
            Step::Vote => {
                model.term += 1;
                let vote = VoteRecord {
                    term: model.term,
                    node_id: model.term % 3,
                    committed: model.term.is_multiple_of(2),
                };
                log.save_vote(vote).unwrap();
                model.vote = Some(vote);
            }
            Step::Committed => {
                if let Some(last) = model.last() {
                    log.save_committed(last).unwrap();
                    model.committed = Some(last);
                }
            }
            Step::Reopen => {
                log.sync().unwrap();
                drop(opened);
                opened = device.open(IDENTITY, &fatal).unwrap();
                let found = &opened.recovered;
                let expected: Vec<_> = model.records.values().cloned().collect();
                assert_eq!(found.records, expected);
                assert_eq!(found.purged, model.purged);
                assert_eq!(found.vote, model.vote);
                assert_eq!(found.committed, model.committed);
            }
        }
    }
    assert_eq!(fatal.get(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sled_device_is_the_map(steps in prop::collection::vec(step(), 1..24)) {
        let folder = tempfile::tempdir().unwrap();
        let device = SledDevice::new(options(folder.path(), Directory::MayCreate));
        check(&device, &steps);
        let problems = berth_raft::device::sled::verify(folder.path()).unwrap();
        // A purge without a snapshot is the model's liberty, not a node's.
        let others = problems.iter().filter(|problem| !problem.what.contains("snapshot"));
        assert_eq!(others.count(), 0, "{problems:?}");
    }

    #[test]
    fn memory_device_is_the_map(steps in prop::collection::vec(step(), 1..60)) {
        check(&MemoryDevice::new(), &steps);
    }
}

#[test]
fn memory_device_loses_exactly_what_was_not_synced() {
    let device = MemoryDevice::new();
    let fatal = FatalCell::default();
    let mut log = device.open(IDENTITY, &fatal).unwrap().log;
    log.append(&[record(0, 1, 4)]).unwrap();
    log.sync().unwrap();
    log.append(&[record(1, 1, 4)]).unwrap();
    log.append(&[record(2, 1, 4)]).unwrap();
    assert_eq!(device.unsynced_count(), 2);
    device.crash(1);
    assert!(log.append(&[record(3, 1, 4)]).is_err(), "handle of a former life");
    let records = device.open(IDENTITY, &fatal).unwrap().recovered.records;
    assert_eq!(records, vec![record(0, 1, 4), record(1, 1, 4)]);
}

/// A leader that could not read all of its log sent what it had, and a follower
/// of another implementation kept the hole. Here the log is read from memory,
/// where reading cannot fail, and no device takes a record that does not follow.
#[test]
fn f15_no_device_takes_a_hole() {
    fn check<D: Device>(open: impl Fn() -> Opened<D>) {
        let records: Vec<_> = (0..5).map(|index| record(index, 1, 20)).collect();
        let mut opened = open();
        opened.log.append(&records).unwrap();
        opened.log.sync().unwrap();
        for bad in [vec![record(6, 1, 20)], vec![record(5, 1, 20), record(7, 1, 20)]] {
            let refused = opened.log.append(&bad).unwrap_err().to_string();
            assert!(refused.contains("where"), "{refused}");
        }
        drop(opened);
        assert_eq!(open().recovered.records, records);
    }
    let disk = MemoryDevice::new();
    check(|| disk.open(IDENTITY, &FatalCell::default()).unwrap());
    let folder = tempfile::tempdir().unwrap();
    check(|| open(folder.path()));
}
