//! Records in frames: a length, a check over this frame and all before it, and the record. So a
//! frame that is damaged, missing, doubled or of another file is told at once, and where.

use std::io::{self, Read, Write};

use berth_proto::log::v1;
use berth_proto::log::v1::capture_record::Record;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{CaptureError, FORMAT, MAGIC};
use crate::frozen::{DecodeError, nothing_passed_over};
use crate::snapshot::v1::RECORD_BYTES_MAX;

const CHECK_BYTES: usize = 16;
const LENGTH_BYTES: usize = 4;
const HEAD_BYTES: usize = MAGIC.len() + 2;

type Check = [u8; CHECK_BYTES];

/// Of a frame, after the check of the one before it.
fn check_of(before: &[u8], record: &[u8]) -> Check {
    let mut hasher = Sha256::new_with_prefix(before);
    hasher.update((record.len() as u64).to_le_bytes());
    hasher.update(record);
    let digest: [u8; 32] = hasher.finalize().into();
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&digest[..CHECK_BYTES]);
    check
}

fn head() -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..MAGIC.len()].copy_from_slice(&MAGIC);
    head[MAGIC.len()..].copy_from_slice(&FORMAT.to_le_bytes());
    head
}

/// Writes frames.
pub(super) struct FrameWriter<'a> {
    sink: &'a mut dyn Write,
    before: Vec<u8>,
    buffer: Vec<u8>,
}

impl<'a> FrameWriter<'a> {
    pub fn begin(sink: &'a mut dyn Write) -> io::Result<FrameWriter<'a>> {
        sink.write_all(&head())?;
        Ok(FrameWriter { sink, before: head().to_vec(), buffer: Vec::new() })
    }

    pub fn put(&mut self, record: Record) -> io::Result<()> {
        self.buffer.clear();
        let record = v1::CaptureRecord { record: Some(record) };
        let length = record.encoded_len();
        let prefix = u32::try_from(length).ok().filter(|_| length <= RECORD_BYTES_MAX);
        let Some(prefix) = prefix else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a record has {length} bytes, at most {RECORD_BYTES_MAX} are allowed"),
            ));
        };
        record.encode(&mut self.buffer).expect("a vector grows to whatever is put into it");
        let check = check_of(&self.before, &self.buffer);
        self.sink.write_all(&prefix.to_le_bytes())?;
        self.sink.write_all(&check)?;
        self.sink.write_all(&self.buffer)?;
        self.before = check.to_vec();
        Ok(())
    }
}

/// Reads frames; every record that it gives out is as it was written.
pub(super) struct FrameReader<R> {
    source: R,
    before: Vec<u8>,
    /// Of the record that is read next.
    pub record: u64,
    pub offset: u64,
}

impl<R: Read> FrameReader<R> {
    pub fn open(mut source: R) -> Result<FrameReader<R>, CaptureError> {
        let mut found = Vec::with_capacity(HEAD_BYTES);
        source.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut found)?;
        if !found.starts_with(&MAGIC) {
            return Err(CaptureError::NoCapture);
        }
        let [low, high] = found[MAGIC.len()..] else {
            return Err(CaptureError::CutShort { record: 0, offset: found.len() as u64 });
        };
        let format = u16::from_le_bytes([low, high]);
        if format != FORMAT {
            return Err(CaptureError::Format { found: format });
        }
        Ok(FrameReader { source, before: found, record: 0, offset: HEAD_BYTES as u64 })
    }

    /// The next record, with its number and where it begins. `writer` is who is named where a
    /// later version may know better.
    pub fn next(&mut self, writer: &str) -> Result<(Record, Place), CaptureError> {
        let place = Place { record: self.record, offset: self.offset };
        let length: [u8; LENGTH_BYTES] = self.exactly()?;
        let length = u32::from_le_bytes(length);
        if length as usize > RECORD_BYTES_MAX {
            return Err(place.damaged());
        }
        let check: Check = self.exactly()?;
        let mut bytes = Vec::new();
        // Grows with what is there, not with what the length claims.
        let read = self.source.by_ref().take(u64::from(length)).read_to_end(&mut bytes)?;
        self.offset += read as u64;
        if read < length as usize {
            return Err(self.cut_short());
        }
        if check_of(&self.before, &bytes) != check {
            return Err(place.damaged());
        }
        self.before = check.to_vec();
        self.record += 1;
        let decoded = v1::CaptureRecord::decode(bytes.as_slice())
            .map_err(|error| place.undecoded(DecodeError::Garbled(error)))?;
        nothing_passed_over(&decoded, bytes.len(), writer)
            .map_err(|source| place.undecoded(source))?;
        let unknown = || {
            let (field, writer) = ("record".to_owned(), writer.to_owned());
            place.undecoded(DecodeError::UnknownKind { field, writer })
        };
        Ok((decoded.record.ok_or_else(unknown)?, place))
    }

    /// Nothing may follow.
    pub fn finish(mut self) -> Result<(), CaptureError> {
        let mut more = [0; 1];
        match self.source.read(&mut more)? {
            0 => Ok(()),
            _ => Err(CaptureError::Trailing { offset: self.offset }),
        }
    }

    fn exactly<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], CaptureError> {
        let mut bytes = Vec::with_capacity(LENGTH);
        self.source.by_ref().take(LENGTH as u64).read_to_end(&mut bytes)?;
        self.offset += bytes.len() as u64;
        <[u8; LENGTH]>::try_from(bytes).map_err(|_| self.cut_short())
    }

    fn cut_short(&self) -> CaptureError {
        CaptureError::CutShort { record: self.record, offset: self.offset }
    }
}

/// Where a record stands.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub record: u64,
    pub offset: u64,
}

impl Place {
    fn damaged(self) -> CaptureError {
        CaptureError::Damaged { record: self.record, offset: self.offset }
    }

    pub fn undecoded(self, source: DecodeError) -> CaptureError {
        CaptureError::Record { record: self.record, offset: self.offset, source }
    }

    pub fn misplaced(self) -> CaptureError {
        CaptureError::Misplaced { record: self.record, offset: self.offset }
    }
}
