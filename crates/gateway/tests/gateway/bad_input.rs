//! What callers send that they should not.

use std::time::Duration;

use berth_gateway::{GatewayOptions, Patience};
use http::Method;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::rig::{Rig, chat};
use crate::worker::{Step, Worker, chunk, json, stream, worker};

async fn rig() -> (Rig, Worker) {
    let worker = worker(json("{}")).await;
    let options = GatewayOptions { body_bytes_max: 10_000, ..GatewayOptions::default() };
    (Rig::with(vec![chat(&[&worker.address])], options).await, worker)
}

fn nothing_came(worker: &Worker) {
    assert_eq!(worker.count.load(std::sync::atomic::Ordering::SeqCst), 0, "it was forwarded");
}

#[tokio::test]
async fn b52_b53_bodies_that_are_none_and_models_that_there_are_not() {
    let (rig, worker) = rig().await;
    let deep = format!("{{\"model\": \"chat\", \"a\": {}{}}}", "[".repeat(40), "]".repeat(40));
    for (body, status, code, param) in [
        ("hello", 400, "bad_body", None),
        ("[]", 400, "bad_body", None),
        (deep.as_str(), 400, "bad_body", None),
        (r#"{"model": "chat", "model": "other"}"#, 400, "bad_body", Some("model")),
        (r#"{"model": "\ud800"}"#, 400, "bad_body", None),
        (r#"{"model": ["chat"]}"#, 400, "bad_body", Some("model")),
        ("{}", 400, "missing_model", Some("model")),
        (r#"{"model": ""}"#, 400, "missing_model", Some("model")),
        (r#"{"model": "Chat"}"#, 404, "model_not_found", Some("model")),
        (r#"{"model": "gpt-5"}"#, 404, "model_not_found", Some("model")),
    ] {
        let answer = rig.chat(body).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status.as_u16(), &error["code"]), (status, &code.into()), "{body}");
        assert_eq!(error["param"].as_str(), param, "{body}");
        assert_eq!(error["type"], "invalid_request_error", "{body}");
        assert!(!error["message"].as_str().unwrap().is_empty());
        assert!(answer.headers.contains_key("x-request-id"));
    }
    nothing_came(&worker);
}

#[tokio::test]
async fn b54_b55_heads_that_are_none() {
    let (rig, worker) = rig().await;
    let body = r#"{"model": "chat"}"#;
    let post = |headers: &str| {
        format!("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}")
    };
    let many: String = (0..2_000).map(|number| format!("h{number}: 1\r\n")).collect();
    let long = format!("a: {}\r\n", "x".repeat(70 << 10));
    for (bytes, expected) in [
        (post("Content-Length: 5\r\nContent-Length: 6\r\n"), "400"),
        (post("Content-Length: +5\r\n"), "400"),
        (post("Content-Length: 0x5\r\n"), "400"),
        (post("Transfer-Encoding: chunked, identity\r\n"), "400"),
        (post("Content-Length : 17\r\n"), "400"),
        (post("a: b\0c\r\n"), "400"),
        (post(&many), "431"),
        (post(&long), "431"),
        (format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(100 << 10)), "4"),
        (format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(9 << 10)), "414"),
    ] {
        let answer = rig.raw(bytes.as_bytes()).await;
        let shown = &bytes[..bytes.len().min(120)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{shown}: {answer}");
    }
    nothing_came(&worker);
}

/// Where both framings stand, the chunks count and the length is not passed on: a replica cannot
/// read it in another way than the gateway does.
#[tokio::test]
async fn b54_two_framings_are_made_one() {
    let (rig, mut worker) = rig().await;
    let bytes = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\
        Transfer-Encoding: chunked\r\n\r\n11\r\n{\"model\": \"chat\"}\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n\
        Host: x\r\n\r\n";
    let answer = rig.raw(bytes).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = worker.requests.recv().await.unwrap().to_ascii_lowercase();
    assert!(
        seen.contains("content-length: 17\r\n") && !seen.contains("transfer-encoding"),
        "{seen}"
    );
}

#[tokio::test]
async fn b56_bodies_that_are_too_large_cut_short_or_compressed() {
    let (rig, worker) = rig().await;
    let large = format!("{{\"model\": \"chat\", \"a\": \"{}\"}}", "x".repeat(20_000));
    let told = rig.chat(&large).await;
    assert_eq!((told.status.as_u16(), told.code().as_str()), (413, "body_too_large"));
    let chunked = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{large}\r\n0\r\n\r\n",
        large.len()
    );
    assert!(rig.raw(chunked.as_bytes()).await.starts_with("HTTP/1.1 413"));
    let packed = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}";
    assert!(rig.raw(packed.as_bytes()).await.starts_with("HTTP/1.1 415"));
    nothing_came(&worker);
}

const SOON: Duration = Duration::from_millis(50);
const POST: &str = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n";

/// A gateway that has this much patience with its callers, and one replica.
async fn impatient(patience: Patience, worker: &Worker) -> Rig {
    let options = GatewayOptions { patience, ..GatewayOptions::default() };
    Rig::with(vec![chat(&[&worker.address])], options).await
}

#[tokio::test]
async fn b57_heads_and_bodies_that_come_too_slowly() {
    let worker = worker(json("{}")).await;
    let rig = impatient(Patience { headers: SOON, ..Patience::default() }, &worker).await;
    let begun = rig.raw(b"POST /v1/chat/completions HTTP/1.1\r\nHost").await;
    assert!(begun.is_empty() || begun.starts_with("HTTP/1.1 408"), "{begun}");
    let rig = impatient(Patience { body: SOON, ..Patience::default() }, &worker).await;
    let short = rig.raw(format!("{POST}Content-Length: 100\r\n\r\n{{").as_bytes()).await;
    assert!(short.starts_with("HTTP/1.1 408") && short.contains("body_too_slow"), "{short}");
    nothing_came(&worker);
}

/// What it held at the replica is given back.
#[tokio::test]
async fn f73_who_takes_nothing_of_its_answer_is_cut_off() {
    let much = format!("data: {}\n\n", "x".repeat(1 << 20)).repeat(64);
    let mut worker = worker(vec![stream(), chunk(&much), Step::Hang]).await;
    let rig = impatient(Patience { stalled: SOON, ..Patience::default() }, &worker).await;
    let mut caller = TcpStream::connect(rig.address).await.unwrap();
    let body = r#"{"model": "chat", "stream": true, "messages": []}"#;
    let asked = format!("{POST}Content-Length: {}\r\n\r\n{body}", body.len());
    caller.write_all(asked.as_bytes()).await.unwrap();
    assert!(worker.requests.recv().await.is_some());
    rig.await_idle().await;
    assert_eq!(rig.gateway.services()[0].requests, 1);
}

#[tokio::test]
async fn b58_hosts_methods_and_upgrades() {
    let (rig, worker) = rig().await;
    for (bytes, expected) in [
        ("GET /v1/models HTTP/1.1\r\n\r\n", "400"),
        ("GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "405"),
        ("TRACE /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
        (
            "GET /invoke/chat/ HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "501",
        ),
    ] {
        let answer = rig.raw(bytes.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{bytes}: {answer}");
    }
    let post = rig.ask(Method::POST, "/v1/models", "").await;
    assert_eq!((post.status.as_u16(), post.code().as_str()), (405, "method_not_allowed"));
    nothing_came(&worker);
}

#[tokio::test]
async fn b60_what_only_the_worker_can_judge_is_passed_to_it() {
    let (rig, mut worker) = rig().await;
    let body = r#"{"model": "chat", "stream": "yes", "max_tokens": -1, "temperature": "hot"}"#;
    assert_eq!(rig.chat(body).await.status.as_u16(), 200);
    assert!(worker.requests.recv().await.unwrap().ends_with(body));
}

#[tokio::test]
async fn b63_paths_that_are_nobodys() {
    let (rig, worker) = rig().await;
    for path in ["/v1/../admin", "//v1/models", "/v1/%2e%2e/x", "/v1/%00", "/V1/models", "/", "/x"]
    {
        let bytes = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = rig.raw(bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
        assert!(answer.contains("unknown_path"), "{path}: {answer}");
    }
    nothing_came(&worker);
}
