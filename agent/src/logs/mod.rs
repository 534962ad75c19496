//! A worker's output on its way to whoever asked: rotated files in order, then
//! what is written from now on. Each request has a stream of its own.

mod tail;

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_identity::Dialer;
use berth_proto::v1::LogPush;
use berth_proto::v1::agents_client::AgentsClient;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

use crate::session::dial;
use tail::Tail;

/// Chunks on their way; the reader's pace is the pace.
const CHUNKS_MAX: usize = 4;
/// Requests served at once; more are told to come again.
const REQUESTS_MAX: usize = 64;

/// What is asked for.
pub struct Wanted {
    pub request_id: String,
    pub path: PathBuf,
    pub follow: Follow,
    /// Turns true when nothing more will be written.
    pub ended: watch::Receiver<bool>,
}

/// Whether to wait for more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Follow {
    UntilTheEnd,
    NotAtAll,
}

/// The requests that are being served.
pub struct LogRequests {
    dialer: Dialer,
    running: BTreeMap<String, AbortHandle>,
}

impl LogRequests {
    /// None yet; answers go out through `dialer`.
    pub fn through(dialer: Dialer) -> LogRequests {
        LogRequests { dialer, running: BTreeMap::new() }
    }

    /// Serves a request over a connection of its own to `scheduler`.
    pub fn serve(&mut self, scheduler: String, wanted: Wanted) {
        self.running.retain(|_, task| !task.is_finished());
        let id = wanted.request_id.clone();
        let refused = (self.running.len() >= REQUESTS_MAX)
            .then(|| "too many log requests on this node at once".to_owned());
        let task = tokio::spawn(push(self.dialer.clone(), scheduler, wanted, refused));
        if let Some(older) = self.running.insert(id, task.abort_handle()) {
            older.abort();
        }
    }

    /// Answers a request that cannot be served.
    pub fn refuse(&self, scheduler: String, request_id: String, reason: String) {
        let (_, ended) = watch::channel(true);
        let nothing = Wanted { request_id, path: PathBuf::new(), follow: Follow::NotAtAll, ended };
        tokio::spawn(push(self.dialer.clone(), scheduler, nothing, Some(reason)));
    }

    /// Nobody reads it any more.
    pub fn cancel(&mut self, request_id: &str) {
        if let Some(task) = self.running.remove(request_id) {
            task.abort();
        }
    }
}

async fn push(dialer: Dialer, scheduler: String, wanted: Wanted, refused: Option<String>) {
    let channel = match dial::connect(&dialer, &scheduler).await {
        Ok(channel) => channel,
        Err(problem) => {
            debug!(problem, "log request cannot be answered");
            return;
        }
    };
    let (chunks, outgoing) = mpsc::channel(CHUNKS_MAX);
    let id = wanted.request_id.clone();
    let produce = async move {
        let end = match refused {
            Some(reason) => reason,
            None => send_all(&wanted, &chunks).await,
        };
        let last =
            LogPush { request_id: wanted.request_id.clone(), end: Some(end), ..LogPush::default() };
        // Whoever closed the stream knows that it is over.
        let _ = chunks.send(last).await;
    };
    let mut client = AgentsClient::new(channel);
    let (answer, ()) = tokio::join!(client.push_logs(ReceiverStream::new(outgoing)), produce);
    if let Err(status) = answer {
        debug!(request_id = id, problem = status.message(), "log stream ended");
    }
}

/// Sends everything and returns why nothing more comes; an empty text for the
/// plain end.
async fn send_all(wanted: &Wanted, chunks: &mpsc::Sender<LogPush>) -> String {
    let mut tail = match Tail::open(&wanted.path) {
        Ok(tail) => tail,
        Err(error) => return format!("cannot read the log: {error}"),
    };
    let mut ended = wanted.ended.clone();
    loop {
        // Asked before reading: what was written before the end is then read.
        let over = *ended.borrow_and_update() || wanted.follow == Follow::NotAtAll;
        match tail.next_chunk() {
            Ok(Some(data)) => {
                let request_id = wanted.request_id.clone();
                let push = LogPush { request_id, data: data.into(), end: None };
                if chunks.send(push).await.is_err() {
                    return String::new();
                }
            }
            Ok(None) if over => return String::new(),
            Ok(None) => {
                tokio::select! {
                    changed = tail.changed() => if let Err(error) = changed {
                        return format!("cannot watch the log: {error}");
                    },
                    // A closed channel is an end as well.
                    changed = ended.changed() => if changed.is_err() {
                        ended = watch::channel(true).1;
                    },
                    () = chunks.closed() => return String::new(),
                }
            }
            Err(error) => return format!("cannot read the log: {error}"),
        }
    }
}
