//! What stands in a snapshot file: a header naming cluster and position, the
//! application's body, and a checksum over all of it. The same bytes travel
//! to a peer; nothing in them depends on the node that wrote them.

use std::io::{self, Read, Write};

use crate::app::App;
use crate::device::snapshots::{SnapshotName, SnapshotSink, SnapshotStore};
use crate::types::SnapshotMeta;

const MAGIC: [u8; 8] = *b"BERTHSNP";
const VERSION: u16 = 1;
/// Magic, version, cluster id, length of the meta data.
const HEADER_BYTES: usize = 8 + 2 + 16 + 4;
/// The checksum alone; the length is the file's.
const TRAILER_BYTES: u64 = 4;
/// Membership of a cluster; far more than any has.
const META_BYTES_MAX: u32 = 1 << 20;

/// A snapshot that lies in the store, or one that waits to be put there.
pub struct SnapshotData {
    pub(crate) name: SnapshotName,
    pub(crate) staged: Option<Box<dyn SnapshotSink>>,
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

pub(crate) fn name_of(meta: &SnapshotMeta) -> io::Result<SnapshotName> {
    let last = meta.last_log_id.ok_or_else(|| invalid("snapshot of no entry"))?;
    Ok(SnapshotName { index: last.index, term: *last.leader_id })
}

struct Summing<W> {
    inner: W,
    crc: u32,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a view, reads it back, and only then gives it its name; older
/// snapshots but one are removed after that. Returns its length in bytes.
pub(crate) fn build<A: App, S: SnapshotStore>(
    store: &S,
    cluster_id: [u8; 16],
    meta: &SnapshotMeta,
    view: &A::View,
) -> io::Result<u64> {
    let name = name_of(meta)?;
    let encoded = postcard::to_stdvec(meta).map_err(|error| invalid(error.to_string()))?;
    let length = u32::try_from(encoded.len())
        .ok()
        .filter(|length| *length <= META_BYTES_MAX)
        .ok_or_else(|| invalid("membership is too large for a snapshot"))?;
    let mut sink = Summing { inner: store.create()?, crc: 0 };
    sink.write_all(&MAGIC)?;
    sink.write_all(&VERSION.to_le_bytes())?;
    sink.write_all(&cluster_id)?;
    sink.write_all(&length.to_le_bytes())?;
    sink.write_all(&encoded)?;
    A::write_snapshot(view, &mut sink)?;
    let crc = sink.crc;
    let mut sink = sink.inner;
    sink.write_all(&crc.to_le_bytes())?;
    sink.flush()?;
    let (_, length) = check(&mut *sink.read_back()?, cluster_id)?;
    sink.commit(name)?;
    remove_older(store)?;
    Ok(length)
}

/// Keeps the newest two: the older one serves if the newer is damaged and the
/// log still reaches back to it.
pub(crate) fn remove_older<S: SnapshotStore>(store: &S) -> io::Result<()> {
    let names = store.list()?;
    let surplus = names.len().saturating_sub(2);
    names.into_iter().take(surplus).try_for_each(|name| store.remove(name))
}

fn read_header(
    source: &mut dyn Read,
    cluster_id: [u8; 16],
) -> io::Result<(SnapshotMeta, u32, u64)> {
    let mut header = [0; HEADER_BYTES];
    source.read_exact(&mut header)?;
    if header[..8] != MAGIC {
        return Err(invalid("is no snapshot"));
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != VERSION {
        return Err(invalid(format!("snapshot format {version}, this build reads {VERSION}")));
    }
    if header[10..26] != cluster_id {
        return Err(invalid("snapshot of another cluster"));
    }
    let length = u32::from_le_bytes([header[26], header[27], header[28], header[29]]);
    if length > META_BYTES_MAX {
        return Err(invalid("snapshot header is garbled"));
    }
    let mut encoded = vec![0; length as usize];
    source.read_exact(&mut encoded)?;
    let meta = postcard::from_bytes(&encoded)
        .map_err(|error| invalid(format!("snapshot header is garbled: {error}")))?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header), &encoded);
    let bytes = HEADER_BYTES as u64 + u64::from(length);
    Ok((meta, crc, bytes))
}

/// Reads a snapshot to its end and checks it whole. Returns its meta data and
/// its length in bytes.
pub(crate) fn check(
    source: &mut dyn Read,
    cluster_id: [u8; 16],
) -> io::Result<(SnapshotMeta, u64)> {
    let (meta, mut crc, mut bytes) = read_header(source, cluster_id)?;
    let mut held = Vec::with_capacity(TRAILER_BYTES as usize);
    let mut buffer = vec![0; 1 << 17];
    loop {
        let count = source.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        bytes += count as u64;
        // The last four bytes of the file are the checksum, so four bytes
        // are always held back.
        held.extend_from_slice(&buffer[..count]);
        let body = held.len().saturating_sub(TRAILER_BYTES as usize);
        crc = crc32c::crc32c_append(crc, &held[..body]);
        held.drain(..body);
    }
    let stored: [u8; 4] =
        held.as_slice().try_into().map_err(|_| invalid("snapshot is cut short"))?;
    if u32::from_le_bytes(stored) != crc {
        return Err(invalid("snapshot checksum is wrong"));
    }
    Ok((meta, bytes))
}

/// Restores the application from a snapshot in the store, which is checked
/// whole before the application sees a byte.
pub(crate) fn restore<A: App, S: SnapshotStore>(
    store: &S,
    cluster_id: [u8; 16],
    name: SnapshotName,
    app: &mut A,
) -> io::Result<(SnapshotMeta, u64)> {
    let (mut source, length) = store.open(name)?;
    check(&mut *source, cluster_id)?;
    let (mut source, _) = store.open(name)?;
    let (meta, _, header_bytes) = read_header(&mut *source, cluster_id)?;
    let body = length
        .checked_sub(header_bytes + TRAILER_BYTES)
        .ok_or_else(|| invalid("snapshot is cut short"))?;
    app.restore(&mut source.take(body)).map_err(|error| invalid(error.to_string()))?;
    Ok((meta, length))
}
