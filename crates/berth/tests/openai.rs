//! The `openai` client asks workers directly and through a gateway: the same comes back. Which
//! workers: mock ones, and the example that serves a real model.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::path::{Path, PathBuf};

use berth::local::{GatewayPort, LocalCluster};
use berth_client::Client;
use berth_model::DurationMs;
use berth_tests::skip::skipped;
use support::callers;
use tokio::process::Command;

/// Every check of `check.py`, in its order.
const CHECKS: [&str; 10] = [
    "models",
    "chat",
    "chat_in_pieces",
    "completions",
    "embeddings_of_a_real_model",
    "errors",
    "retries",
    "timeouts",
    "cancel",
    "many_at_once",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openai")
}

/// Where the only replica of a job listens, as soon as it is ready.
async fn worker(client: &Client, job: &str) -> String {
    let port = support::until("a replica to be ready", || async {
        let all = support::allocations(client, job).await;
        let ready = all.iter().find(|one| one.state == "running" && one.ready)?;
        Some(ready.ports.first()?.port)
    })
    .await;
    format!("127.0.0.1:{port}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openai_client_gets_through_a_gateway_what_the_worker_says() {
    let test = "the_openai_client_gets_through_a_gateway_what_the_worker_says";
    if !folder().join(".venv/installed").exists() {
        return skipped(test, "openai", "crates/berth/tests/openai/install.sh has not been run");
    }
    let data = tempfile::tempdir().unwrap();
    let mut cluster = LocalCluster::start(support::plan(data.path(), 1, 1)).await.unwrap();
    let client = cluster.client();

    let mut spec = callers::chat("1");
    spec.tasks[0].count = 1;
    support::submit(&client, &spec).await;
    spec.name = support::text("narrow");
    for argument in &mut spec.tasks[0].command {
        *argument = argument.replace("chat", "narrow");
    }
    (spec.route.wait, spec.route.in_flight_max) = (DurationMs(0), Some(1));
    support::submit(&client, &spec).await;

    // As the example's page says it.
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/minilm");
    let example = example.canonicalize().unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["run"])
        .arg(example.join("minilm.toml"))
        .arg("--set")
        .arg(format!("task.workdir={}", example.display()))
        .env("BERTH_SERVER", cluster.servers().join(","))
        .output()
        .await
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));

    cluster.start_gateway(GatewayPort::Any).unwrap();
    let gateway = cluster.gateway.as_ref().unwrap().address.clone();
    let workers = ["chat", "narrow", "minilm"].map(|job| worker(&client, job));
    let workers = futures::future::join_all(workers).await;
    callers::until_answered(&gateway).await;

    let checked = Command::new(folder().join(".venv/bin/python"))
        .arg(folder().join("check.py"))
        .arg(&gateway)
        .args(&workers)
        .output()
        .await
        .unwrap();
    let complaint = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{complaint}");
    let held = String::from_utf8_lossy(&checked.stdout);
    assert_eq!(held.lines().collect::<Vec<_>>(), CHECKS);
}
