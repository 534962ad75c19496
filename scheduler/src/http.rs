//! Health and metrics over HTTP.

use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use berth_identity::tls::Listener;
use berth_identity::{Authenticate, Page, serve_pages};
use berth_model::Guards;
use tokio_util::sync::CancellationToken;

use crate::access::Authenticator;
use crate::rpc::Shared;

/// What a page needs.
#[derive(Clone)]
struct Pages {
    shared: Shared,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// Serves until `stop`.
pub async fn serve(
    listener: Listener,
    authenticator: Authenticator,
    shared: Shared,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut router = Router::new();
    for page in Page::ALL {
        let shown = match page {
            Page::Live => get(|| async { "ok\n" }),
            Page::Ready => get(ready),
            Page::Metrics => get(show_metrics),
        };
        router = router.route(page.path(), shown);
    }
    let router = router.with_state(Pages { shared, metrics });
    let authenticate: Authenticate =
        Arc::new(move |peer| authenticator.authenticate(Some(peer), &HeaderMap::new()).caller);
    serve_pages(listener, router, authenticate, stop.cancelled_owned()).await.context("serve http")
}

/// Ready: a leader is known and this node can read from it.
async fn ready(State(pages): State<Pages>) -> (StatusCode, String) {
    match pages.shared.node.read_index().await {
        Ok(_) => {
            let age = pages.shared.published.last_commit_age().as_secs_f64();
            (StatusCode::OK, format!("ok\nlast commit {age:.1} s ago\n"))
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

async fn show_metrics(State(pages): State<Pages>) -> String {
    let raft = pages.shared.node.status();
    let leads = pages.shared.leading().is_some();
    metrics::gauge!("berth_is_leader").set(if leads { 1.0 } else { 0.0 });
    metrics::gauge!("berth_raft_term").set(as_float(raft.term));
    metrics::gauge!("berth_raft_last_log_index").set(as_float(raft.last_log_index.unwrap_or(0)));
    metrics::gauge!("berth_raft_applied_index").set(as_float(raft.applied_index.unwrap_or(0)));
    let age = pages.shared.published.last_commit_age();
    metrics::gauge!("berth_last_commit_age_seconds").set(age.as_secs_f64());
    let late = pages.shared.published.pulse.late();
    metrics::gauge!("berth_calls_late_seconds").set(late.as_secs_f64());
    metrics::gauge!("berth_disk_free_bytes").set(as_float(pages.shared.node.disk_free_bytes()));
    let view = pages.shared.published.view();
    metrics::gauge!("berth_jobs").set(as_float(view.jobs().len() as u64));
    metrics::gauge!("berth_allocations_live").set(as_float(view.allocations().len() as u64));
    metrics::gauge!("berth_queue_tasks").set(as_float(view.queue_len() as u64));
    let shut = |is_shut: fn(&Guards) -> bool| {
        view.nodes().values().filter(|node| is_shut(&node.guards)).count() as u64
    };
    let (cpu, memory) = (shut(|one| one.cpu.is_some()), shut(|one| one.memory.is_some()));
    metrics::gauge!("berth_nodes_guarded", "resource" => "cpu").set(as_float(cpu));
    metrics::gauge!("berth_nodes_guarded", "resource" => "memory").set(as_float(memory));
    metrics::gauge!("berth_nodes").set(as_float(view.nodes().len() as u64));
    (pages.metrics)()
}

#[expect(clippy::cast_precision_loss, reason = "a metric may round beyond 2^53")]
fn as_float(value: u64) -> f64 {
    value as f64
}
