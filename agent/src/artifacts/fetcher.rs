//! The fetcher: a process that brings one source into the file that is its standard output. It
//! runs as the worker's user, sees nothing of a job but the source, gets its credentials over
//! a pipe, and ends when nobody holds the other end of its standard input any more.

use std::fs::File;
use std::io::{self, BufRead as _, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use berth_model::{Location, Scheme};
use hyper::body::Bytes;
use rustix::fs::fstatvfs;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::{Stream, StreamExt as _};

use super::dialler::Dialler;
use super::order::{Failure, News, Order, Stamp};
use super::rules::Rules;
use super::{files, objects, web};

/// A byte now and then is no progress: four sources that trickle would hold up every other
/// fetch of the host for ever. For each millisecond of patience; a mebibyte in half a minute.
const PROGRESS_BYTES_LEAST: u64 = 32;
/// What every disk keeps free: a source may be as long as it likes.
const FREE_BYTES_LEAST: u64 = 1 << 30;
/// Between two looks at what is free.
const LOOK_EVERY_BYTES: u64 = 64 << 20;

/// A source that answers.
pub enum Opened {
    /// As it was.
    Unchanged,
    Content(Content),
}

/// What comes from a source.
pub struct Content {
    /// Where in the file it goes.
    pub resumed_at: u64,
    pub stamp: Stamp,
    /// How long the file is in the end, where that is known.
    pub total: Option<u64>,
    pub body: Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>,
}

/// Runs a fetcher, whose order is a line of its standard input.
#[must_use]
pub fn fetch_artifact() -> ExitCode {
    confine();
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line).is_err() {
        return ExitCode::from(2);
    }
    let Ok(order) = serde_json::from_str::<Order>(&line) else { return ExitCode::from(2) };
    std::thread::spawn(|| {
        let mut rest = [0; 64];
        while io::stdin().read(&mut rest).is_ok_and(|read| read > 0) {}
        // Whoever wanted it is gone; what was written stays, to go on from.
        std::process::exit(1);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return ExitCode::from(2) };
    let outcome = runtime.block_on(fetch(&order));
    say(&outcome.unwrap_or_else(News::Failed));
    // A reader of a dead file system is waited for by nobody.
    runtime.shutdown_background();
    ExitCode::SUCCESS
}

/// Nobody who runs as the same user can look into this process, and it has no more rights than
/// a confined worker. Where the kernel refuses, the fetch is no worse than a worker there.
fn confine() {
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = crate::confinement::keep_few_rights();
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(Resource::Core, none);
}

fn say(news: &News) {
    if let Ok(mut line) = serde_json::to_vec(news) {
        line.push(b'\n');
        // Nobody may be listening.
        let _ = io::stderr().lock().write_all(&line);
    }
}

async fn fetch(order: &Order) -> Result<News, Failure> {
    let location =
        Location::parse(&order.source).map_err(|error| Failure::Lasting(error.to_string()))?;
    let rules = Rules::parse(&order.allow).map_err(Failure::Passing)?;
    let patience = Duration::from_millis(order.stall_ms);
    let opened = match location.scheme {
        Scheme::File => files::open(order, &location, &rules)?,
        Scheme::Http | Scheme::Https => web::open(order, &rules, &Dialler::new(patience)?).await?,
        Scheme::S3 | Scheme::Gs | Scheme::Az => {
            let dialler = Dialler::new(patience)?;
            let opening = objects::open(order, &location, &rules, &dialler);
            // The library asks more than once: for credentials, then for the object.
            timeout(patience * 2, opening).await.map_err(|_| stalled(patience))??
        }
    };
    match opened {
        Opened::Unchanged => Ok(News::Unchanged),
        Opened::Content(content) => receive(content, patience, order.bytes_max).await,
    }
}

fn stalled(patience: Duration) -> Failure {
    Failure::Passing(format!("no byte came for {patience:?}"))
}

async fn receive(content: Content, patience: Duration, bytes_max: u64) -> Result<News, Failure> {
    let too_long = |bytes: u64| {
        Failure::Lasting(format!("{bytes} bytes are more than agent.artifacts.max_size"))
    };
    if let Some(total) = content.total.filter(|total| *total > bytes_max) {
        return Err(too_long(total));
    }
    let disk = |error: io::Error| Failure::Host(format!("write it down: {error}"));
    let mut file = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(disk)?);
    file.set_len(content.resumed_at).map_err(disk)?;
    file.seek(SeekFrom::Start(content.resumed_at)).map_err(disk)?;
    let mut bytes = content.resumed_at;
    let stamp = content.stamp.clone();
    check_room(&file, content.total.map_or(0, |total| total.saturating_sub(bytes)))?;
    say(&News::Begins { resumed_at: bytes, stamp });
    let mut looked_at = bytes;
    let mut body = Paced::new(content.body, patience);
    loop {
        let Some(piece) = body.next().await? else { break };
        let piece =
            piece.map_err(|why| Failure::Passing(format!("cut after {bytes} bytes: {why}")))?;
        file.write_all(&piece).map_err(disk)?;
        bytes += piece.len() as u64;
        if bytes > bytes_max {
            return Err(too_long(bytes));
        }
        if bytes - looked_at >= LOOK_EVERY_BYTES {
            looked_at = bytes;
            check_room(&file, 0)?;
        }
    }
    match content.total {
        Some(total) if total != bytes => {
            Err(Failure::Passing(format!("cut after {bytes} of {total} bytes")))
        }
        Some(_) | None => Ok(News::Done { bytes }),
    }
}

/// A body that has to come at some pace.
struct Paced<S> {
    body: S,
    patience: Duration,
    due: Instant,
    /// Bytes that came since the last progress.
    come: u64,
}

impl<S: Stream<Item = Result<Bytes, String>> + Unpin> Paced<S> {
    fn new(body: S, patience: Duration) -> Paced<S> {
        Paced { body, patience, due: Instant::now() + patience, come: 0 }
    }

    async fn next(&mut self) -> Result<Option<Result<Bytes, String>>, Failure> {
        let piece = timeout_at(self.due, self.body.next()).await.map_err(|_| match self.come {
            0 => stalled(self.patience),
            come => Failure::Passing(format!("only {come} bytes came in {:?}", self.patience)),
        })?;
        self.come += piece
            .as_ref()
            .and_then(|piece| piece.as_ref().ok())
            .map_or(0, |piece| piece.len() as u64);
        let patience_ms = u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX);
        if self.come >= PROGRESS_BYTES_LEAST.saturating_mul(patience_ms) {
            (self.due, self.come) = (Instant::now() + self.patience, 0);
        }
        Ok(piece)
    }
}

/// Another host may have it. Who cannot say how much is free is believed to have enough.
fn check_room(file: &File, coming: u64) -> Result<(), Failure> {
    let Ok(disk) = fstatvfs(file) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < coming.saturating_add(FREE_BYTES_LEAST) {
        let free = free >> 20;
        let words = format!("no room: {coming} bytes are to come, and {free} MiB are free");
        return Err(Failure::Host(words));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_trickles_makes_no_progress() {
        let patience = Duration::from_millis(50);
        let piece = |length: usize| Ok(Bytes::from(vec![0; length]));
        let never = || tokio_stream::pending::<Result<Bytes, String>>();
        for (pieces, expected) in [
            (vec![], "no byte came for 50ms"),
            (vec![piece(1), piece(2)], "only 3 bytes came in 50ms"),
            (vec![piece(1), piece(1600)], "no byte came for 50ms"),
        ] {
            let count = pieces.len();
            let mut body = Paced::new(tokio_stream::iter(pieces).chain(never()), patience);
            for _ in 0..count {
                assert!(body.next().await.unwrap().is_some());
            }
            assert_eq!(body.next().await, Err(Failure::Passing(expected.to_owned())));
        }
        let mut whole = Paced::new(tokio_stream::iter([piece(1)]), patience);
        assert!(whole.next().await.unwrap().is_some());
        assert_eq!(whole.next().await, Ok(None));
    }
}
