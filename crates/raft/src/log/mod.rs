//! The consensus library's log over a device. Entries not yet purged stay in
//! memory, so replicating and applying never read the disk; all writes go
//! through one queue to one writer.

mod cache;
mod entries;
mod store;
mod writer;

pub(crate) use cache::Cache;
pub(crate) use entries::{from_record, to_log_id, to_position, to_vote_record};
pub(crate) use store::LogStore;
pub(crate) use writer::{WriterEnd, WriterHandle};
