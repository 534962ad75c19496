//! `berth mock-worker`: a stand-in for a model server, for trials, tests and benchmarks. Its words
//! mean nothing; its times are those of the simulator's model of an engine, and its protocol,
//! health and metrics are real.

mod api;
mod engine;

use std::process::ExitCode;
use std::sync::atomic::AtomicU64;

use anyhow::Context as _;
use berth_sim::serve::EngineShape;
use tokio::net::TcpListener;

use crate::arguments::MockWorkerArguments;
use crate::stop;

/// Tokens in a block of its cache.
const BLOCK_TOKENS: u32 = 16;

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
    let shape = EngineShape { speed_milli: arguments.speed, ..EngineShape::default() };
    let worker = api::Worker {
        model: arguments.model.clone(),
        orders: engine::Orders::start(shape, BLOCK_TOKENS),
        asked: AtomicU64::new(0),
    };
    axum::serve(listener, api::router(worker))
        .with_graceful_shutdown(async {
            let _ = stop::on_signal().await;
        })
        .await
        .context("serve")
}
