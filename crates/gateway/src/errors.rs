//! What a caller is told when there is no answer, in the shape that clients of OpenAI's API
//! understand.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use crate::answer::AnswerBody;
use crate::asked::BadBody;

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    BadBody(BadBody),
    NoModel,
    BodyTooLarge {
        bytes_max: usize,
    },
    BodyTooSlow,
    BodyCut,
    Compressed,
    BadHost,
    UrlTooLong,
    NoSuchPath,
    Method,
    Upgrade,
    UnknownModel {
        model: String,
    },
    UnknownService {
        service: String,
    },
    /// None is ready, all have as much as they may have, or too many wait.
    NoReplica {
        reason: &'static str,
        detail: String,
    },
    /// Every replica that was asked failed before it said anything.
    Upstream {
        detail: String,
    },
    /// Nobody has told who serves what.
    NoRoutes,
    /// Nothing came for so long.
    Silent {
        after: Duration,
    },
}

impl Refused {
    pub fn status(&self) -> StatusCode {
        match self {
            Refused::BadBody(_) | Refused::NoModel | Refused::BodyCut | Refused::BadHost => {
                StatusCode::BAD_REQUEST
            }
            Refused::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Refused::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Refused::Compressed => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Refused::UrlTooLong => StatusCode::URI_TOO_LONG,
            Refused::NoSuchPath | Refused::UnknownModel { .. } | Refused::UnknownService { .. } => {
                StatusCode::NOT_FOUND
            }
            Refused::Method => StatusCode::METHOD_NOT_ALLOWED,
            Refused::Upgrade => StatusCode::NOT_IMPLEMENTED,
            Refused::NoReplica { .. } | Refused::NoRoutes => StatusCode::SERVICE_UNAVAILABLE,
            Refused::Upstream { .. } => StatusCode::BAD_GATEWAY,
            Refused::Silent { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// As it is counted, and told as `code`.
    pub fn code(&self) -> &'static str {
        match self {
            Refused::BadBody(_) => "bad_body",
            Refused::NoModel => "missing_model",
            Refused::BodyTooLarge { .. } => "body_too_large",
            Refused::BodyTooSlow => "body_too_slow",
            Refused::BodyCut => "body_cut",
            Refused::Compressed => "compressed_body",
            Refused::BadHost => "bad_host",
            Refused::UrlTooLong => "url_too_long",
            Refused::NoSuchPath => "unknown_path",
            Refused::Method => "method_not_allowed",
            Refused::Upgrade => "no_upgrade",
            Refused::UnknownModel { .. } => "model_not_found",
            Refused::UnknownService { .. } => "service_not_found",
            Refused::NoReplica { reason, .. } => reason,
            Refused::Upstream { .. } => "upstream_failed",
            Refused::Silent { .. } => "upstream_silent",
            Refused::NoRoutes => "no_routes",
        }
    }

    fn kind(&self) -> &'static str {
        match self.status() {
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => "upstream_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded",
            _ => "invalid_request_error",
        }
    }

    fn param(&self) -> Option<&'static str> {
        match self {
            Refused::BadBody(bad) => bad.param,
            Refused::NoModel | Refused::UnknownModel { .. } => Some("model"),
            Refused::BodyTooLarge { .. }
            | Refused::BodyTooSlow
            | Refused::BodyCut
            | Refused::Compressed
            | Refused::BadHost
            | Refused::UrlTooLong
            | Refused::NoSuchPath
            | Refused::Method
            | Refused::Upgrade
            | Refused::UnknownService { .. }
            | Refused::NoReplica { .. }
            | Refused::Upstream { .. }
            | Refused::NoRoutes
            | Refused::Silent { .. } => None,
        }
    }

    fn message(&self) -> String {
        match self {
            Refused::BadBody(bad) => bad.message.clone(),
            Refused::NoModel => {
                "`model` is missing; expected the id of one of /v1/models".to_owned()
            }
            Refused::BodyTooLarge { bytes_max } => {
                format!("the body has more than {bytes_max} bytes")
            }
            Refused::BodyTooSlow => "the body did not come in time".to_owned(),
            Refused::BodyCut => "the body is shorter than was said".to_owned(),
            Refused::Compressed => "compressed bodies are not taken; send it as it is".to_owned(),
            Refused::BadHost => "expected one Host".to_owned(),
            Refused::UrlTooLong => "the URL is too long".to_owned(),
            Refused::NoSuchPath => {
                "there is nothing at this path; expected /v1/… or /invoke/SERVICE/…".to_owned()
            }
            Refused::Method => "this path does not have that method".to_owned(),
            Refused::Upgrade => "connections are not upgraded".to_owned(),
            Refused::UnknownModel { model } => {
                format!("there is no model `{model}`; /v1/models lists those that there are")
            }
            Refused::UnknownService { service } => format!("there is no service `{service}`"),
            Refused::NoReplica { detail, .. } | Refused::Upstream { detail } => detail.clone(),
            Refused::Silent { after } => {
                format!("no replica said anything for {} s", after.as_secs_f64())
            }
            Refused::NoRoutes => "no scheduler has told this gateway its routes yet".to_owned(),
        }
    }

    /// When it is worth while to ask again.
    fn retry_after(&self) -> Option<u64> {
        matches!(self, Refused::NoReplica { .. } | Refused::NoRoutes).then_some(1)
    }

    pub fn json(&self) -> Value {
        json!({ "error": {
            "message": self.message(),
            "type": self.kind(),
            "param": self.param(),
            "code": self.code(),
        } })
    }

    pub fn response(&self) -> Response<AnswerBody> {
        let mut response = json_response(self.status(), &self.json());
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// An answer of the gateway's own.
pub(crate) fn json_response(status: StatusCode, value: &Value) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::own(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// The event that ends a stream which broke off.
pub(crate) fn event(code: &str, message: &str) -> Bytes {
    let told = json!({ "error": {
        "message": message, "type": "upstream_error", "param": null, "code": code,
    } });
    Bytes::from(format!("data: {told}\n\n"))
}
