//! Pages over HTTP for the machines that may see them: certificates only, since
//! no browser sends a token by itself.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::serve::IncomingStream;

use crate::rule::{Caller, MachineProof, Page, PersonProof, decide, rule_of_page};
use crate::tls::{Link, Listener, PeerInfo, Standing};

/// From a connection to who calls.
pub type Authenticate = Arc<dyn Fn(&PeerInfo) -> Caller + Send + Sync>;

/// Serves pages on a listener until `stop`; each only to whom its rule names. A
/// page without a rule is not found.
///
/// # Errors
/// What the server itself says.
pub async fn serve_pages(
    listener: Listener,
    router: Router,
    authenticate: Authenticate,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = router.layer(middleware::from_fn(move |request: Request<Body>, next: Next| {
        let authenticate = authenticate.clone();
        async move { guard(&authenticate, request, next).await }
    }));
    axum::serve(Links(listener), router.into_make_service_with_connect_info::<Peer>())
        .with_graceful_shutdown(stop)
        .await
}

impl Caller {
    /// What a connection proves by itself, where nothing is known of
    /// revocations.
    #[must_use]
    pub fn of_connection(peer: &PeerInfo) -> Caller {
        let machine = match &peer.standing {
            Standing::PlainText => return Caller::PlainText,
            Standing::LocalSocket => return Caller::LocalSocket,
            Standing::Stranger => MachineProof::None,
            Standing::Member(certified) => MachineProof::Good(certified.id.clone()),
            Standing::Lapsed(certified) => MachineProof::Lapsed(certified.id.clone()),
        };
        Caller::Known { machine, person: PersonProof::None }
    }
}

async fn guard(authenticate: &Authenticate, request: Request<Body>, next: Next) -> Response {
    let path = request.uri().path();
    let Some(page) = Page::ALL.into_iter().find(|page| page.path() == path) else {
        return (StatusCode::NOT_FOUND, "no such page\n").into_response();
    };
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|info| &info.0.0);
    let Some(peer) = peer else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    match decide(rule_of_page(page), &authenticate(peer)) {
        Ok(()) => next.run(request).await,
        Err(denied) => {
            let status = if denied.is_unauthenticated() {
                StatusCode::UNAUTHORIZED
            } else {
                StatusCode::FORBIDDEN
            };
            (status, format!("{denied}\n")).into_response()
        }
    }
}

/// Who is at the other end, as axum hands it on.
#[derive(Clone, Debug)]
struct Peer(PeerInfo);

impl Connected<IncomingStream<'_, Links>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Links>) -> Peer {
        Peer(stream.remote_addr().clone())
    }
}

/// Connections for pages.
struct Links(Listener);

impl axum::serve::Listener for Links {
    type Io = Link;
    type Addr = PeerInfo;

    async fn accept(&mut self) -> (Link, PeerInfo) {
        match self.0.accept().await {
            Some(link) => {
                let peer = link.peer().clone();
                (link, peer)
            }
            // The task that accepts ends with this value alone.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<PeerInfo> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}
