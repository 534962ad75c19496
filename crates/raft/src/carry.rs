//! A stopped node's store as one file, and a store made of such a file: how data
//! moves to another disk, or another kind of log. Votes travel with it, so the
//! place that it came from must never be started again; nobody here can see to
//! that.

use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::device::sled::{read_store, snapshots_of};
use crate::device::snapshots::{SnapshotName, SnapshotStore};
use crate::device::{
    Device, Identity, LogDevice, OpenError, Opened, Position, Record, Recovered, VoteRecord,
};
use crate::fatal::FatalCell;
use crate::snapshot;

const MAGIC: [u8; 8] = *b"BERTHLOG";
const VERSION: u16 = 1;
/// Of a snapshot that is written in one piece.
const CHUNK_BYTES: usize = 1 << 20;
/// The longest piece: a chunk, or an entry, and some.
const PIECE_BYTES_MAX: usize = CHUNK_BYTES + (64 << 10);
/// Entries that are written before the next sync.
const BATCH_ENTRIES: usize = 256;

/// What the file is made of, each with its length and checksum. Frozen: kinds
/// are only ever added, at the end.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Piece {
    /// The first.
    Head {
        identity: Identity,
        vote: Option<VoteRecord>,
        committed: Option<Position>,
        purged: Option<Position>,
    },
    /// A snapshot begins.
    Snapshot { index: u64, term: u64 },
    /// A part of it.
    Chunk(Vec<u8>),
    /// An entry of the log.
    Entry { index: u64, term: u64, kind: u8, body: Vec<u8> },
    /// The last, with the number of those before it.
    End { pieces: u64 },
}

/// What a file holds, or held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// Whose store it is.
    pub identity: Identity,
    /// Where its log ends.
    pub last: Option<Position>,
    /// Entries in the log.
    pub entries: u64,
    /// Snapshots beside it.
    pub snapshots: u64,
}

/// Why a file makes no store.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// It is of another kind, cut short or damaged.
    #[error("is no exported store, or damaged: {0}")]
    Garbled(String),
    /// Another build wrote it.
    #[error(
        "has format {found}, this build reads {VERSION}; import it with the build that wrote it"
    )]
    Version { found: u16 },
    /// Another node's.
    #[error("is the store of node {found}, not of node {expected}, or of another cluster")]
    WrongNode { found: u64, expected: u64 },
    /// There is a store already.
    #[error("there is a store already; move it away first")]
    NotEmpty,
    /// The new store was not opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A disk failed.
    #[error("copy the store")]
    Io(#[from] io::Error),
}

struct Sink<W> {
    inner: W,
    pieces: u64,
}

impl<W: Write> Sink<W> {
    fn put(&mut self, piece: &Piece) -> io::Result<()> {
        let bytes = postcard::to_stdvec(piece).map_err(io::Error::other)?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.inner.write_all(&length.to_le_bytes())?;
        self.inner.write_all(&crc32c::crc32c(&bytes).to_le_bytes())?;
        self.inner.write_all(&bytes)?;
        self.pieces += 1;
        Ok(())
    }
}

/// Writes the store of a stopped node, which is not changed. Needs room for a copy
/// of the log in the system's temporary directory.
///
/// # Errors
/// The store cannot be read or is damaged, `verify` then says how; or the sink
/// failed.
pub fn export_store(data_dir: &Path, sink: &mut dyn Write) -> io::Result<Carried> {
    let (identity, recovered) = read_store(data_dir)?;
    let mut sink = Sink { inner: sink, pieces: 0 };
    sink.inner.write_all(&MAGIC)?;
    sink.inner.write_all(&VERSION.to_le_bytes())?;
    let Recovered { vote, committed, purged, records } = &recovered;
    sink.put(&Piece::Head { identity, vote: *vote, committed: *committed, purged: *purged })?;
    let mut snapshots = 0;
    if let Some((store, names)) = snapshots_of(data_dir)? {
        for name in names {
            let (mut source, _) = store.open(name)?;
            // A damaged one is of no use anywhere.
            if snapshot::check(&mut *source, identity.cluster_id).is_err() {
                continue;
            }
            put_snapshot(&mut sink, name, &mut *store.open(name)?.0)?;
            snapshots += 1;
        }
    }
    for Record { index, term, kind, body } in records {
        let (index, term, kind, body) = (*index, *term, *kind, body.to_vec());
        sink.put(&Piece::Entry { index, term, kind, body })?;
    }
    let pieces = sink.pieces;
    sink.put(&Piece::End { pieces })?;
    Ok(Carried { identity, last: recovered.last(), entries: records.len() as u64, snapshots })
}

fn put_snapshot<W: Write>(
    sink: &mut Sink<W>,
    name: SnapshotName,
    source: &mut dyn Read,
) -> io::Result<()> {
    sink.put(&Piece::Snapshot { index: name.index, term: name.term })?;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        source.take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            return Ok(());
        }
        sink.put(&Piece::Chunk(chunk))?;
    }
}

struct Source<R> {
    inner: R,
    pieces: u64,
}

impl<R: Read> Source<R> {
    fn open(mut inner: R) -> Result<(Self, Identity, Recovered), CarryError> {
        let mut head = [0; 10];
        inner.read_exact(&mut head).map_err(|_| garbled("it is too short"))?;
        if head[..8] != MAGIC {
            return Err(garbled("it does not begin like one"));
        }
        let found = u16::from_le_bytes([head[8], head[9]]);
        if found != VERSION {
            return Err(CarryError::Version { found });
        }
        let mut source = Source { inner, pieces: 0 };
        let Piece::Head { identity, vote, committed, purged } = source.next()? else {
            return Err(garbled("the head is missing"));
        };
        Ok((source, identity, Recovered { vote, committed, purged, records: Vec::new() }))
    }

    fn next(&mut self) -> Result<Piece, CarryError> {
        let mut head = [0; 8];
        self.inner.read_exact(&mut head).map_err(|_| garbled("it ends too early"))?;
        let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > PIECE_BYTES_MAX {
            return Err(garbled("a piece is too long"));
        }
        let mut bytes = vec![0; length];
        self.inner.read_exact(&mut bytes).map_err(|_| garbled("it ends too early"))?;
        if crc32c::crc32c(&bytes) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(garbled("a checksum is wrong"));
        }
        self.pieces += 1;
        postcard::from_bytes(&bytes).map_err(|error| garbled(&error.to_string()))
    }

    fn end(&mut self, pieces: u64) -> Result<(), CarryError> {
        let more = self.inner.read(&mut [0])?;
        if pieces + 1 == self.pieces && more == 0 {
            return Ok(());
        }
        Err(garbled("pieces are missing, or something follows"))
    }
}

fn garbled(what: &str) -> CarryError {
    CarryError::Garbled(what.to_owned())
}

/// Reads a file to its end and checks it whole.
///
/// # Errors
/// See [`CarryError`].
pub fn check_carried(source: &mut dyn Read) -> Result<Carried, CarryError> {
    let (mut source, identity, head) = Source::open(source)?;
    let (mut last, mut entries, mut snapshots) = (head.purged, 0, 0);
    loop {
        match source.next()? {
            Piece::Head { .. } => return Err(garbled("there are two heads")),
            Piece::Snapshot { .. } => snapshots += 1,
            Piece::Chunk(_) if snapshots > 0 => {}
            Piece::Chunk(_) => return Err(garbled("a part belongs to no snapshot")),
            Piece::Entry { index, term, .. } => {
                let follows = match last {
                    Some(last) => index == last.index + 1 && term >= last.term,
                    None => index == 0,
                };
                if !follows {
                    return Err(garbled(&format!("entry {index} does not follow")));
                }
                last = Some(Position { term, index });
                entries += 1;
            }
            Piece::End { pieces } => {
                source.end(pieces)?;
                return Ok(Carried { identity, last, entries, snapshots });
            }
        }
    }
}

/// Makes a store of a file that `check_carried` has found whole.
///
/// # Errors
/// See [`CarryError`]. What was there is not touched. What was begun must not be
/// started from: make it aside.
pub fn import_store<D: Device>(
    device: &D,
    expected: Identity,
    source: &mut dyn Read,
) -> Result<(), CarryError> {
    let (mut source, identity, head) = Source::open(source)?;
    if identity != expected {
        let (found, expected) = (identity.node_id, expected.node_id);
        return Err(CarryError::WrongNode { found, expected });
    }
    let Opened { mut log, recovered, snapshots, health: _, keep } =
        device.open(identity, &FatalCell::default())?;
    if recovered != Recovered::default() || !snapshots.list()?.is_empty() {
        return Err(CarryError::NotEmpty);
    }
    // The vote first: a log without the vote of its term must not be there.
    if let Some(vote) = head.vote {
        log.save_vote(vote)?;
    }
    if let Some(purged) = head.purged {
        log.purge_to(purged)?;
    }
    log.sync()?;
    let mut batch = Vec::new();
    let mut piece = source.next()?;
    loop {
        piece = match piece {
            Piece::Snapshot { index, term } => {
                let mut sink = snapshots.create()?;
                let mut following = source.next()?;
                while let Piece::Chunk(chunk) = &following {
                    sink.write_all(chunk)?;
                    following = source.next()?;
                }
                sink.flush()?;
                snapshot::check(&mut *sink.read_back()?, identity.cluster_id)?;
                sink.commit(SnapshotName { index, term })?;
                following
            }
            Piece::Entry { index, term, kind, body } => {
                batch.push(Record { index, term, kind, body: body.into() });
                if batch.len() >= BATCH_ENTRIES {
                    log.append(&std::mem::take(&mut batch))?;
                    log.sync()?;
                }
                source.next()?
            }
            Piece::End { .. } => break,
            Piece::Head { .. } | Piece::Chunk(_) => return Err(garbled("a piece is out of place")),
        };
    }
    if !batch.is_empty() {
        log.append(&batch)?;
    }
    if let Some(committed) = head.committed {
        log.save_committed(committed)?;
    }
    log.sync()?;
    // In this order: the log's last write happens under the lock.
    drop(log);
    drop(keep);
    Ok(())
}
