//! `berth mock-worker`: a stand-in for a model server. Its only model answers
//! nothing; health and the list of models are real.

use std::process::ExitCode;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::arguments::MockWorkerArguments;
use crate::stop;

pub fn run(arguments: &MockWorkerArguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(serve(arguments))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(arguments: &MockWorkerArguments) -> anyhow::Result<()> {
    let address = ("127.0.0.1", arguments.port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on 127.0.0.1:{}", arguments.port))?;
    let router = Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/v1/models", get(models))
        .with_state(arguments.model.clone());
    axum::serve(listener, router)
        .with_graceful_shutdown(async {
            let _ = stop::on_signal().await;
        })
        .await
        .context("serve")
}

/// The list of models in the shape of OpenAI's API.
async fn models(State(model): State<String>) -> ([(&'static str, &'static str); 1], String) {
    let list = serde_json::json!({
        "object": "list",
        "data": [{ "id": model, "object": "model", "created": 0, "owned_by": "berth-mock-worker" }],
    });
    ([("content-type", "application/json")], list.to_string())
}
