//! Backups: the whole state as a file, streamed from a view, so that nothing
//! waits for a slow reader but the reader.

use std::io::{self, Write};
use std::pin::Pin;

use berth_proto::v1;
use berth_wire::backup::write_backup;
use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::debug;

use super::Shared;
use crate::leader::clock::wall;

/// Bytes of a piece: far below what a client decodes.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait for a reader.
const PIECES_MAX: usize = 4;

pub type BackupStream = Pin<Box<dyn Stream<Item = Result<v1::BackupPiece, Status>> + Send>>;

impl Shared {
    /// The state that every write acknowledged before this call is in.
    pub async fn backup(&self) -> Result<BackupStream, Status> {
        let view = self.read(0).await?.state;
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        tokio::task::spawn_blocking(move || {
            let mut sink = Pieces { sender, held: Vec::with_capacity(PIECE_BYTES) };
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
    held: Vec<u8>,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let data = Bytes::from(std::mem::take(&mut self.held));
        let sent = self.sender.blocking_send(Ok(v1::BackupPiece { data }));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn fail(&self, error: &io::Error) {
        let failed = Status::internal(format!("the backup cannot be written: {error}"));
        // The reader may have gone.
        let _ = self.sender.blocking_send(Err(failed));
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
