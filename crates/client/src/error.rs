//! What can come of a call besides an answer.

use std::fmt;

use berth_proto::v1::{ErrorDetail, FieldViolation};
use tonic::Code;

/// A call without an answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// No scheduler was reached. Nothing has changed.
    #[error("the cluster cannot be reached")]
    Unreachable { tried: Vec<Tried> },
    /// Schedulers were reached, but none could serve the call. Nothing has changed.
    #[error("the cluster has no leader")]
    NoLeader { tried: Vec<Tried> },
    /// The cluster has said no.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The call may or may not have taken effect.
    #[error("the outcome is unknown")]
    OutcomeUnknown {
        /// Repeating the submit with this key finds out.
        key: Option<String>,
        tried: Vec<Tried>,
    },
}

/// A definite no, in the cluster's words.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub code: Code,
    pub message: String,
    pub violations: Vec<FieldViolation>,
    pub hint: Option<String>,
    pub request_id: Option<String>,
}

/// One scheduler that was asked, and what came of it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    pub address: String,
    pub failure: Failure,
}

/// Why a scheduler did not answer the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nothing listens there.
    ConnectionRefused,
    /// No answer in time, to the connection or to the call.
    TimedOut,
    /// The name of the host is not known.
    UnknownHost,
    /// The connection broke during the call.
    ConnectionLost,
    /// Something answers there that does not speak Berth's language.
    NotBerth,
    /// It is a scheduler and cannot serve the call now.
    Unavailable(String),
    /// Anything else, in the system's words.
    Other(String),
}

impl Failure {
    /// Whether a Berth scheduler answered.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self, Failure::Unavailable(_))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Failure::ConnectionRefused => "connection refused",
            Failure::TimedOut => "no answer in time",
            Failure::UnknownHost => "the name of the host does not resolve",
            Failure::ConnectionLost => "the connection was lost",
            Failure::NotBerth => "answered, but is not a Berth server",
            Failure::Unavailable(message) | Failure::Other(message) => message,
        })
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.address, self.failure)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Refusal {
    pub(crate) fn new(code: Code, message: &str, detail: ErrorDetail) -> Refusal {
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        Refusal {
            code,
            message: message.to_owned(),
            violations: detail.violations,
            hint: given(detail.hint),
            request_id: given(detail.request_id),
        }
    }
}
