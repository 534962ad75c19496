//! What the log and snapshots have in common: why bytes cannot be decoded, and
//! the values of which both are made.
//!
//! A reader is as wide as a writer: whatever core value was encoded is decoded
//! again, sensible or not. Anything that this version does not know, down to a
//! single field, is an error and never passed over, since a replica that
//! passes it over is no longer one.

pub(crate) mod access;
pub(crate) mod packed;
pub(crate) mod values;

use thiserror::Error;

use crate::problem::{Cause, Field, Problem, Problems};

/// Why bytes are no log entry, or no record of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DecodeError {
    #[error(
        "has schema {found}, this version knows up to {known}; version {} or later of berth is \
         needed", shown_writer(.writer)
    )]
    UnknownSchema { found: u32, known: u32, writer: String },
    #[error(
        "{field} is of a kind that this version does not know; version {} or later of berth is \
         needed", shown_writer(.writer)
    )]
    UnknownKind { field: String, writer: String },
    #[error(
        "{field} has the value {value}, which this version does not know; version {} or later of \
         berth is needed", shown_writer(.writer)
    )]
    UnknownValue { field: String, value: i32, writer: String },
    #[error(
        "{bytes} bytes of it belong to fields that this version does not know; version {} or \
         later of berth is needed", shown_writer(.writer)
    )]
    UnknownFields { bytes: usize, writer: String },
    #[error("is garbled")]
    Garbled(#[source] prost::DecodeError),
    #[error("is garbled: {field}: {reason}")]
    Invalid { field: String, reason: String },
}

fn shown_writer(writer: &str) -> &str {
    if writer.is_empty() { "unknown" } else { writer }
}

impl DecodeError {
    /// Whether a later version of the program may know better; otherwise the
    /// bytes are damaged.
    pub fn needs_newer(&self) -> bool {
        match self {
            DecodeError::UnknownSchema { .. }
            | DecodeError::UnknownKind { .. }
            | DecodeError::UnknownValue { .. }
            | DecodeError::UnknownFields { .. } => true,
            DecodeError::Garbled(_) | DecodeError::Invalid { .. } => false,
        }
    }

    fn from_problem(problem: Problem, writer: &str) -> DecodeError {
        let Problem { field, cause } = problem;
        match cause {
            Cause::UnknownValue(value) => {
                DecodeError::UnknownValue { field, value, writer: writer.to_owned() }
            }
            Cause::Missing
            | Cause::Unspecified
            | Cause::NotAName(..)
            | Cause::NotAnAllocation(_)
            | Cause::OutOfRange { .. }
            | Cause::TooLong { .. }
            | Cause::WrongLength { .. }
            | Cause::Contradiction(_) => DecodeError::Invalid { field, reason: cause.to_string() },
        }
    }
}

/// Refuses a message that says more than it was decoded to. There is one
/// encoding of every message, so a field that was passed over shows in the
/// length.
pub(crate) fn nothing_passed_over<M: prost::Message>(
    message: &M,
    found: usize,
    writer: &str,
) -> Result<(), DecodeError> {
    match found.checked_sub(message.encoded_len()) {
        Some(0) => Ok(()),
        Some(bytes) => Err(DecodeError::UnknownFields { bytes, writer: writer.to_owned() }),
        None => Err(DecodeError::Invalid {
            field: "length".to_owned(),
            reason: "the encoding is not the one that is ever written".to_owned(),
        }),
    }
}

/// Runs a conversion and turns the first problem into an error.
pub(crate) fn converted<T>(
    writer: &str,
    convert: impl FnOnce(Field<'_>, &mut Problems) -> Option<T>,
) -> Result<T, DecodeError> {
    let mut problems = Problems::default();
    let value = convert(Field::ROOT, &mut problems);
    match (problems.into_first(), value) {
        (None, Some(value)) => Ok(value),
        (Some(problem), _) => Err(DecodeError::from_problem(problem, writer)),
        (None, None) => Err(DecodeError::Invalid {
            field: "value".to_owned(),
            reason: "cannot be converted".to_owned(),
        }),
    }
}
