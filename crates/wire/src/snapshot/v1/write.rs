//! Rows into bytes.

use std::io::{self, Write};

use berth_proto::log::v1;
use berth_proto::log::v1::snapshot_record::Record;
use berth_state::Stored;
use prost::Message as _;

use super::{RECORD_BYTES_MAX, SCHEMA, SnapshotHeader, rows};

/// Bytes gathered before the sink is called.
const CHUNK_BYTES: usize = 128 << 10;

/// Writes a whole snapshot.
///
/// # Errors
/// Those of the sink; `InvalidData` for a row that no reader would take.
pub fn write_rows(
    header: &SnapshotHeader,
    stored: impl IntoIterator<Item = Stored>,
    sink: &mut dyn Write,
) -> io::Result<()> {
    let mut writer = RecordWriter { buffer: Vec::with_capacity(2 * CHUNK_BYTES), sink };
    writer.put(Record::Header(v1::SnapshotHeader {
        schema: SCHEMA,
        writer: header.writer.clone(),
        applied_index: header.applied_index,
    }))?;
    let mut count = 0;
    for row in stored {
        writer.put(rows::to_proto(&row))?;
        count += 1;
    }
    writer.put(Record::End(v1::SnapshotEnd { rows: count }))?;
    writer.flush()
}

struct RecordWriter<'a> {
    buffer: Vec<u8>,
    sink: &'a mut dyn Write,
}

impl RecordWriter<'_> {
    fn put(&mut self, record: Record) -> io::Result<()> {
        let record = v1::SnapshotRecord { record: Some(record) };
        let length = record.encoded_len();
        if length > RECORD_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a row has {length} bytes, at most {RECORD_BYTES_MAX} are allowed"),
            ));
        }
        record
            .encode_length_delimited(&mut self.buffer)
            .expect("a vector grows to whatever is put into it");
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.write_all(&self.buffer)?;
        self.buffer.clear();
        // One long row is no reason to hold its length for ever.
        self.buffer.shrink_to(2 * CHUNK_BYTES);
        Ok(())
    }
}
