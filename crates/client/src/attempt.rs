//! What one attempt at a call came to: the only place that reads a gRPC status.

use std::error::Error;
use std::io;
use std::time::Duration;

use berth_proto::v1::ErrorDetail;
use prost::Message;
use tonic::{Code, Status};

use crate::error::{Failure, Refusal};

/// Why an attempt gave no answer.
#[derive(Debug)]
pub(crate) enum Missed {
    /// The cluster has said no; another attempt would hear the same.
    Refused(Refusal),
    /// This scheduler is not the leader; that one is. Nothing has happened.
    Redirected { leader: String, message: String },
    /// Nothing has happened, and another attempt may do better.
    Untouched { failure: Failure, after: Option<Duration> },
    /// The cluster has no room for it now. Nothing has happened.
    Crowded { refusal: Refusal, after: Duration },
    /// The call may have taken effect.
    Unknown { failure: Failure },
}

/// Reads the status of an attempt.
pub(crate) fn read(status: &Status) -> Missed {
    let detail = ErrorDetail::decode(status.details()).unwrap_or_default();
    if let Some(failure) = transport_failure(status) {
        return Missed::Unknown { failure };
    }
    let failure = || Failure::Unavailable(status.message().to_owned());
    if detail.outcome_unknown {
        return Missed::Unknown { failure: failure() };
    }
    let is_plain = status.details().is_empty();
    if is_plain && is_foreign(status) {
        return Missed::Untouched { failure: Failure::NotBerth, after: None };
    }
    match status.code() {
        Code::Unavailable if !detail.leader_address.is_empty() => Missed::Redirected {
            leader: detail.leader_address,
            message: status.message().to_owned(),
        },
        Code::Unavailable => Missed::Untouched {
            failure: failure(),
            after: detail.retry_after_ms.map(Duration::from_millis),
        },
        Code::ResourceExhausted if detail.retry_after_ms.is_some() => {
            let after = Duration::from_millis(detail.retry_after_ms.unwrap_or_default());
            let refusal = Refusal::new(status.code(), status.message(), detail);
            Missed::Crowded { refusal, after }
        }
        Code::DeadlineExceeded | Code::Cancelled => Missed::Unknown { failure: Failure::TimedOut },
        // Not a scheduler's own word: what lies between it and the leader broke.
        Code::Unknown if is_plain => Missed::Unknown { failure: failure() },
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => {
            Missed::Refused(Refusal::new(status.code(), status.message(), detail))
        }
    }
}

/// Whether an answer without our details can be no scheduler's: a gRPC server of
/// another kind knows none of our services, and of an HTTP server's answer tonic
/// makes a status itself.
fn is_foreign(status: &Status) -> bool {
    let message = status.message();
    let unknown_call = message.is_empty() || message.to_lowercase().contains("unknown service");
    (status.code() == Code::Unimplemented && unknown_call)
        || message.contains("grpc-status header missing")
        || message.contains("invalid content-type")
        || message.contains("compression flag")
}

/// The failure of the connection beneath a status, if that is what it tells of.
fn transport_failure(status: &Status) -> Option<Failure> {
    let source = status.source()?;
    Some(of_chain(source))
}

/// Why a connection could not be made, or broke.
pub(crate) fn of_chain(error: &(dyn Error + 'static)) -> Failure {
    let mut texts = Vec::new();
    let mut next = Some(error);
    while let Some(link) = next {
        if let Some(io) = link.downcast_ref::<io::Error>()
            && let Some(failure) = of_io(io)
        {
            return failure;
        }
        texts.push(link.to_string());
        next = link.source();
    }
    let chain = texts.join(": ");
    // An HTTP/1 server's words, read as HTTP/2 frames, break these rules.
    if ["frame with invalid size", "unspecific protocol error", "http2 error"]
        .iter()
        .any(|sign| chain.contains(sign))
        && !chain.contains("GoAway")
    {
        return Failure::NotBerth;
    }
    if chain.contains("Timeout expired") {
        return Failure::TimedOut;
    }
    if chain.contains("dns error") {
        return Failure::UnknownHost;
    }
    Failure::ConnectionLost
}

fn of_io(error: &io::Error) -> Option<Failure> {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, NotConnected, TimedOut,
        UnexpectedEof,
    };
    let known = [
        (ConnectionRefused, Failure::ConnectionRefused),
        (TimedOut, Failure::TimedOut),
        (ConnectionReset, Failure::ConnectionLost),
        (ConnectionAborted, Failure::ConnectionLost),
        (BrokenPipe, Failure::ConnectionLost),
        (NotConnected, Failure::ConnectionLost),
        (UnexpectedEof, Failure::ConnectionLost),
    ];
    let found = known.into_iter().find(|(kind, _)| *kind == error.kind());
    if let Some((_, failure)) = found {
        return Some(failure);
    }
    // The system's own errors have a number; what libraries wrap has none.
    error.raw_os_error().map(|_| Failure::Other(error.to_string().to_lowercase()))
}
