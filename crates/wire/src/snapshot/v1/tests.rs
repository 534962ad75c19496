pub(crate) mod fixture;

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::validate::INSTANCES_MAX;
use berth_model::{Attempt, JobId, RangeSet, StateMs, TaskIndex};
use berth_proto::log::v1;
use berth_proto::log::v1::snapshot_record::Record;
use berth_state::{Retry, Stored, TaskRow};
use bytes::BufMut as _;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::arbitrary;
use crate::frozen::DecodeError;

fn header() -> SnapshotHeader {
    SnapshotHeader { writer: "0.1.0".into(), applied_index: 99 }
}

fn written(rows: impl IntoIterator<Item = Stored>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_rows(&header(), rows, &mut bytes).unwrap();
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<Stored>, ReadError> {
    let mut reader = SnapshotReader::open(bytes)?;
    let rows = reader.rows().collect();
    reader.finish().map(|()| rows)
}

/// The records, one after the other, as a later version might write them.
fn records(records: impl IntoIterator<Item = Record>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        let record = v1::SnapshotRecord { record: Some(record) };
        record.encode_length_delimited(&mut bytes).unwrap();
    }
    bytes
}

fn head(schema: u32) -> Record {
    Record::Header(v1::SnapshotHeader { schema, writer: "7.1.0".into(), applied_index: 1 })
}

fn end(rows: u64) -> Record {
    Record::End(v1::SnapshotEnd { rows })
}

fn task_of(change: impl FnOnce(&mut v1::TaskRow)) -> Vec<u8> {
    let mut row = v1::TaskRow { job: 1, ..Default::default() };
    change(&mut row);
    records([head(1), Record::Task(row), end(1)])
}

proptest! {
    #[test]
    fn rows_survive_a_snapshot(rows in vec(arbitrary::rows::stored(), 0..6)) {
        let bytes = written(rows.clone());
        let reader = SnapshotReader::open(bytes.as_slice()).unwrap();
        prop_assert_eq!(reader.header(), &header());
        prop_assert_eq!(read(&bytes).unwrap(), rows);
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes);
        let mut after_header = written([]);
        after_header.truncate(after_header.len() - 3);
        after_header.extend(bytes);
        let _ = read(&after_header);
    }

    #[test]
    fn a_snapshot_that_is_cut_short_is_refused(
        rows in vec(arbitrary::rows::stored(), 0..3),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = written(rows);
        prop_assert!(read(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn damage_never_panics(
        rows in vec(arbitrary::rows::stored(), 1..3),
        position in any::<prop::sample::Index>(),
        bits in 1..=255u8,
    ) {
        let mut bytes = written(rows);
        let at = position.index(bytes.len());
        bytes[at] ^= bits;
        if let Ok(read_rows) = read(&bytes) {
            prop_assert_eq!(read(&written(read_rows.clone())).unwrap(), read_rows);
        }
    }
}

#[test]
fn version_1_is_read_and_written_as_it_was() {
    let now = arbitrary::to_hex(&written(fixture::rows()));
    assert_eq!(now, fixture::HEX, "the frozen encoding has changed; it would now be:\n{now}");
    assert_eq!(read(&arbitrary::from_hex(fixture::HEX)).unwrap(), fixture::rows());
}

#[test]
fn a_later_schema_stops_the_reader() {
    let check = |bytes: &[u8], expected_writer: &str| match read(bytes) {
        Err(ReadError::Decode { position: 0, source }) => {
            let writer = expected_writer.to_owned();
            assert_eq!(source, DecodeError::UnknownSchema { found: 2, known: 1, writer });
        }
        other => panic!("{other:?}"),
    };
    check(&records([head(2), end(0)]), "7.1.0");
    // Schema 2, in which field 2 of the header has become a number.
    check(&[6, 1 << 3 | 2, 4, 1 << 3, 2, 2 << 3, 5], "");
    // Schema 2, which has more fields in its header.
    check(&[7, 1 << 3 | 2, 5, 1 << 3, 2, 0xa0, 0x06, 5], "");
}

#[test]
fn what_is_not_known_or_not_a_row_stops_the_reader() {
    let decode_error = |bytes: &[u8]| match read(bytes) {
        Err(ReadError::Decode { position, source }) => (position, source),
        other => panic!("{other:?}"),
    };
    let writer = "7.1.0".to_owned();
    // A record of kind 900.
    let mut unknown = records([head(1)]);
    unknown.put_slice(&[3, 0xa2, 0x38, 0]);
    let field = "record".to_owned();
    let expected = DecodeError::UnknownKind { field, writer: writer.clone() };
    assert_eq!(decode_error(&unknown), (1, expected));
    // A row with a field 100.
    let mut unknown = records([head(1)]);
    unknown.put_slice(&[5, 5 << 3 | 2, 3, 0xa0, 0x06, 1]);
    let expected = DecodeError::UnknownFields { bytes: 3, writer: writer.clone() };
    assert_eq!(decode_error(&unknown), (1, expected));
    let state = v1::AllocationState { state: Some(v1::allocation_state::State::Stopping(99)) };
    let row = v1::AllocationRow {
        id: Some(v1::AllocationId::default()),
        spec_digest: vec![0; 32].into(),
        state: Some(state),
        ..Default::default()
    };
    let (position, source) = decode_error(&records([head(1), Record::Allocation(row), end(1)]));
    let field = "allocation.state.stopping".to_owned();
    assert_eq!((position, source), (1, DecodeError::UnknownValue { field, value: 99, writer }));
    let (position, source) = decode_error(&records([head(1), head(1), end(1)]));
    assert_eq!(position, 1);
    assert_eq!(source.to_string(), "is garbled: record: is no row");
    let (_, source) = decode_error(&records([head(1), Record::Job(v1::JobRow::default()), end(1)]));
    assert_eq!(source.to_string(), "is garbled: job.spec: is missing");
}

#[test]
fn header_end_and_count_must_be_right() {
    assert!(matches!(read(&[]), Err(ReadError::CutShort { position: 0 })));
    assert!(matches!(read(&records([end(0)])), Err(ReadError::NoHeader)));
    assert!(matches!(read(&records([head(0), end(0)])), Err(ReadError::NoHeader)));
    assert!(matches!(read(&records([head(1)])), Err(ReadError::CutShort { position: 1 })));
    assert!(matches!(
        read(&records([head(1), end(3)])),
        Err(ReadError::RowCount { found: 0, told: 3 })
    ));
    assert!(matches!(read(&records([head(1), end(0), end(0)])), Err(ReadError::Trailing)));
    assert_eq!(read(&records([head(1), end(0)])).unwrap(), []);
}

#[test]
fn finish_reads_what_nobody_asked_for() {
    let mut bytes = written(fixture::rows());
    let last = bytes.len() - 1;
    SnapshotReader::open(bytes.as_slice()).unwrap().finish().unwrap();
    // The count in the end record.
    bytes[last] ^= 1;
    let error = SnapshotReader::open(bytes.as_slice()).unwrap().finish().unwrap_err();
    assert!(matches!(error, ReadError::RowCount { .. }), "{error:?}");
}

#[test]
fn a_length_is_not_believed() {
    let after_header = |length: &[u8]| {
        let mut bytes = records([head(1)]);
        bytes.put_slice(length);
        read(&bytes)
    };
    let long = after_header(&[0xff, 0xff, 0xff, 0xff, 0x7f]);
    assert!(matches!(long, Err(ReadError::TooLong { position: 1, .. })), "{long:?}");
    // 32 MiB are claimed and two bytes are there.
    let short = after_header(&[0x80, 0x80, 0x80, 0x10, 1, 2]);
    assert!(matches!(short, Err(ReadError::CutShort { position: 1 })), "{short:?}");
    let endless = after_header(&[0xff; 20]);
    assert!(matches!(endless, Err(ReadError::Decode { position: 1, .. })), "{endless:?}");
}

#[test]
fn ranges_and_retries_must_ascend() {
    let check = |bytes: Vec<u8>, expected: &str| match read(&bytes) {
        Err(ReadError::Decode { position: 1, source }) => assert_eq!(source.to_string(), expected),
        other => panic!("{other:?}"),
    };
    let bad_ranges = [vec![1], vec![0, 0, 1, 0], vec![0, 0, 0, 0], vec![u32::MAX, 1]];
    for spans in bad_ranges {
        check(
            task_of(|row| row.pending = Some(v1::Ranges { spans })),
            "is garbled: task.pending: are not ranges in ascending order",
        );
    }
    let retries = |instances: &[u32], attempts: &[u32]| v1::Retries {
        instances: instances.to_vec(),
        attempts: attempts.to_vec(),
        failures: vec![0; instances.len()],
        not_before_state_ms: vec![0; instances.len()],
    };
    for instances in [[5, 0], [u32::MAX, 1]] {
        check(
            task_of(|row| row.retries = Some(retries(&instances, &[1, 1]))),
            "is garbled: task.retries: the instances do not ascend",
        );
    }
    check(
        task_of(|row| row.retries = Some(retries(&[1, 1], &[1]))),
        "is garbled: task.retries: the columns differ in length",
    );
}

/// The worst task that may be submitted: every instance in a range of its own,
/// tried before, with numbers that take the most bytes. A tenth of it is built,
/// since every instance takes as much as the next.
#[test]
fn the_largest_task_fits_a_record() {
    let mut row = TaskRow::default();
    let mut retries = BTreeMap::new();
    for instance in 0..INSTANCES_MAX / 10 {
        let set: &mut RangeSet = if instance % 2 == 0 { &mut row.pending } else { &mut row.failed };
        set.insert(instance);
        let not_before = StateMs(u64::from(instance % 2) << 63);
        let retry = Retry { attempt: Attempt(u32::MAX), failures: u32::MAX, not_before };
        retries.insert(instance, retry);
    }
    row.retries = retries;
    let bytes = written([Stored::Task(JobId(1), TaskIndex(0), Arc::new(row.clone()))]);
    assert!(bytes.len() * 10 < 26 << 20, "{} bytes", bytes.len());
    let rows = read(&bytes).unwrap();
    assert_eq!(rows, [Stored::Task(JobId(1), TaskIndex(0), Arc::new(row))]);
}

/// What a sink is handed and what a reader holds do not grow with the rows.
#[test]
fn memory_does_not_grow_with_the_state() {
    struct Widest(usize, usize);
    impl std::io::Write for Widest {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.max(bytes.len());
            self.1 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut sink = Widest(0, 0);
    let rows = fixture::rows();
    let many = (0..20_000).map(|position| rows[position % rows.len()].clone());
    write_rows(&header(), many, &mut sink).unwrap();
    assert!(sink.1 > 2 << 20, "{} bytes in all", sink.1);
    assert!(sink.0 < 256 << 10, "{} bytes at once", sink.0);
}

#[test]
fn an_error_of_the_sink_is_told() {
    let mut full: &mut [u8] = &mut [0; 10];
    let error = write_rows(&header(), fixture::rows(), &mut full).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WriteZero);
}
