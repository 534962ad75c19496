//! Health and metrics over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use berth_identity::tls::{Credentials, Listener, Protocol, server_config};
use berth_identity::{Authenticate, Caller, Page, serve_pages};
use berth_telemetry::Metrics;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::info;

use crate::gpus::{Seen, gauges_page};

/// Serves `/livez`, `/readyz` (a session is up) and `/metrics` on `address`
/// until the process ends; with TLS where there are credentials.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(
    address: &str,
    credentials: Option<Arc<Credentials>>,
    connected: Arc<AtomicBool>,
    metrics: Option<Metrics>,
    gpus: watch::Receiver<Seen>,
) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    let address = listener.local_addr().context("ask for the listening address")?;
    info!(%address, "health and metrics");
    let ready = move || async move {
        if connected.load(Ordering::Relaxed) {
            (StatusCode::OK, "ok\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "no session with a scheduler\n")
        }
    };
    let text = move || async move {
        let text = metrics.map(|metrics| metrics.render()).unwrap_or_default();
        let text = text + &gauges_page(&gpus.borrow());
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
    };
    let mut router = Router::new();
    for page in Page::ALL {
        let shown = match page {
            Page::Live => get(|| async { "ok\n" }),
            Page::Ready => get(ready.clone()),
            Page::Metrics => get(text.clone()),
        };
        router = router.route(page.path(), shown);
    }
    let tls = match credentials {
        Some(credentials) => {
            let config = server_config(credentials, Protocol::Http).context("set up TLS")?;
            Some(Arc::new(config))
        }
        None => None,
    };
    let authenticate: Authenticate = Arc::new(Caller::of_connection);
    let listener = Listener::new(listener, tls);
    tokio::spawn(serve_pages(listener, router, authenticate, std::future::pending()));
    Ok(())
}
