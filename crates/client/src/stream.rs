//! Streams that go on after a break.

use berth_proto::v1::jobs_client::JobsClient;
use berth_proto::v1::{Event, EventsRequest, LogChunk, LogsRequest};
use tonic::{Status, Streaming};

use crate::attempt::{self, Missed};
use crate::cluster::{Client, Repeat};
use crate::error::{ClientError, Failure, Tried};

/// Breaks in a row without a message between them, after which a stream ends:
/// the call that opens it has been patient each time already.
const BREAKS_MAX: u32 = 5;

/// Events in order, each once: after a break the stream goes on behind the last
/// token.
#[derive(Debug)]
pub struct EventStream {
    client: Client,
    request: EventsRequest,
    open: Option<Streaming<Event>>,
    breaks: u32,
}

/// Output in order, each byte once: after a break the part already seen is passed
/// over.
#[derive(Debug)]
pub struct LogStream {
    client: Client,
    request: LogsRequest,
    open: Option<Streaming<LogChunk>>,
    breaks: u32,
    /// The allocation being read.
    allocation_id: String,
    /// Bytes given out.
    seen: u64,
    /// Bytes still to be passed over.
    skip: u64,
}

impl EventStream {
    pub(crate) fn new(client: Client, request: EventsRequest) -> EventStream {
        EventStream { client, request, open: None, breaks: 0 }
    }

    /// The next event; `None` at the end, which a followed stream does not have.
    ///
    /// # Errors
    /// See [`ClientError`]; after one the stream is to be dropped.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            let stream = match &mut self.open {
                Some(stream) => stream,
                None => self.open.insert(self.client.open_events(self.request.clone()).await?),
            };
            match stream.message().await {
                Ok(Some(event)) => {
                    self.breaks = 0;
                    self.request.after.clone_from(&event.token);
                    return Ok(Some(event));
                }
                // A scheduler that is about to stop ends its streams.
                Ok(None) if self.request.follow => broken(&mut self.breaks, None)?,
                Ok(None) => return Ok(None),
                Err(status) => broken(&mut self.breaks, Some(attempt::read(&status)))?,
            }
            self.open = None;
        }
    }
}

impl LogStream {
    pub(crate) fn new(client: Client, request: LogsRequest) -> LogStream {
        LogStream {
            client,
            request,
            open: None,
            breaks: 0,
            allocation_id: String::new(),
            seen: 0,
            skip: 0,
        }
    }

    /// The next piece of output; `None` when the attempt has ended, or at the end
    /// of what there is where nothing is followed.
    ///
    /// # Errors
    /// See [`ClientError`]; after one the stream is to be dropped.
    pub async fn next(&mut self) -> Result<Option<LogChunk>, ClientError> {
        loop {
            let stream = match &mut self.open {
                Some(stream) => stream,
                None => {
                    self.skip = self.seen;
                    self.open.insert(self.client.open_logs(self.request.clone()).await?)
                }
            };
            match stream.message().await {
                Ok(Some(chunk)) => {
                    self.breaks = 0;
                    let chunk = self.without_seen(chunk);
                    if !chunk.data.is_empty() || !chunk.note.is_empty() {
                        return Ok(Some(chunk));
                    }
                }
                Ok(None) => return Ok(None),
                Err(status) => {
                    broken(&mut self.breaks, Some(attempt::read(&status)))?;
                    self.open = None;
                }
            }
        }
    }

    /// Cuts off what was given out before a break. Another allocation, which is a
    /// newer attempt, is new from its first byte.
    fn without_seen(&mut self, mut chunk: LogChunk) -> LogChunk {
        if !chunk.allocation_id.is_empty() && chunk.allocation_id != self.allocation_id {
            self.allocation_id.clone_from(&chunk.allocation_id);
            (self.seen, self.skip) = (0, 0);
        }
        let length = chunk.data.len() as u64;
        let cut = self.skip.min(length);
        self.skip -= cut;
        self.seen += length - cut;
        // `cut` is at most the length of a chunk in memory.
        chunk.data = chunk.data.split_off(usize::try_from(cut).unwrap_or(chunk.data.len()));
        chunk
    }
}

/// Counts a break; an error once there have been too many, or where going on is
/// of no use.
fn broken(breaks: &mut u32, missed: Option<Missed>) -> Result<(), ClientError> {
    let failure = match missed {
        Some(Missed::Refused(refusal) | Missed::Crowded { refusal, .. }) => {
            return Err(ClientError::Refused(Box::new(refusal)));
        }
        Some(Missed::Untouched { failure, .. } | Missed::Unknown { failure }) => failure,
        Some(Missed::Redirected { message, .. }) => Failure::Unavailable(message),
        None => Failure::ConnectionLost,
    };
    *breaks += 1;
    if *breaks > BREAKS_MAX {
        let tried = vec![Tried { address: "the stream".to_owned(), failure }];
        return Err(ClientError::Unreachable { tried });
    }
    Ok(())
}

/// Why a stream that cannot go on ended.
pub(crate) fn broken_off(status: &Status) -> ClientError {
    let mut breaks = BREAKS_MAX;
    match broken(&mut breaks, Some(attempt::read(status))) {
        Err(error) => error,
        // It was one break too many.
        Ok(()) => ClientError::Unreachable { tried: Vec::new() },
    }
}

impl Client {
    async fn open_events(&self, request: EventsRequest) -> Result<Streaming<Event>, ClientError> {
        self.call(Repeat::Read, request, |channel, request| async move {
            JobsClient::new(channel).events(without_limit(request)).await
        })
        .await
    }

    async fn open_logs(&self, request: LogsRequest) -> Result<Streaming<LogChunk>, ClientError> {
        self.call(Repeat::Read, request, |channel, request| async move {
            JobsClient::new(channel).logs(without_limit(request)).await
        })
        .await
    }
}

/// A stream lives longer than the attempt to open it.
pub(crate) fn without_limit<Q>(request: tonic::Request<Q>) -> tonic::Request<Q> {
    let mut request = request;
    request.metadata_mut().remove("grpc-timeout");
    request
}
