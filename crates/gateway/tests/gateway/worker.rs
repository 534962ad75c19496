//! A worker that does what a test tells it, byte by byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What it does with a request.
#[derive(Clone, Debug)]
pub enum Step {
    /// Writes that.
    Say(String),
    /// Waits until the test lets it go on.
    Hold,
    /// Closes the connection.
    Close,
    /// Says nothing and does not close, until the other side does.
    Hang,
    /// The same, for those who only look.
    HangIfGet,
}

pub struct Worker {
    pub address: String,
    /// Requests as they came: the head, an empty line, and the body.
    pub requests: mpsc::UnboundedReceiver<String>,
    /// Connections that the other side closed while it hung.
    pub closed: mpsc::UnboundedReceiver<()>,
    pub count: Arc<AtomicUsize>,
    pub go_on: Arc<tokio::sync::Semaphore>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers every request with these steps.
pub async fn worker(steps: Vec<Step>) -> Worker {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    worker_on(listener, steps)
}

pub fn worker_on(listener: TcpListener, steps: Vec<Step>) -> Worker {
    let address = listener.local_addr().unwrap().to_string();
    let (told, requests) = mpsc::unbounded_channel();
    let (told_closed, closed) = mpsc::unbounded_channel();
    let count = Arc::new(AtomicUsize::new(0));
    let go_on = Arc::new(tokio::sync::Semaphore::new(0));
    let (counted, held) = (Arc::clone(&count), Arc::clone(&go_on));
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (steps, told, told_closed) = (steps.clone(), told.clone(), told_closed.clone());
            let (counted, held) = (Arc::clone(&counted), Arc::clone(&held));
            connections.spawn(async move {
                serve(stream, &steps, &told, &told_closed, &counted, &held).await;
            });
        }
    });
    Worker { address, requests, closed, count, go_on, task }
}

async fn serve(
    mut stream: TcpStream,
    steps: &[Step],
    told: &mpsc::UnboundedSender<String>,
    told_closed: &mpsc::UnboundedSender<()>,
    counted: &AtomicUsize,
    held: &tokio::sync::Semaphore,
) {
    while let Some(request) = request(&mut stream).await {
        counted.fetch_add(1, Ordering::SeqCst);
        let is_get = request.starts_with("GET ");
        let _ = told.send(request);
        for step in steps {
            match step {
                Step::Say(text) => {
                    if stream.write_all(text.as_bytes()).await.is_err() {
                        return;
                    }
                }
                Step::Hold => held.acquire().await.unwrap().forget(),
                Step::Close => return,
                Step::HangIfGet if !is_get => {}
                Step::Hang | Step::HangIfGet => {
                    while matches!(stream.read(&mut [0; 64]).await, Ok(1..)) {}
                    let _ = told_closed.send(());
                    return;
                }
            }
        }
    }
}

/// `None` when the other side has closed.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let head = loop {
        let found = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(found) = found {
            break found + 4;
        }
        read_more(stream, &mut bytes).await?;
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
    while bytes.len() < head + length {
        read_more(stream, &mut bytes).await?;
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

async fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    let mut chunk = [0; 4096];
    match stream.read(&mut chunk).await {
        Ok(0) | Err(_) => None,
        Ok(read) => {
            bytes.extend_from_slice(&chunk[..read]);
            Some(())
        }
    }
}

pub fn say(text: impl Into<String>) -> Step {
    Step::Say(text.into())
}

/// A whole answer.
pub fn answer(status: &str, content: &str, body: &str) -> Step {
    let length = body.len();
    say(format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content}\r\ncontent-length: {length}\r\n\r\n{body}"
    ))
}

pub fn json(body: &str) -> Vec<Step> {
    vec![answer("200 OK", "application/json", body)]
}

/// The head of a stream.
pub fn stream() -> Step {
    say("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
}

pub fn chunk(text: &str) -> Step {
    say(format!("{:x}\r\n{text}\r\n", text.len()))
}

pub fn end() -> Step {
    say("0\r\n\r\n")
}
