//! Backups: the whole state as a file, streamed from a view, so that nothing
//! waits for a slow reader but the reader.

use std::io::{self, Write};
use std::pin::Pin;
use std::time::Duration;

use berth_proto::v1;
use berth_wire::backup::write_backup;
use bytes::Bytes;
use futures::Stream;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::debug;

use super::Shared;
use crate::access::Granted;
use crate::leader::clock::wall;

/// Bytes of a piece: far below what a client decodes.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait for a reader.
pub(super) const PIECES_MAX: usize = 4;

/// Each reader holds a thread and a state of the time when it began.
const READERS_MAX: usize = 4;
/// A reader that takes no piece for so long has gone.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

pub type BackupStream = Pin<Box<dyn Stream<Item = Result<v1::BackupPiece, Status>> + Send>>;

impl Shared {
    /// The state that every write acknowledged before this call is in.
    pub async fn backup(&self, granted: &Granted) -> Result<BackupStream, Status> {
        static READERS: Semaphore = Semaphore::const_new(READERS_MAX);
        let Ok(place) = READERS.try_acquire() else {
            let message = format!("{READERS_MAX} backups are being read from this scheduler");
            return Err(Status::resource_exhausted(message));
        };
        let view = self.read(granted, 0).await?.state;
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let _place = place;
            let piece = |data| v1::BackupPiece { data };
            let mut sink = Pieces { sender, runtime, piece, held: Vec::new() };
            let written = write_backup(&view, wall(), env!("CARGO_PKG_VERSION"), &mut sink);
            sink.finish(written, "backup");
        });
        Ok(Box::pin(ReceiverStream::new(pieces)))
    }
}

/// A file on its way to a reader.
pub(super) struct Pieces<P> {
    pub sender: mpsc::Sender<Result<P, Status>>,
    pub runtime: tokio::runtime::Handle,
    pub piece: fn(Bytes) -> P,
    /// Empty at first.
    pub held: Vec<u8>,
}

impl<P> Pieces<P> {
    fn send(&mut self) -> io::Result<()> {
        let data = Bytes::from(std::mem::take(&mut self.held));
        let sending = self.sender.send_timeout(Ok((self.piece)(data)), PIECE_TIMEOUT);
        self.runtime.block_on(sending).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Tells the reader, if the file could not be written.
    pub fn finish(&self, written: io::Result<()>, what: &'static str) {
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                debug!(what, "the reader of a file has gone");
            }
            Err(error) => {
                let failed = Status::internal(format!("the {what} cannot be written: {error}"));
                // The reader may have gone, or not read.
                let _ = self.sender.try_send(Err(failed));
            }
        }
    }
}

impl<P> Write for Pieces<P> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE_BYTES - self.held.len());
        self.held.extend_from_slice(&bytes[..count]);
        if self.held.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.held.is_empty() { Ok(()) } else { self.send() }
    }
}
