//! A service of mock workers, and who asks it through a gateway.

use berth_model::{DurationMs, HealthCheck, HealthProbe, JobKind, JobSpec, RestartPolicy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub const REPLICAS: u32 = 2;

/// Mock workers, ready when they say so.
pub fn chat(version: &str) -> JobSpec {
    let program = env!("CARGO_BIN_EXE_berth");
    let command = [program, "mock-worker", "--model", "chat", "--port", "${PORT}"];
    let mut spec = super::batch("chat", REPLICAS, command.map(str::to_owned).to_vec());
    spec.kind = JobKind::Service;
    let task = &mut spec.tasks[0];
    task.restart = RestartPolicy::default_for(JobKind::Service);
    task.ports = vec![super::text("http")];
    task.env.insert("VERSION".to_owned(), version.to_owned());
    task.health = Some(HealthCheck {
        probe: HealthProbe::Http { path: "/health".to_owned(), port: super::text("http") },
        interval: DurationMs(500),
        timeout: DurationMs(500),
        failures: 20,
        start_period: DurationMs::from_secs(60),
    });
    spec
}

pub const SHORT: &str = r#"{"model": "chat", "max_tokens": 2, "messages": []}"#;
pub const LONG: &str = r#"{"model": "chat", "max_tokens": 5000, "stream": true, "messages": []}"#;

/// Some ten seconds.
pub const MIDDLE: &str = r#"{"model": "chat", "max_tokens": 1500, "stream": true, "messages": []}"#;

pub async fn send(address: &str, body: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n";
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.ok()?;
    Some(stream)
}

/// The whole answer; `None` where the connection broke.
pub async fn ask(address: &str, body: &str) -> Option<String> {
    let mut answer = String::new();
    send(address, body).await?.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

pub async fn until_answered(address: &str) {
    super::until("the gateway to pass requests on", || async {
        ask(address, SHORT).await.filter(|answer| answer.starts_with("HTTP/1.1 200"))
    })
    .await;
}
