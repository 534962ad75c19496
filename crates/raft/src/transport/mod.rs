//! How nodes reach each other. The traits exist because there are two
//! networks: gRPC, and a simulated one. Payloads are opaque here.

pub mod grpc;
pub(crate) mod network;
pub mod service;
pub mod sim;
mod stream;

use std::future::Future;
use std::io::{self, Read};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;

/// Bytes of a snapshot sent in one piece.
pub const PIECE_BYTES_MAX: usize = 1 << 20;

/// Largest message between peers: 64 entries of 64 KiB, and some.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// What a call asks for. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum CallKind {
    /// Entries, or a heartbeat.
    Append = 1,
    /// A vote in a new term.
    Vote = 2,
    /// Whether a vote would be given.
    PreVote = 3,
    /// The leader asks this node to take over.
    TransferLeader = 4,
    /// The index a linearizable read must have seen; only a leader answers.
    ReadIndex = 5,
    /// A question of the application, passed through.
    Ask = 6,
}

impl CallKind {
    /// `None` for a number of a newer version.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        let all = [
            Self::Append,
            Self::Vote,
            Self::PreVote,
            Self::TransferLeader,
            Self::ReadIndex,
            Self::Ask,
        ];
        all.into_iter().find(|kind| *kind as u32 == number)
    }
}

/// Who calls whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerHeader {
    /// The caller's cluster.
    pub cluster_id: [u8; 16],
    /// The caller.
    pub from_node: u64,
    /// Whom it means to reach.
    pub to_node: u64,
}

/// Why a node does not answer a call that reached it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefusal {
    /// The caller is of another cluster.
    #[error("the caller belongs to another cluster")]
    WrongCluster,
    /// The caller meant another node: two addresses were swapped.
    #[error("this is node {actual}, not node {expected}; check the addresses of the members")]
    WrongNode { expected: u64, actual: u64 },
    /// The message cannot be read; perhaps a newer version sent it.
    #[error("the message cannot be read: {0}")]
    Unreadable(String),
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
    /// A snapshot was damaged on the way or could not be stored.
    #[error("snapshot refused: {0}")]
    Snapshot(String),
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No connection, or it broke; calling again at once is of no use.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// No answer in time; the call may have had its effect.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The node answered that it does not answer.
    #[error(transparent)]
    Refused(#[from] PeerRefusal),
}

/// Which connection: each kind of traffic has one of its own, so that a
/// snapshot or a large append never delays a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Votes and entries.
    Log,
    /// Heartbeats.
    Heartbeat,
    /// Snapshots.
    Snapshot,
}

/// A snapshot on its way out.
pub struct OutgoingSnapshot {
    /// Who sends it to whom.
    pub header: PeerHeader,
    /// What the receiver must know before it takes it.
    pub meta: Bytes,
    /// Its bytes.
    pub source: Box<dyn Read + Send>,
    /// Longest time without progress.
    pub patience: Duration,
}

/// A network.
pub trait PeerTransport: Clone + Send + Sync + 'static {
    /// One connection to one peer.
    type Connection: PeerConnection;
    /// Makes a connection that connects itself when it is used.
    fn connect(&self, node_id: u64, address: &str, lane: Lane) -> Self::Connection;
}

/// One connection to one peer; it reconnects by itself.
pub trait PeerConnection: Clone + Send + Sync + 'static {
    /// One request and its answer.
    fn call(
        &self,
        kind: CallKind,
        header: PeerHeader,
        payload: Bytes,
        deadline: Duration,
    ) -> impl Future<Output = Result<Bytes, CallError>> + Send;

    /// Sends a snapshot and waits until it is installed.
    fn send_snapshot(
        &self,
        snapshot: OutgoingSnapshot,
    ) -> impl Future<Output = Result<Bytes, CallError>> + Send;
}

/// One piece of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where in the file it belongs.
    pub offset: u64,
    /// At most [`PIECE_BYTES_MAX`].
    pub data: Bytes,
    /// CRC32C of `data`.
    pub crc32c: u32,
    /// Whether the file ends here; only then is it complete.
    pub last: bool,
}

/// The pieces of one snapshot as they arrive.
pub type Pieces = Pin<Box<dyn Stream<Item = Result<Piece, String>> + Send>>;

type Answering<'a> = Pin<Box<dyn Future<Output = Result<Bytes, PeerRefusal>> + Send + 'a>>;

/// What a transport calls when something arrives for a node.
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers one call.
    fn handle_peer(&self, kind: u32, header: PeerHeader, payload: Bytes) -> Answering<'_>;
    /// Takes a snapshot.
    fn handle_snapshot(&self, header: PeerHeader, meta: Bytes, pieces: Pieces) -> Answering<'_>;
}

/// Cuts a file into pieces.
pub(crate) struct Cutter {
    source: Box<dyn Read + Send>,
    offset: u64,
    done: bool,
}

impl Cutter {
    pub(crate) fn new(source: Box<dyn Read + Send>) -> Self {
        Self { source, offset: 0, done: false }
    }

    /// The next piece; `None` after the last one.
    pub(crate) fn next(&mut self) -> io::Result<Option<Piece>> {
        if self.done {
            return Ok(None);
        }
        let mut data = Vec::with_capacity(PIECE_BYTES_MAX);
        let limit = PIECE_BYTES_MAX as u64;
        (&mut self.source).take(limit).read_to_end(&mut data)?;
        // Only a short piece is known to be the last; a file that ends on a
        // full one is followed by an empty piece.
        self.done = data.len() < PIECE_BYTES_MAX;
        let offset = self.offset;
        self.offset += data.len() as u64;
        Ok(Some(Piece {
            offset,
            crc32c: crc32c::crc32c(&data),
            data: data.into(),
            last: self.done,
        }))
    }
}
