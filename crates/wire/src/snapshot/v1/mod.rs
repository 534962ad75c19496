//! Version 1 of the snapshot format: a header, the rows of the state, and an
//! end that tells how many rows there were; each a protobuf message after its
//! length. Writer and reader hold one record at a time, so memory does not
//! grow with the state. Checksums are those of the file around it.

mod access;
mod allocation;
mod cluster;
mod job;
mod namespace;
mod node;
mod node_reservation;
mod read;
pub(crate) mod rows;
mod task;
mod write;

pub use read::{ReadError, SnapshotReader};
pub use write::write_rows;

/// The schema that this version writes, and the latest that it reads.
pub const SCHEMA: u32 = 1;

/// The longest record, in bytes. The largest row is that of a task with
/// 1,000,000 instances (`berth_model::validate::INSTANCES_MAX`): each of them
/// in a range of its own takes at most 4 bytes, and each with a retry at most
/// 1 + 5 + 5 + 10 more; with 100 failures in detail that is below 26 MiB.
pub const RECORD_BYTES_MAX: usize = 32 << 20;

/// What is known before the first row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotHeader {
    /// The version of the program that wrote the snapshot.
    pub writer: String,
    /// The log index of the last entry that the rows include.
    pub applied_index: u64,
}

#[cfg(test)]
pub(crate) mod tests;
