//! What the crate asks of the replicated application. It knows no log, no
//! disk and no peer, and starts nothing.

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Largest encoded proposal, in bytes. sled moves values of 128 KiB and more
/// into side files which it never syncs, and whole tree pages once entries
/// grow; at 64 KiB with 16 MiB segments none appear (measured November 2026).
pub const PROPOSAL_BYTES_MAX: usize = 64 * 1024;

/// An entry this build cannot decode. The node stops before applying it:
/// skipping it would let this replica diverge from the others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Written by a newer build.
    #[error("entry has schema {found}, this build knows up to {known}; a newer build is needed")]
    UnknownSchema { found: u32, known: u32 },
    /// It asks for more than this build can do from there on.
    #[error("entry is not for this build: {0}")]
    NeedsNewer(String),
    /// The bytes are no entry at all.
    #[error("entry cannot be decoded: {0}")]
    Garbled(String),
}

/// A snapshot body that cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Reading the source failed.
    #[error("read snapshot body")]
    Io(#[from] std::io::Error),
    /// Written by a newer build.
    #[error("snapshot has schema {found}, this build knows up to {known}; a newer build is needed")]
    UnknownSchema { found: u32, known: u32 },
    /// The state in it follows rules that this build does not know.
    #[error("snapshot is not for this build: {0}")]
    NeedsNewer(String),
    /// The bytes are no snapshot of this application.
    #[error("snapshot cannot be decoded: {0}")]
    Garbled(String),
}

/// Answers a question of another node's application, in the application's own
/// words; called from many threads, and not to block.
pub type Answerer = Arc<dyn Fn(Bytes) -> Bytes + Send + Sync>;

/// The replicated application: the same entries in the same order give the
/// same state on every node.
pub trait App: Send + Sync + 'static {
    /// A decoded log entry.
    type Entry: Send + Sync + 'static;
    /// The answer for the proposer; it never leaves this process.
    type Reply: Clone + Send + Sync + 'static;
    /// An immutable picture of the state; cloning it takes constant time.
    type View: Clone + Send + Sync + 'static;

    /// Decodes the bytes of a proposal made by any node of the cluster.
    ///
    /// # Errors
    /// An unknown schema stops the node before the entry is applied.
    fn decode(bytes: &[u8]) -> Result<Self::Entry, EntryError>;

    /// Applies one entry. Total and deterministic: what does not fit gets a
    /// refusal as its reply. Reads no clock and no chance.
    fn apply(&mut self, index: u64, entry: &Self::Entry) -> Self::Reply;

    /// Called after each run of applies and after a restore, before any
    /// proposer hears its reply; the application shows its new view here.
    fn publish(&mut self, applied_index: u64);

    /// The state as it is now.
    fn view(&self) -> Self::View;

    /// Streams a view; runs on another thread than `apply`.
    ///
    /// # Errors
    /// Only those of the sink.
    fn write_snapshot(view: &Self::View, sink: &mut dyn Write) -> std::io::Result<()>;

    /// Answers what the applications of other nodes ask this one; it is taken
    /// once, before the first entry is applied. Without one of its own an
    /// application answers nothing.
    fn answerer(&self) -> Answerer {
        Arc::new(|_| Bytes::new())
    }

    /// Replaces the whole state by what `write_snapshot` wrote.
    ///
    /// # Errors
    /// The node stops; its state may be half replaced.
    fn restore(&mut self, source: &mut dyn Read) -> Result<(), SnapshotError>;
}

/// An entry on its way into the log: encoded once, and at the proposer with
/// the decoded form beside it so that applying it there decodes nothing.
pub struct Proposal<A: App> {
    pub(crate) bytes: Bytes,
    pub(crate) entry: Option<Arc<A::Entry>>,
}

impl<A: App> Proposal<A> {
    /// `bytes` must decode to `entry`.
    #[must_use]
    pub fn new(bytes: Bytes, entry: Arc<A::Entry>) -> Self {
        Self { bytes, entry: Some(entry) }
    }

    pub(crate) fn encoded(bytes: Bytes) -> Self {
        Self { bytes, entry: None }
    }
}

impl<A: App> Clone for Proposal<A> {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), entry: self.entry.clone() }
    }
}

impl<A: App> fmt::Debug for Proposal<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proposal of {} bytes", self.bytes.len())
    }
}

impl<A: App> fmt::Display for Proposal<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl<A: App> Serialize for Proposal<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

struct BytesVisitor;

impl<'de> de::Visitor<'de> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes of a proposal")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(Bytes::copy_from_slice(bytes))
    }
}

impl<'de, A: App> Deserialize<'de> for Proposal<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(BytesVisitor).map(Self::encoded)
    }
}

/// What applying an entry answered: nothing for entries of the protocol.
pub struct Answer<A: App>(pub(crate) Option<A::Reply>);

// The consensus library wants answers to be serialisable; they never leave
// the process, so doing it is an error and not a format.
impl<A: App> Serialize for Answer<A> {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("answers stay in the process"))
    }
}

impl<'de, A: App> Deserialize<'de> for Answer<A> {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom("answers stay in the process"))
    }
}
