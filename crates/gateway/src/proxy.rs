//! From a request to the answer of a replica.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use berth_routing::Request as Routed;
use berth_routing::retry::Repeatable;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, HOST, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::answer::AnswerBody;
use crate::asked;
use crate::clock::Clock;
use crate::errors::{Refused, json_response};
use crate::headers::{REQUEST_ID, onward, request_id};
use crate::outgoing::Upstream;
use crate::path::{Asks, asks};
use crate::sending::{self, Sent};
use crate::service::Service;
use crate::table::Table;

const URL_BYTES_MAX: usize = 8 << 10;
/// A body that is read before it is sent on comes at least this fast, after the first seconds.
const BODY_BYTES_PER_SECOND: u64 = 1 << 10;
/// A body of any worker is kept up to here, so that it can be sent again.
const KEPT_BYTES_MAX: u64 = 1 << 20;
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
        sending::send(&self.upstream, service, &sent, body).await
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
            return sending::send(&self.upstream, service, &sent, body).await;
        }
        sending::pass(&self.upstream, service, &sent, body).await
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
