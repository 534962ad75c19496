//! From a request to the answer of a replica.

use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use berth_model::AllocationId;
use berth_routing::retry::{Attempt, Progress, Repeatable, Retry};
use berth_routing::{NoReplica, Outcome, Request as Routed, SpanUs};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::answer::{AnswerBody, Kind, Passing};
use crate::asked;
use crate::clock::{Clock, duration};
use crate::errors::{Refused, json_response};
use crate::headers::{REQUEST_ID, onward, request_id, strip};
use crate::outgoing::{Outgoing, Upstream};
use crate::path::{Asks, asks};
use crate::probe;
use crate::service::{Charge, Picked, Seat, Service, Unasked};
use crate::table::Table;

const URL_BYTES_MAX: usize = 8 << 10;
/// A body that is read before it is sent on comes at least this fast, after the first seconds.
const BODY_BYTES_PER_SECOND: u64 = 1 << 10;
/// A body of any worker is kept up to here, so that it can be sent again.
const KEPT_BYTES_MAX: u64 = 1 << 20;
/// Who has too much to do and does not say for how long is spared so long.
const SPARED: SpanUs = SpanUs::from_secs(1);
/// Paths whose requests do no harm twice.
const REPEATABLE: [&str; 4] =
    ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/score"];
/// Paths whose streams say when they are done.
const SAYS_DONE: [&str; 2] = ["/v1/chat/completions", "/v1/completions"];

pub(crate) struct Proxy {
    pub table: RwLock<Arc<Table>>,
    pub upstream: Upstream,
    pub clock: Arc<Clock>,
    pub body_bytes_max: usize,
    /// How long a body may take before it is told to hurry, and may pause.
    pub body_grace: Duration,
}

/// A request that may be sent several times.
struct Sent<'a> {
    method: Method,
    path: &'a str,
    headers: HeaderMap,
    routed: Routed,
    repeatable: Repeatable,
    callers_retry: u32,
    says_done: bool,
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

impl Proxy {
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The answer to a request, always with its id.
    pub async fn handle(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Response<AnswerBody> {
        let id = request_id(request.headers(), || self.clock.chance());
        let mut response = match self.answer(request, peer, &id).await {
            Ok(response) => response,
            Err(refused) => {
                let code = refused.code();
                metrics::counter!("berth_gateway_refused_total", "code" => code).increment(1);
                refused.response()
            }
        };
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        id: &HeaderValue,
    ) -> Result<Response<AnswerBody>, Refused> {
        check(&request)?;
        let asks = asks(request.uri().path(), request.uri().query());
        let (parts, body) = request.into_parts();
        let table = self.table();
        match asks {
            Asks::Live => only_get(&parts, || Ok(plain(StatusCode::OK, "ok\n"))),
            Asks::Ready if table.is_told => only_get(&parts, || Ok(plain(StatusCode::OK, "ok\n"))),
            Asks::Ready => Err(Refused::NoRoutes),
            Asks::Models => only_get(&parts, || Ok(json_response(StatusCode::OK, &table.models()))),
            Asks::Model(id) => only_get(&parts, || match table.model(&id) {
                Some(model) => Ok(json_response(StatusCode::OK, &model)),
                None => Err(Refused::UnknownModel { model: id.clone() }),
            }),
            Asks::OpenAi => self.open_ai(&table, parts, body, peer, id).await,
            Asks::Invoke { service, rest } => {
                let Some(service) = table.of_name(&service) else {
                    return Err(unknown(&table, Refused::UnknownService { service }));
                };
                self.invoke(service, (parts, body), &rest, peer, id).await
            }
            Asks::Nothing => Err(Refused::NoSuchPath),
        }
    }

    async fn open_ai(
        &self,
        table: &Table,
        parts: Parts,
        body: Incoming,
        peer: SocketAddr,
        id: &HeaderValue,
    ) -> Result<Response<AnswerBody>, Refused> {
        let body = self.read(body).await?;
        let asked = asked::read(&body).map_err(Refused::BadBody)?;
        let model = asked.model.filter(|model| !model.is_empty()).ok_or(Refused::NoModel)?;
        let Some(service) = table.of_model(&model) else {
            return Err(unknown(table, Refused::UnknownModel { model }));
        };
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let sent = Sent {
            repeatable: repeatable(&parts.method, parts.uri.path()),
            says_done: SAYS_DONE.contains(&parts.uri.path()),
            callers_retry: callers_retry(&parts.headers),
            headers: onward(parts.headers, peer.ip(), id),
            method: parts.method,
            path,
            routed: asked.routing,
        };
        self.send(service, &sent, body).await
    }

    async fn invoke(
        &self,
        service: &Arc<Service>,
        (parts, body): (Parts, Incoming),
        rest: &str,
        peer: SocketAddr,
        id: &HeaderValue,
    ) -> Result<Response<AnswerBody>, Refused> {
        let sent = Sent {
            repeatable: repeatable(&parts.method, parts.uri.path()),
            says_done: false,
            callers_retry: callers_retry(&parts.headers),
            headers: onward(parts.headers, peer.ip(), id),
            method: parts.method,
            path: rest,
            routed: Routed::default(),
        };
        if body.size_hint().exact().is_some_and(|length| length <= KEPT_BYTES_MAX) {
            let body = self.read(body).await?;
            return self.send(service, &sent, body).await;
        }
        let until = Instant::now() + service.wait();
        let charge = self.replica(service, &sent, &mut Vec::new(), Waits { bytes: 0, until }).await?;
        self.attempt(charge, &sent, Outgoing::Passed(body)).await.answer
    }

    /// To one replica after the other, as long as the caller has heard nothing.
    async fn send(
        &self,
        service: &Arc<Service>,
        sent: &Sent<'_>,
        body: Bytes,
    ) -> Result<Response<AnswerBody>, Refused> {
        let mut tried = Vec::new();
        let mut made = 0;
        let waits = Waits { bytes: body.len() as u64, until: Instant::now() + service.wait() };
        loop {
            made += 1;
            let charge = self.replica(service, sent, &mut tried, waits).await?;
            let attempted = self.attempt(charge, sent, Outgoing::Whole(body.clone())).await;
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
        &self,
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

    /// Until the first byte of an answer.
    async fn attempt(&self, mut charge: Charge, sent: &Sent<'_>, body: Outgoing) -> Attempted {
        let request = match outgoing(&charge, sent, body) {
            Ok(request) => request,
            Err(refused) => return Attempted { answer: Err(refused), again: None },
        };
        let silence = tokio::time::sleep(charge.silence_max);
        let gone = charge.gone.clone();
        tokio::pin!(silence);
        let begun = self.begin(request);
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
                return Attempted {
                    answer: Err(Refused::Upstream { detail }),
                    again: Some(progress),
                };
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
    async fn begin(&self, request: Request<Outgoing>) -> Result<Begun, Unanswered> {
        let response = self.upstream.request(request).await.map_err(|error| {
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

    /// The whole body, within bounds of size and time.
    async fn read(&self, mut body: Incoming) -> Result<Bytes, Refused> {
        let bytes_max = self.body_bytes_max;
        let too_large = Refused::BodyTooLarge { bytes_max };
        if body.size_hint().lower() > bytes_max as u64 {
            return Err(too_large);
        }
        let began = Instant::now();
        let mut whole = BytesMut::new();
        loop {
            let frame = tokio::time::timeout(self.body_grace, body.frame()).await;
            let frame = match frame.map_err(|_| Refused::BodyTooSlow)? {
                None => return Ok(whole.freeze()),
                Some(frame) => frame.map_err(|_| Refused::BodyCut)?,
            };
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > bytes_max {
                return Err(too_large);
            }
            whole.extend_from_slice(&data);
            let seconds = began.elapsed().saturating_sub(self.body_grace).as_secs();
            if (whole.len() as u64) < seconds * BODY_BYTES_PER_SECOND {
                return Err(Refused::BodyTooSlow);
            }
        }
    }
}

fn check(request: &Request<Incoming>) -> Result<(), Refused> {
    let headers = request.headers();
    let hosts = headers.get_all(HOST).iter().count();
    if request.version() < Version::HTTP_2 && hosts != 1 || hosts > 1 {
        return Err(Refused::BadHost);
    }
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Refused::Method);
    }
    if headers.contains_key(UPGRADE) {
        return Err(Refused::Upgrade);
    }
    let asked = request.uri().path_and_query().map_or(0, |asked| asked.as_str().len());
    if asked > URL_BYTES_MAX {
        return Err(Refused::UrlTooLong);
    }
    let encoding = headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes);
    match encoding {
        None | Some(b"identity" | b"") => Ok(()),
        Some(_) => Err(Refused::Compressed),
    }
}

/// Looks at a replica that refused a connection until it takes one.
fn look_again(charge: &mut Charge) {
    let replica = charge.replica;
    if let Some((service, authority, left)) = charge.refused() {
        drop(tokio::spawn(probe::until_it_takes(service, replica, authority, left)));
    }
}

/// Before anybody has told who serves what, nothing is unknown.
fn unknown(table: &Table, refused: Refused) -> Refused {
    if table.is_told { refused } else { Refused::NoRoutes }
}

fn only_get(
    parts: &Parts,
    answer: impl Fn() -> Result<Response<AnswerBody>, Refused>,
) -> Result<Response<AnswerBody>, Refused> {
    if matches!(parts.method, Method::GET | Method::HEAD) { answer() } else { Err(Refused::Method) }
}

fn plain(status: StatusCode, text: &'static str) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::own(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

fn repeatable(method: &Method, path: &str) -> Repeatable {
    if method.is_idempotent() || REPEATABLE.contains(&path) {
        Repeatable::Yes
    } else {
        Repeatable::No
    }
}

/// How often the caller's own client has tried before (`openai` says so).
fn callers_retry(headers: &HeaderMap) -> u32 {
    let said = headers.get("x-stainless-retry-count");
    said.and_then(|count| count.to_str().ok()?.parse().ok()).unwrap_or(0)
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
