//! Sources of http and https.

use berth_model::shown_source;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE, TRANSFER_ENCODING,
    USER_AGENT,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyDataStream, Empty};
use hyper::body::{Bytes, Incoming};
use tokio_stream::StreamExt as _;
use url::{Host, Url};

use super::dialler::Dialler;
use super::fetcher::{Content, Opened};
use super::order::{Begun, Failure, Order, Stamp};
use super::rules::{NotAllowed, Rules};
use crate::node::in_words;

/// As browsers have it.
const REDIRECTS_MAX: usize = 10;
/// Longer ones tell nothing more.
const TAG_BYTES_MAX: usize = 1024;
/// Of the agent's environment: `HOST=TOKEN` with commas between.
const TOKENS: &str = "ARTIFACT_TOKENS";

/// Asks for a source, for the rest of it where a beginning is there.
///
/// # Errors
/// Nothing that may be asked answers with it.
pub async fn open(order: &Order, rules: &Rules, dialler: &Dialler) -> Result<Opened, Failure> {
    let web = Web { order, rules, dialler };
    let begun = order.begun.as_ref().filter(|begun| begun.bytes > 0);
    if let Some((begun, condition)) =
        begun.and_then(|begun| Some((begun, begun.stamp.condition()?)))
        && let Some(content) = web.resume(begun, condition).await?
    {
        return Ok(Opened::Content(content));
    }
    web.open_whole().await
}

struct Web<'a> {
    order: &'a Order,
    rules: &'a Rules,
    dialler: &'a Dialler,
}

impl Web<'_> {
    /// `None`: the beginning is of another content, or the server gives no parts.
    async fn resume(&self, begun: &Begun, condition: &str) -> Result<Option<Content>, Failure> {
        // The last byte again: a part behind the end would be an error.
        let from = begun.bytes - 1;
        let headers = [(RANGE, format!("bytes={from}-")), (IF_RANGE, condition.to_owned())];
        let (_, response) = self.ask(&headers).await?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok(None);
        }
        let (first, total) = match content_range(response.headers()) {
            Some(range) => range,
            None => return Ok(None),
        };
        let stamp = Stamp { bytes: total, ..stamp_of(response.headers()) };
        let is_same = first == from
            && stamp.etag == begun.stamp.etag
            && stamp.last_modified == begun.stamp.last_modified
            && (begun.stamp.bytes.is_none() || stamp.bytes == begun.stamp.bytes);
        Ok(is_same.then(|| content(from, stamp, response)))
    }

    async fn open_whole(&self) -> Result<Opened, Failure> {
        let held = self.order.held.as_ref();
        let mut headers = Vec::new();
        if let Some(tag) = held.and_then(|held| held.etag.clone()) {
            headers.push((IF_NONE_MATCH, tag));
        } else if let Some(date) = held.and_then(|held| held.last_modified.clone()) {
            headers.push((IF_MODIFIED_SINCE, date));
        }
        let (url, response) = self.ask(&headers).await?;
        match response.status() {
            StatusCode::OK => {
                let stamp = stamp_of(response.headers());
                let tells_its_end =
                    stamp.bytes.is_some() || response.headers().contains_key(TRANSFER_ENCODING);
                if !tells_its_end && !self.order.is_pinned {
                    let why = "the server does not say where it ends: name its checksum";
                    return Err(Failure::Lasting(why.to_owned()));
                }
                Ok(Opened::Content(content(0, stamp, response)))
            }
            StatusCode::NOT_MODIFIED if !headers.is_empty() => Ok(Opened::Unchanged),
            status => Err(refusal(status, &url, &self.order.source)),
        }
    }

    /// The answer of whoever the source leads to, each step of the way allowed.
    async fn ask(
        &self,
        headers: &[(HeaderName, String)],
    ) -> Result<(Url, Response<Incoming>), Failure> {
        let mut url = Url::parse(&self.order.source)
            .map_err(|error| Failure::Lasting(format!("not a URL: {error}")))?;
        for _ in 0..=REDIRECTS_MAX {
            let reach = self.rules.reach(&url).map_err(|NotAllowed(why)| {
                let at = shown_source(url.as_str());
                Failure::Lasting(format!("{at} is not allowed: {why}"))
            })?;
            let response = self.dialler.send(reach, self.request(&url, headers)?).await?;
            if !is_redirect(response.status()) {
                return Ok((url, response));
            }
            let target = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            url = target.and_then(|target| url.join(target).ok()).ok_or_else(|| {
                Failure::Lasting("it leads elsewhere without saying where".to_owned())
            })?;
        }
        Err(Failure::Lasting(format!("it leads elsewhere more than {REDIRECTS_MAX} times")))
    }

    fn request(
        &self,
        url: &Url,
        headers: &[(HeaderName, String)],
    ) -> Result<Request<Empty<Bytes>>, Failure> {
        let mut request = Request::get(url.as_str())
            .header(USER_AGENT, concat!("berth/", env!("CARGO_PKG_VERSION")))
            // Sizes and parts are those of the content itself.
            .header(ACCEPT_ENCODING, "identity");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let tokens = self.order.environment.get(TOKENS).map_or("", String::as_str);
        if let Some(token) = token_for(url, tokens) {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        request
            .body(Empty::new())
            .map_err(|error| Failure::Lasting(format!("not a request: {error}")))
    }
}

/// The token of exactly this host. Never in plain text over a network.
fn token_for<'a>(url: &Url, tokens: &'a str) -> Option<&'a str> {
    let host = url.host_str()?;
    let is_here = match url.host()? {
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
        Host::Domain(_) => false,
    };
    let is_private = url.scheme() == "https" || is_here;
    let mut pairs = tokens.split(',').filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| is_private && *name == host).map(|(_, token)| token)
}

fn content(resumed_at: u64, stamp: Stamp, response: Response<Incoming>) -> Content {
    let total = stamp.bytes;
    let body = BodyDataStream::new(response.into_body());
    let body = body.map(|piece| piece.map_err(|error| in_words(&error)));
    Content { resumed_at, stamp, total, body: Box::pin(body) }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

fn stamp_of(headers: &HeaderMap) -> Stamp {
    Stamp {
        etag: text(headers, ETAG).filter(|tag| tag.len() <= TAG_BYTES_MAX),
        last_modified: text(headers, LAST_MODIFIED).filter(|date| date.len() <= TAG_BYTES_MAX),
        bytes: text(headers, CONTENT_LENGTH).and_then(|length| length.parse().ok()),
    }
}

/// Where a part begins, and how much there is in all.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = text(headers, CONTENT_RANGE)?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.parse().ok()?, total.parse().ok()))
}

fn refusal(status: StatusCode, url: &Url, source: &str) -> Failure {
    let at = shown_source(url.as_str());
    let at = if at == shown_source(source) { String::new() } else { format!(" at {at}") };
    let words = format!("the server answers {status}{at}");
    let passing = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    if passing { Failure::Passing(words) } else { Failure::Lasting(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_to_its_own_host_and_never_in_the_open() {
        let tokens = "huggingface.co=hf_x, 127.0.0.1=local";
        for (url, expected) in [
            ("https://huggingface.co/a", Some("hf_x")),
            ("http://huggingface.co/a", None),
            ("https://huggingface.co.evil.example/a", None),
            ("https://a.huggingface.co/a", None),
            ("http://127.0.0.1:8080/a", Some("local")),
        ] {
            assert_eq!(token_for(&Url::parse(url).unwrap(), tokens), expected, "{url}");
        }
    }

    #[test]
    fn an_answer_without_the_file_passes_or_lasts() {
        let url = Url::parse("https://h/a?sig=secret").unwrap();
        for (status, passing) in [(404, false), (403, false), (429, true), (503, true)] {
            let failure = refusal(StatusCode::from_u16(status).unwrap(), &url, "https://h/a");
            assert_eq!(matches!(failure, Failure::Passing(_)), passing, "{failure}");
            assert!(!failure.reason().contains("secret"), "{failure}");
        }
    }
}
