//! Sources in buckets. Who may be asked there is the owner's of the agent to say: endpoint and
//! credentials come from its environment, and a job names a bucket and an object alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use berth_model::{Location, Scheme};
use http_body_util::BodyExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    ClientConfigKey, ClientOptions, Error, GetOptions, GetRange, GetResult, ObjectStore,
    RetryConfig,
};
use tokio_stream::StreamExt as _;

use super::dialler::Dialler;
use super::fetcher::{Content, Opened};
use super::order::{Failure, Order, Stamp};
use super::rules::{NotAllowed, Reach, Rules, decoded};
use crate::node::in_words;

/// Asks for an object, for the rest of it where a beginning is there.
///
/// # Errors
/// It may not be asked for, or nobody gives it.
pub async fn open(
    order: &Order,
    location: &Location<'_>,
    rules: &Rules,
    dialler: &Dialler,
) -> Result<Opened, Failure> {
    let lasting = |why: String| Failure::Lasting(why);
    let name = decoded(location.path.trim_start_matches('/'))
        .ok_or_else(|| lasting("its name is not a text".to_owned()))?;
    rules
        .check_object(location, &name)
        .map_err(|NotAllowed(why)| lasting(format!("it is not allowed: {why}")))?;
    let path = Path::parse(&name).map_err(|error| lasting(error.to_string()))?;
    let store =
        store(location, &order.environment, dialler).map_err(|error| lasting(in_words(&error)))?;
    if let Some(begun) = order.begun.as_ref().filter(|begun| begun.bytes > 0)
        && let Some(tag) = &begun.stamp.etag
    {
        // The last byte again: a part behind the end would be an error.
        let from = begun.bytes - 1;
        let range = Some(GetRange::Offset(from));
        let options = GetOptions { if_match: Some(tag.clone()), range, ..GetOptions::default() };
        match store.get_opts(&path, options).await {
            Ok(got) if got.range.start == from => {
                let found = content(got);
                if found.stamp == begun.stamp {
                    return Ok(Opened::Content(found));
                }
            }
            Ok(_) | Err(Error::Precondition { .. } | Error::NotSupported { .. }) => {}
            Err(error) => return Err(failure(&error)),
        }
    }
    let if_none_match = order.held.as_ref().and_then(|held| held.etag.clone());
    match store.get_opts(&path, GetOptions { if_none_match, ..GetOptions::default() }).await {
        Ok(got) => Ok(Opened::Content(content(got))),
        Err(Error::NotModified { .. }) => Ok(Opened::Unchanged),
        Err(error) => Err(failure(&error)),
    }
}

fn store(
    location: &Location<'_>,
    environment: &BTreeMap<String, String>,
    dialler: &Dialler,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    // Whoever started this fetch tries again.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let connector = Connector(dialler.clone());
    let of = |prefix: &'static str| {
        let ours = environment.iter().filter(move |(name, _)| name.starts_with(prefix));
        ours.map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
    };
    match location.scheme {
        Scheme::Gs => {
            let mut builder = GoogleCloudStorageBuilder::new();
            for (name, value) in of("GOOGLE_") {
                if let Ok(key) = name.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            let builder = builder.with_bucket_name(location.authority).with_retry(retry);
            Ok(Arc::new(builder.with_http_connector(connector).build()?))
        }
        Scheme::Az => {
            let mut builder = MicrosoftAzureBuilder::new();
            for (name, value) in of("AZURE_") {
                if let Ok(key) = name.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            let builder = builder.with_container_name(location.authority).with_retry(retry);
            Ok(Arc::new(builder.with_http_connector(connector).build()?))
        }
        // Whoever calls this has looked: it is a bucket.
        Scheme::S3 | Scheme::File | Scheme::Http | Scheme::Https => {
            let mut builder = AmazonS3Builder::new();
            for (name, value) in of("AWS_") {
                if let Ok(key) = name.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            let builder = builder.with_bucket_name(location.authority).with_retry(retry);
            Ok(Arc::new(builder.with_http_connector(connector).build()?))
        }
    }
}

fn content(got: GetResult) -> Content {
    let meta = &got.meta;
    let stamp = Stamp {
        etag: meta.e_tag.clone(),
        last_modified: Some(meta.last_modified.to_rfc3339()),
        bytes: Some(meta.size),
    };
    let (resumed_at, total) = (got.range.start, Some(meta.size));
    let body = got.into_stream();
    let body = body.map(|piece| piece.map_err(|error| in_words(&error)));
    Content { resumed_at, stamp, total, body: Box::pin(body) }
}

fn failure(error: &Error) -> Failure {
    match error {
        Error::NotFound { .. } => Failure::Lasting("there is no such object".to_owned()),
        Error::PermissionDenied { .. } => {
            Failure::Lasting("the agent's credentials do not open it".to_owned())
        }
        Error::Unauthenticated { .. } => {
            Failure::Lasting("the agent has no credentials that are valid there".to_owned())
        }
        Error::InvalidPath { .. }
        | Error::NotImplemented { .. }
        | Error::UnknownConfigurationKey { .. } => Failure::Lasting(in_words(error)),
        Error::Generic { .. }
        | Error::JoinError { .. }
        | Error::NotSupported { .. }
        | Error::AlreadyExists { .. }
        | Error::Precondition { .. }
        | Error::NotModified { .. }
        // The library's own list may grow.
        | _ => Failure::Passing(in_words(error)),
    }
}

/// Requests of the library on connections of the fetcher.
#[derive(Debug)]
struct Connector(Dialler);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain_text = match options.get_config_value(&ClientConfigKey::AllowHttp).as_deref() {
            Some("true") => PlainText::Allowed,
            Some(_) | None => PlainText::Refused,
        };
        Ok(HttpClient::new(Service { dialler: self.0.clone(), plain_text }))
    }
}

#[derive(Debug)]
struct Service {
    dialler: Dialler,
    plain_text: PlainText,
}

/// Whether credentials may travel so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PlainText {
    Allowed,
    Refused,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if self.plain_text == PlainText::Refused && request.uri().scheme_str() != Some("https") {
            let words = "its endpoint is of plain text, which ALLOW_HTTP does not allow";
            return Err(HttpError::new(HttpErrorKind::Unknown, std::io::Error::other(words)));
        }
        let answer = self.dialler.send(Reach::Any, request).await;
        let answer = answer.map_err(|failure| {
            HttpError::new(HttpErrorKind::Connect, std::io::Error::other(failure.to_string()))
        })?;
        Ok(answer.map(|body| {
            let told = |error| HttpError::new(HttpErrorKind::Interrupted, error);
            HttpResponseBody::new(body.map_err(told))
        }))
    }
}
