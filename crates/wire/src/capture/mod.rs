//! Captures: decisions of a leader with everything that they were made on, as a file. Version 1
//! is a magic, a version, and records in frames: a header, the rows of all views, each once, the
//! decisions, and an end. Each frame has a check of itself and of all before it, so that damage is
//! told where it is. What no decision needs is never written: tokens, keys, certificates, and of
//! jobs what they run and with which environment.

mod convert;
mod frames;
mod keep;
mod names;
mod read;
mod write;

use std::io;

use berth_model::{StateMs, WallMs};
use berth_state::RestoreError;
use berth_state::decision::Decision;
use thiserror::Error;

use crate::frozen::DecodeError;

pub use read::read_capture;
pub use write::{Privacy, write_capture};

const MAGIC: [u8; 8] = *b"BERTHCAP";
/// The format that this version writes, and the only one that it reads.
pub const FORMAT: u16 = 1;
/// Decisions in a file: several times what a leader keeps.
pub const DECISIONS_MAX: usize = 64;
/// Rows in a file: more than a state of a million jobs has, and a bound on what a reader holds.
pub const ROWS_MAX: usize = 8_000_000;

/// Instances of all tasks of all rows together: many times what is ever submitted, and a bound on
/// what it takes to look at each of them.
pub const INSTANCES_MAX: usize = 50_000_000;

/// What is known of a capture as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaptureHeader {
    /// The version of the program that made it.
    pub writer: String,
    pub cluster_version: u32,
    /// By the clock of the scheduler that made it.
    pub captured_at: WallMs,
    pub captured_ms: StateMs,
    /// The log index of the newest view.
    pub applied_index: u64,
    /// `None` where names were replaced.
    pub cluster_id: Option<[u8; 16]>,
}

impl CaptureHeader {
    /// Whether names were replaced.
    pub fn is_redacted(&self) -> bool {
        self.cluster_id.is_none()
    }
}

/// Why a decision was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// For the capture, of everything that waits.
    Capture,
    /// With an entry of the log that was being formed.
    Entry,
    /// By the planner, which runs by itself.
    Planner,
}

impl Origin {
    /// A stable name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Capture => "capture",
            Origin::Entry => "entry",
            Origin::Planner => "planner",
        }
    }
}

/// A decision as it stands in a capture.
#[derive(Clone, Debug)]
pub struct Captured {
    pub origin: Origin,
    pub decision: Decision,
}

/// What a file holds.
#[derive(Clone, Debug)]
pub struct Capture {
    pub header: CaptureHeader,
    /// The oldest first.
    pub decisions: Vec<Captured>,
}

/// Why a file is not a capture that can be replayed.
#[derive(Debug, Error)]
pub enum CaptureError {
    #[error("read the capture")]
    Io(#[from] io::Error),
    #[error("this is no capture of a Berth cluster")]
    NoCapture,
    #[error("the capture has format {found}, and this build reads {FORMAT}")]
    Format { found: u16 },
    #[error(
        "the capture follows the rules of cluster version {found}, and this build knows versions \
         up to {known}; it was made by version {writer} of berth"
    )]
    ClusterVersion { found: u32, known: u32, writer: String },
    #[error("the capture is damaged at byte {offset}, in record {record}")]
    Damaged { record: u64, offset: u64 },
    #[error("the capture ends too early, at byte {offset}, in record {record}")]
    CutShort { record: u64, offset: u64 },
    #[error("record {record} of the capture, at byte {offset}, cannot be read")]
    Record { record: u64, offset: u64, source: DecodeError },
    #[error("record {record} of the capture, at byte {offset}, is not the one that belongs there")]
    Misplaced { record: u64, offset: u64 },
    #[error("the capture has more than {most} {what}")]
    TooMany { what: &'static str, most: usize },
    #[error("something follows the end of the capture, at byte {offset}")]
    Trailing { offset: u64 },
    #[error("the rows of decision {number} do not belong together")]
    State { number: usize, source: RestoreError },
}

impl CaptureError {
    /// Whether another build may read it as it is.
    pub fn needs_another_build(&self) -> bool {
        match self {
            CaptureError::Format { .. } | CaptureError::ClusterVersion { .. } => true,
            CaptureError::Record { source, .. } => source.needs_newer(),
            CaptureError::Io(_)
            | CaptureError::NoCapture
            | CaptureError::Damaged { .. }
            | CaptureError::CutShort { .. }
            | CaptureError::Misplaced { .. }
            | CaptureError::TooMany { .. }
            | CaptureError::Trailing { .. }
            | CaptureError::State { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests;
