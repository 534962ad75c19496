//! A worker's output on its way to whoever asked: rotated files in order, then
//! what is written from now on; and the files of its directory. Each request has a stream of
//! its own.

mod files;
mod tail;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_identity::Dialer;
use berth_proto::v1::LogPush;
use berth_proto::v1::agents_client::AgentsClient;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

use crate::session::dial;
pub use files::Below;
use tail::Tail;

/// Chunks on their way; the reader's pace is the pace.
const CHUNKS_MAX: usize = 4;
/// Requests served at once; more are told to come again.
const REQUESTS_MAX: usize = 64;

/// What is asked for.
pub struct Wanted {
    pub request_id: String,
    /// Or why there is nothing.
    pub what: Result<What, String>,
}

/// Bytes on this host.
pub enum What {
    /// A log, with what was rotated away.
    Output {
        path: PathBuf,
        follow: Follow,
        /// Turns true when nothing more will be written.
        ended: watch::Receiver<bool>,
    },
    /// A file or a directory beneath one.
    Below(Below),
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
    /// For those that block: a disk that does not answer keeps them also when nobody asks any more.
    blocking: Arc<Semaphore>,
}

impl LogRequests {
    /// None yet; answers go out through `dialer`.
    pub fn through(dialer: Dialer) -> LogRequests {
        let blocking = Arc::new(Semaphore::new(REQUESTS_MAX));
        LogRequests { dialer, running: BTreeMap::new(), blocking }
    }

    /// Serves a request over a connection of its own to `scheduler`.
    pub fn serve(&mut self, scheduler: String, wanted: Wanted) {
        self.running.retain(|_, task| !task.is_finished());
        let Wanted { request_id: id, what } = wanted;
        let what = what.and_then(|what| match self.running.len() {
            ..REQUESTS_MAX => Ok(what),
            _ => Err("too many requests for logs and files on this node at once".to_owned()),
        });
        let wanted = Wanted { request_id: id.clone(), what };
        let (dialer, blocking) = (self.dialer.clone(), self.blocking.clone());
        let task = tokio::spawn(push(dialer, scheduler, wanted, blocking));
        if let Some(older) = self.running.insert(id, task.abort_handle()) {
            older.abort();
        }
    }

    /// Nobody reads it any more.
    pub fn cancel(&mut self, request_id: &str) {
        if let Some(task) = self.running.remove(request_id) {
            task.abort();
        }
    }
}

async fn push(dialer: Dialer, scheduler: String, wanted: Wanted, blocking: Arc<Semaphore>) {
    let channel = match dial::connect(&dialer, &scheduler).await {
        Ok(channel) => channel,
        Err(problem) => {
            debug!(problem, "log request cannot be answered");
            return;
        }
    };
    let (chunks, outgoing) = mpsc::channel(CHUNKS_MAX);
    let Wanted { request_id, what } = wanted;
    let id = request_id.clone();
    let produce = async move {
        let end = match what {
            Ok(What::Output { path, follow, ended }) => {
                send_all(&path, follow, ended, &request_id, &chunks).await
            }
            Ok(What::Below(below)) => match blocking.try_acquire_owned() {
                Ok(place) => {
                    let (id, chunks) = (request_id.clone(), chunks.clone());
                    let sent = tokio::task::spawn_blocking(move || {
                        let _place = place;
                        files::send(&below, &id, &chunks)
                    });
                    sent.await.unwrap_or_else(|error| error.to_string())
                }
                Err(_) => "the disk of this node does not answer".to_owned(),
            },
            Err(reason) => reason,
        };
        let last = LogPush { request_id, end: Some(end), ..LogPush::default() };
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
async fn send_all(
    path: &Path,
    follow: Follow,
    mut ended: watch::Receiver<bool>,
    request_id: &str,
    chunks: &mpsc::Sender<LogPush>,
) -> String {
    let mut tail = match Tail::open(path) {
        Ok(tail) => tail,
        Err(error) => return format!("cannot read the log: {error}"),
    };
    loop {
        // Asked before reading: what was written before the end is then read.
        let over = *ended.borrow_and_update() || follow == Follow::NotAtAll;
        match tail.next_chunk() {
            Ok(Some(data)) => {
                let request_id = request_id.to_owned();
                let push = LogPush { request_id, data: data.into(), ..LogPush::default() };
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
