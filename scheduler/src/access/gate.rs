//! The layer in front of the gRPC services.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use berth_identity::tls::PeerInfo;
use berth_identity::{Denied, Rule, StandardCall, decide, rule_of, rule_of_standard};
use berth_model::Role;
use berth_proto::Call;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::audit::Audit;
use super::caller::Authenticator;
use super::granted::{Circumstances, Granted, REQUEST_ID};
use crate::rpc::status;

const REQUEST_ID_BYTES_MAX: usize = 64;

/// Puts a gate in front of a service.
#[derive(Clone)]
pub struct GateLayer(Arc<Checks>);

struct Checks {
    authenticator: Authenticator,
    audit: Audit,
}

impl GateLayer {
    pub fn new(authenticator: Authenticator, audit: Audit) -> GateLayer {
        GateLayer(Arc::new(Checks { authenticator, audit }))
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { inner, checks: self.0.clone() }
    }
}

/// Lets through what may be called.
#[derive(Clone)]
pub struct Gate<S> {
    inner: S,
    checks: Arc<Checks>,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answer<S::Error> {
        let Some((path, rule)) = rule_of_path(request.uri().path()) else {
            let path = request.uri().path();
            let unknown = Status::unimplemented(format!("this scheduler knows no call {path:?}"));
            return Box::pin(std::future::ready(Ok(unknown.into_http())));
        };
        let checks = self.checks.clone();
        // The one that is ready answers; its clone becomes so for the next call.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let peer = request.extensions().get::<PeerInfo>().cloned();
            let granted = match checks.admit(path, rule, peer.as_ref(), request.headers()).await {
                Ok(granted) => granted,
                Err(refused) => return Ok(refused.into_http()),
            };
            request.extensions_mut().insert(granted.clone());
            let pending = is_recorded(rule, path).then(|| granted.pending());
            let answer = inner.call(request).await?;
            // Only a refusal is told in the headers; what is told later is no
            // refusal of a right.
            match (Status::from_header_map(answer.headers()), pending) {
                (Some(refused), pending) if is_refusal_of_right(&refused) => {
                    if let Some(pending) = pending {
                        pending.forget();
                    }
                    granted.refused(&refused);
                }
                (Some(failed), Some(pending)) => pending.done(failed.code().description()),
                (None, Some(pending)) => pending.done("ok"),
                (Some(_) | None, None) => {}
            }
            Ok(answer)
        })
    }
}

impl Checks {
    async fn admit(
        &self,
        call: &'static str,
        rule: Rule,
        peer: Option<&PeerInfo>,
        headers: &HeaderMap,
    ) -> Result<Granted, Status> {
        let granted = |who| {
            let (request_id, audit) = (given_id(headers), self.audit.clone());
            Granted::new(who, Circumstances { call, request_id, audit })
        };
        let mut who = self.authenticator.authenticate(peer, headers);
        let mut decided = decide(rule, &who.caller);
        if decided == Err(Denied::BadToken) {
            // It may have been made a moment ago, which this replica had yet to
            // hear of. Only a member of the cluster gets as far as here.
            if let Err(unsure) = self.authenticator.catch_up().await {
                granted(who).refused(&unsure);
                return Err(unsure);
            }
            who = self.authenticator.authenticate(peer, headers);
            decided = decide(rule, &who.caller);
        }
        let tiresome =
            rule == Rule::Joining && self.audit.is_tiresome(who.remote.map(|at| at.ip()));
        let granted = granted(who);
        if tiresome {
            // Whoever guesses at tokens is not even told that it was wrong.
            let refused = status::join_refused();
            granted.refused(&refused);
            return Err(refused);
        }
        match decided {
            Ok(()) => Ok(granted),
            Err(denied) => {
                let refused = status::denied(&denied);
                granted.refused(&refused);
                Err(refused)
            }
        }
    }
}

fn rule_of_path(path: &str) -> Option<(&'static str, Rule)> {
    if let Some(call) = Call::from_path(path) {
        return Some((call.path(), rule_of(call)));
    }
    let standard = StandardCall::ALL.into_iter().find(|call| call.path() == path);
    standard.map(|call| (call.path(), rule_of_standard(call)))
}

fn is_refusal_of_right(status: &Status) -> bool {
    matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated)
}

/// Whether an auditor asks about it: what changes something, and who read the
/// output of workers.
fn is_recorded(rule: Rule, path: &str) -> bool {
    match rule {
        Rule::Person(Role::Read) => path == Call::JobsLogs.path(),
        Rule::Anyone | Rule::Server | Rule::Agent | Rule::Gateway | Rule::Member => false,
        Rule::Person(Role::Submit | Role::Operate | Role::Admin)
        | Rule::Joining
        | Rule::Renewal
        | Rule::LocalSocket => true,
    }
}

/// The caller's own id of the call, if it is one that a line can hold.
fn given_id(headers: &HeaderMap) -> Option<String> {
    let given = headers.get(REQUEST_ID).and_then(|text| text.to_str().ok());
    let usable = given.filter(|text| !text.is_empty() && text.len() <= REQUEST_ID_BYTES_MAX);
    usable.map(str::to_owned)
}
