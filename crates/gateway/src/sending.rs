//! A request on its way to one replica after the other, until an answer begins.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use berth_model::AllocationId;
use berth_routing::retry::{Attempt, Progress, Repeatable, Retry};
use berth_routing::{NoReplica, Outcome, Request as Routed, SpanUs};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::answer::{AnswerBody, Kind, Passing};
use crate::clock::duration;
use crate::errors::Refused;
use crate::headers::strip;
use crate::outgoing::{Outgoing, Upstream};
use crate::probe;
use crate::service::{Charge, Picked, Seat, Service, Unasked};

/// Who has too much to do and does not say for how long is spared so long.
const SPARED: SpanUs = SpanUs::from_secs(1);

/// A request that may be sent several times.
pub(crate) struct Sent<'a> {
    pub method: Method,
    pub path: &'a str,
    pub headers: HeaderMap,
    pub routed: Routed,
    pub repeatable: Repeatable,
    pub callers_retry: u32,
    pub says_done: bool,
}

/// How a request may wait for a replica.
#[derive(Clone, Copy)]
struct Waits {
    /// What it has in hand meanwhile.
    bytes: u64,
    until: Instant,
}

/// What became of one attempt, and how far it had come if another may be made.
struct Attempted {
    answer: Result<Response<AnswerBody>, Refused>,
    again: Option<Progress>,
}

/// An answer that has begun: its head, the first piece of its body, and the rest.
type Begun = (http::response::Parts, Option<Frame<Bytes>>, Incoming);

/// Why an attempt has no answer.
enum Unanswered {
    /// The caller's body broke off on its way.
    Caller,
    Replica(Progress, String),
}

/// To one replica after the other, as long as the caller has heard nothing.
pub(crate) async fn send(
    upstream: &Upstream,
    service: &Arc<Service>,
    sent: &Sent<'_>,
    body: Bytes,
) -> Result<Response<AnswerBody>, Refused> {
    let mut tried = Vec::new();
    let mut made = 0;
    let waits = Waits { bytes: body.len() as u64, until: Instant::now() + service.wait() };
    loop {
        made += 1;
        let charge = replica(service, sent, &mut tried, waits).await?;
        let attempted = attempt(upstream, charge, sent, Outgoing::Whole(body.clone())).await;
        let Some(progress) = attempted.again else { return attempted.answer };
        // Nobody has had it, and whoever refused it is not asked again until it takes
        // connections: who may wait for a replica goes on to wait.
        if progress == Progress::Unsent && Instant::now() < waits.until {
            made -= 1;
            continue;
        }
        let attempt = Attempt {
            made,
            progress,
            repeatable: sent.repeatable,
            callers_retry: sent.callers_retry,
            deadline: None,
        };
        let after = match service.decide(attempt) {
            Retry::Again { after } => after,
            Retry::GiveUp(_) => return attempted.answer,
        };
        // What it counted for is taken back before another is asked.
        drop(attempted);
        service.retries.increment(1);
        tokio::time::sleep(duration(after)).await;
    }
}

/// Who is asked next, if need be after waiting.
async fn replica(
    service: &Arc<Service>,
    sent: &Sent<'_>,
    tried: &mut Vec<AllocationId>,
    waits: Waits,
) -> Result<Charge, Refused> {
    let charge = match service.ask(&sent.routed, tried, waits.bytes) {
        Ok(Picked::Charge(charge)) => charge,
        Ok(Picked::Seat(seat)) => wait(service, sent, tried, (&seat, waits.until)).await?,
        Err(Unasked::None(none)) => return Err(no_replica(service, none, Duration::ZERO)),
        Err(Unasked::RoomFull) => return Err(room_full(service)),
    };
    tried.push(charge.replica);
    Ok(charge)
}

/// The same for a body that comes as the caller sends it: to one replica only.
pub(crate) async fn pass(
    upstream: &Upstream,
    service: &Arc<Service>,
    sent: &Sent<'_>,
    body: Incoming,
) -> Result<Response<AnswerBody>, Refused> {
    let waits = Waits { bytes: 0, until: Instant::now() + service.wait() };
    let charge = replica(service, sent, &mut Vec::new(), waits).await?;
    attempt(upstream, charge, sent, Outgoing::Passed(body)).await.answer
}

/// Until the first byte of an answer.
async fn attempt(
    upstream: &Upstream,
    mut charge: Charge,
    sent: &Sent<'_>,
    body: Outgoing,
) -> Attempted {
    let request = match outgoing(&charge, sent, body) {
        Ok(request) => request,
        Err(refused) => return Attempted { answer: Err(refused), again: None },
    };
    let silence = tokio::time::sleep(charge.silence_max);
    let gone = charge.gone.clone();
    tokio::pin!(silence);
    let begun = begin(upstream, request);
    let begun = tokio::select! {
        begun = begun => begun,
        () = gone.cancelled() => {
            let told = "it does not answer when it is looked at".to_owned();
            Err(Unanswered::Replica(Progress::Sent, told))
        }
        () = &mut silence => {
            charge.finish(Outcome::Failed);
            let refused = Refused::Silent { after: charge.silence_max };
            return Attempted { answer: Err(refused), again: Some(Progress::Sent) };
        }
    };
    let (parts, first, body) = match begun {
        Ok(begun) => begun,
        // The replica has nothing to do with it.
        Err(Unanswered::Caller) => {
            charge.finish(Outcome::Left);
            return Attempted { answer: Err(Refused::BodyCut), again: None };
        }
        Err(Unanswered::Replica(progress, detail)) => {
            match progress {
                Progress::Unsent => look_again(&mut charge),
                Progress::Sent | Progress::Answered => charge.finish(Outcome::Failed),
            }
            return Attempted { answer: Err(Refused::Upstream { detail }), again: Some(progress) };
        }
    };
    charge.first_byte();
    let (ends_as, again) = judge(parts.status, &parts.headers);
    if again.is_some() {
        // What it said is known, whether or not the rest of it is read.
        charge.finish(ends_as);
    }
    let kind = match is_events(&parts.headers) {
        true => Kind::Events { says_done: sent.says_done && parts.status.is_success() },
        false => Kind::Plain,
    };
    let passing = Passing::new(body, first, charge, ends_as, kind);
    let mut response = Response::new(AnswerBody::Passed(Box::new(passing)));
    *response.status_mut() = parts.status;
    *response.headers_mut() = parts.headers;
    strip(response.headers_mut());
    if kind != Kind::Plain {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    Attempted { answer: Ok(response), again }
}

/// The head of an answer and the first piece of its body.
async fn begin(upstream: &Upstream, request: Request<Outgoing>) -> Result<Begun, Unanswered> {
    let response = upstream.request(request).await.map_err(|error| {
        let reason = error.source().and_then(|source| source.downcast_ref());
        if reason.is_some_and(hyper::Error::is_user) {
            return Unanswered::Caller;
        }
        let progress = if error.is_connect() { Progress::Unsent } else { Progress::Sent };
        Unanswered::Replica(progress, format!("no answer: {}", innermost(&error)))
    })?;
    let (parts, mut body) = response.into_parts();
    let first = match body.frame().await {
        Some(Ok(first)) => Some(first),
        None => None,
        Some(Err(error)) => {
            let told = format!("an answer without a body: {}", innermost(&error));
            return Err(Unanswered::Replica(Progress::Sent, told));
        }
    };
    Ok((parts, first, body))
}

/// Looks at a replica that refused a connection until it takes one.
fn look_again(charge: &mut Charge) {
    let replica = charge.replica;
    if let Some((service, authority, left)) = charge.refused() {
        drop(tokio::spawn(probe::until_it_takes(service, replica, authority, left)));
    }
}

fn outgoing(
    charge: &Charge,
    sent: &Sent<'_>,
    body: Outgoing,
) -> Result<Request<Outgoing>, Refused> {
    let uri = Uri::builder()
        .scheme("http")
        .authority(charge.authority.clone())
        .path_and_query(sent.path)
        .build()
        .map_err(|_| Refused::NoSuchPath)?;
    let mut request = Request::new(body);
    *request.method_mut() = sent.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = sent.headers.clone();
    Ok(request)
}

/// What an answer says of the replica, and whether another may be asked instead.
fn judge(status: StatusCode, headers: &HeaderMap) -> (Outcome, Option<Progress>) {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let said = headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
            let spare_for = said.map_or(SPARED, SpanUs::from_secs);
            (Outcome::Overloaded { spare_for }, Some(Progress::Sent))
        }
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
            (Outcome::Failed, Some(Progress::Sent))
        }
        _ if status.is_server_error() => (Outcome::Failed, None),
        _ if status.is_client_error() => (Outcome::Declined, None),
        _ => (Outcome::Answered, None),
    }
}

/// What a worker has compressed cannot be told apart, and is passed on as it is.
fn is_events(headers: &HeaderMap) -> bool {
    if headers.contains_key(CONTENT_ENCODING) {
        return false;
    }
    let content = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let kind = content.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// Until somebody can be asked, as long as one may wait for that.
async fn wait(
    service: &Arc<Service>,
    sent: &Sent<'_>,
    tried: &[AllocationId],
    (seat, until): (&Seat, Instant),
) -> Result<Charge, Refused> {
    let began = Instant::now();
    loop {
        let is_late = tokio::time::timeout_at(until, seat.called()).await.is_err();
        let none = match service.ask_again(seat, &sent.routed, tried) {
            Ok(charge) => return Ok(charge),
            Err(none) => none,
        };
        // What it waited for may be no longer there.
        if is_late || service.wait().is_zero() {
            return Err(no_replica(service, none, began.elapsed()));
        }
    }
}

fn room_full(service: &Service) -> Refused {
    let (waiting, id) = (service.waiting(), &service.id);
    let detail = format!("{waiting} requests wait for a replica of {id}, as many as may");
    Refused::NoReplica { reason: "waiting_room_full", detail }
}

fn no_replica(service: &Service, none: NoReplica, waited: Duration) -> Refused {
    let (told, there) = service.replicas();
    let id = &service.id;
    let (reason, detail) = match none {
        NoReplica::AllFull => {
            ("queue_full", format!("all {told} replicas of {id} have enough to do"))
        }
        NoReplica::NoneReady if told == 0 => {
            ("no_replica", format!("no replica of {id} is ready yet"))
        }
        NoReplica::NoneReady => {
            ("no_healthy_replica", format!("of {told} replicas of {id} {there} answer"))
        }
    };
    let waited = match waited.as_secs() {
        0 => String::new(),
        seconds => format!("; waited {seconds} s"),
    };
    Refused::NoReplica { reason, detail: detail + &waited }
}

/// What is behind an error of several layers.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
