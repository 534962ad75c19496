//! Bytes into rows.

use std::io::{self, BufRead, BufReader, Read};

use berth_proto::log::v1;
use berth_proto::log::v1::snapshot_record::Record;
use berth_state::Stored;
use prost::Message as _;
use thiserror::Error;

use super::{RECORD_BYTES_MAX, SCHEMA, SnapshotHeader, rows};
use crate::frozen::{DecodeError, converted, nothing_passed_over};

/// Why a snapshot cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    #[error("read snapshot")]
    Io(#[from] io::Error),
    #[error("read record {position} of the snapshot")]
    Decode { position: u64, source: DecodeError },
    #[error("the snapshot does not begin with a header")]
    NoHeader,
    #[error(
        "record {position} of the snapshot has {found} bytes, at most {RECORD_BYTES_MAX} are allowed"
    )]
    TooLong { position: u64, found: u64 },
    #[error("the snapshot is cut short in record {position}")]
    CutShort { position: u64 },
    #[error("the snapshot has {found} rows, its end tells of {told}")]
    RowCount { found: u64, told: u64 },
    #[error("something follows the end of the snapshot")]
    Trailing,
}

/// Reads one record after the other. Holds no more of them than one.
pub struct SnapshotReader<R> {
    source: BufReader<R>,
    header: SnapshotHeader,
    buffer: Vec<u8>,
    /// Records read so far, the header among them.
    position: u64,
    state: State,
}

enum State {
    Rows,
    Ended,
    Failed(ReadError),
}

impl<R: Read> SnapshotReader<R> {
    /// Reads the header. `source` must end where the snapshot ends.
    ///
    /// # Errors
    /// No header, or one of a schema that this version does not know.
    pub fn open(source: R) -> Result<SnapshotReader<R>, ReadError> {
        let header = SnapshotHeader { writer: String::new(), applied_index: 0 };
        let mut reader = SnapshotReader {
            source: BufReader::with_capacity(128 << 10, source),
            header,
            buffer: Vec::new(),
            position: 0,
            state: State::Rows,
        };
        let record = reader.record();
        // A later schema may have a header that makes no other sense.
        if let Some(found) = schema_of(&reader.buffer).filter(|found| *found > SCHEMA) {
            let writer = match record {
                Ok(Record::Header(header)) => header.writer,
                Ok(_) | Err(_) => String::new(),
            };
            let source = DecodeError::UnknownSchema { found, known: SCHEMA, writer };
            return Err(ReadError::Decode { position: 0, source });
        }
        match record? {
            Record::Header(header) if header.schema == SCHEMA => {
                let v1::SnapshotHeader { schema: _, writer, applied_index } = header;
                reader.header = SnapshotHeader { writer, applied_index };
                Ok(reader)
            }
            Record::Header(_)
            | Record::End(_)
            | Record::Cluster(_)
            | Record::Job(_)
            | Record::Task(_)
            | Record::Allocation(_)
            | Record::Node(_)
            | Record::Key(_)
            | Record::Token(_)
            | Record::Revocation(_)
            | Record::Namespace(_)
            | Record::Average(_)
            | Record::NodeReservation(_) => Err(ReadError::NoHeader),
        }
    }

    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// The rows, up to the end or the first error. Whether all of them were
    /// there is known only from `finish`.
    pub fn rows(&mut self) -> impl Iterator<Item = Stored> + '_ {
        std::iter::from_fn(|| {
            if !matches!(self.state, State::Rows) {
                return None;
            }
            match self.next_row() {
                Ok(Some(row)) => Some(row),
                Ok(None) => {
                    self.state = State::Ended;
                    None
                }
                Err(error) => {
                    self.state = State::Failed(error);
                    None
                }
            }
        })
    }

    /// Whether `rows` gave every row that was written. Reads what is left of
    /// them.
    ///
    /// # Errors
    /// The error at which `rows` stopped, or why the end is not what it should
    /// be.
    pub fn finish(mut self) -> Result<(), ReadError> {
        self.rows().for_each(drop);
        match self.state {
            State::Rows | State::Ended => Ok(()),
            State::Failed(error) => Err(error),
        }
    }

    fn next_row(&mut self) -> Result<Option<Stored>, ReadError> {
        let position = self.position;
        let record = self.record()?;
        if let Record::End(v1::SnapshotEnd { rows: told }) = record {
            // All records so far but the header and this one.
            let found = position - 1;
            if told != found {
                return Err(ReadError::RowCount { found, told });
            }
            let more = !self.source.fill_buf()?.is_empty();
            return if more { Err(ReadError::Trailing) } else { Ok(None) };
        }
        converted(&self.header.writer, |at, problems| rows::read(at, record, problems))
            .map(Some)
            .map_err(|source| ReadError::Decode { position, source })
    }

    /// The next record; its bytes stay in the buffer.
    fn record(&mut self) -> Result<Record, ReadError> {
        let position = self.position;
        let length = self.length()?;
        if length > RECORD_BYTES_MAX as u64 {
            return Err(ReadError::TooLong { position, found: length });
        }
        self.buffer.clear();
        // Grows with what is there, not with what the length claims.
        let found = self.source.by_ref().take(length).read_to_end(&mut self.buffer)?;
        if (found as u64) < length {
            return Err(ReadError::CutShort { position });
        }
        self.position += 1;
        let failed = |source| ReadError::Decode { position, source };
        let proto = v1::SnapshotRecord::decode(self.buffer.as_slice())
            .map_err(|error| failed(DecodeError::Garbled(error)))?;
        let writer = &self.header.writer;
        if proto.record.is_none() {
            let (field, writer) = ("record".to_owned(), writer.clone());
            return Err(failed(DecodeError::UnknownKind { field, writer }));
        }
        nothing_passed_over(&proto, self.buffer.len(), writer).map_err(failed)?;
        proto.record.ok_or(ReadError::NoHeader)
    }

    /// A varint of at most ten bytes.
    fn length(&mut self) -> Result<u64, ReadError> {
        let position = self.position;
        let mut bytes = [0; 10];
        for end in 1..=bytes.len() {
            match self.source.read_exact(&mut bytes[end - 1..end]) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(ReadError::CutShort { position });
                }
                Err(error) => return Err(error.into()),
            }
            if bytes[end - 1] & 0x80 == 0 {
                break;
            }
        }
        prost::decode_length_delimiter(bytes.as_slice()).map(|length| length as u64).map_err(
            |error| {
                let source = DecodeError::Garbled(error);
                ReadError::Decode { position, source }
            },
        )
    }
}

/// The schema in a record that holds a header: the first field of the first
/// field.
fn schema_of(record: &[u8]) -> Option<u32> {
    const HEADER_KEY: u8 = 1 << 3 | 2;
    const SCHEMA_KEY: u8 = 1 << 3;
    let mut rest = record.strip_prefix(&[HEADER_KEY])?;
    prost::decode_length_delimiter(&mut rest).ok()?;
    let mut rest = rest.strip_prefix(&[SCHEMA_KEY])?;
    prost::decode_length_delimiter(&mut rest).ok().and_then(|schema| u32::try_from(schema).ok())
}
