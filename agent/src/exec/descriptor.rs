//! The ends of pipes and terminals, for tasks that wait instead of threads that do. A terminal is
//! no pipe, but read and written like one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use tokio::net::unix::pipe;

/// What is written at the other end is read here. That is a description of its own, which goes
/// on blocking.
pub struct Reader(pipe::Receiver);

/// What is written here is read at the other end.
pub struct Writer(pipe::Sender);

impl Reader {
    /// # Errors
    /// The system's.
    pub fn new(descriptor: OwnedFd) -> io::Result<Reader> {
        pipe::Receiver::from_owned_fd_unchecked(unblocked(descriptor)?).map(Reader)
    }

    /// Waits for something; 0 at the end. Nothing is lost where this is dropped.
    ///
    /// # Errors
    /// The system's.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.0.readable().await?;
            match self.0.try_read(buffer) {
                Ok(length) => return Ok(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // As a terminal says that nobody is at its other end any more.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => return Ok(0),
                Err(error) => return Err(error),
            }
        }
    }

    /// What is there by now; 0 at the end, or where nothing is. Asks the system whatever is
    /// known of the descriptor: of a terminal it is told a moment late.
    pub fn read_left(&self, buffer: &mut [u8]) -> usize {
        rustix::io::read(&self.0, buffer).unwrap_or(0)
    }
}

impl Writer {
    /// # Errors
    /// The system's.
    pub fn new(descriptor: OwnedFd) -> io::Result<Writer> {
        pipe::Sender::from_owned_fd_unchecked(unblocked(descriptor)?).map(Writer)
    }

    /// Waits until all of it is written.
    ///
    /// # Errors
    /// The system's; nobody reads it any more.
    pub async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            self.0.writable().await?;
            match self.0.try_write(rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsFd for Writer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn unblocked(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    let flags = fcntl_getfl(&descriptor)?;
    fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK)?;
    Ok(descriptor)
}
