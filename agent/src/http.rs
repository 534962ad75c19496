//! Health and metrics over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use berth_telemetry::Metrics;
use tokio::net::TcpListener;
use tracing::info;

/// Serves `/livez`, `/readyz` (a session is up) and `/metrics` on `address`
/// until the process ends.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(
    address: &str,
    connected: Arc<AtomicBool>,
    metrics: Option<Metrics>,
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
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
    };
    let routes = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(text));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(())
}
