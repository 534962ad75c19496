//! Decisions of gateways as lines of JSON, so that people and programs read why a request went
//! where it went, and so that each decision can be made anew. It writes and reads lines: files,
//! threads and what becomes of a decision are others' business.
//!
//! The first line names the format and the writer. Each further one is a happening of one pool,
//! which is the view of one gateway of the replicas of one service; pools go by numbers, and the
//! line `begun` names the service. Numbers of 64 bits that are not counts stand in hexadecimal
//! letters: JSON's readers keep 53 bits.

#![forbid(unsafe_code)]

mod convert;
mod line;
mod read;

pub use line::{Ended, Event, FORMAT};
pub use read::{ReadError, Reader};

use line::Line;

/// The line of an event, with its end.
#[must_use]
pub fn line(event: &Event) -> String {
    // Texts and numbers: nothing of it can fail.
    let mut text = serde_json::to_string(&Line::from(event)).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests;
