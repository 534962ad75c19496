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
const PIECES_MAX: usize = 4;

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
            let mut sink = Pieces { sender, runtime, held: Vec::with_capacity(PIECE_BYTES) };
            let written = write_backup(&view, wall(), env!("CARGO_PKG_VERSION"), &mut sink);
            match written {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    debug!("the reader of a backup has gone");
                }
                Err(error) => sink.fail(&error),
            }
        });
        Ok(Box::pin(ReceiverStream::new(pieces)))
    }
}

struct Pieces {
    sender: mpsc::Sender<Result<v1::BackupPiece, Status>>,
    runtime: tokio::runtime::Handle,
    held: Vec<u8>,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let data = Bytes::from(std::mem::take(&mut self.held));
        let sending = self.sender.send_timeout(Ok(v1::BackupPiece { data }), PIECE_TIMEOUT);
        self.runtime.block_on(sending).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn fail(&self, error: &io::Error) {
        let failed = Status::internal(format!("the backup cannot be written: {error}"));
        // The reader may have gone, or not read.
        let _ = self.sender.try_send(Err(failed));
    }
}

impl Write for Pieces {
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
