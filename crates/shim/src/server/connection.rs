//! One client's connection. It refuses to block: what cannot be sent now waits in a bounded buffer, and a client that
//! does not read is dropped, never waited for.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use crate::protocol::{FrameBuffer, FrameError, Request, ServerBody, ServerMessage, encode_frame};

/// Unsent bytes at which a client counts as not reading; an answer with a record is about 5 KiB.
const UNSENT_BYTES_MAX: usize = 1 << 20;
/// Waits pending on one connection; a client needs one.
const WAITS_MAX: usize = 64;
/// Bytes taken from one client before the others get their turn.
const READ_BYTES_MAX: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    input: FrameBuffer,
    output: Vec<u8>,
    attached: Option<String>,
    /// Request id and allocation of each wait that has no answer yet.
    waits: Vec<(u64, String)>,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    /// Only what is in the output buffer is still sent.
    Closing,
    Closed,
}

impl Connection {
    /// Takes a connection whose peer is this user or root; anybody else's is dropped.
    pub(super) fn accept(stream: UnixStream) -> io::Result<Self> {
        let peer = rustix::net::sockopt::socket_peercred(&stream)?;
        if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            input: FrameBuffer::default(),
            output: Vec::new(),
            attached: None,
            waits: Vec::new(),
            fate: Fate::Open,
        })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.fate == Fate::Closed
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.output.is_empty()
    }

    /// Takes what has arrived, using `buffer` as scratch.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) {
        let mut taken_bytes = 0;
        while self.fate == Fate::Open && taken_bytes < READ_BYTES_MAX {
            match self.stream.read(buffer) {
                Ok(0) => self.fate = Fate::Closed,
                Ok(length) => {
                    self.input.extend(&buffer[..length]);
                    taken_bytes += length;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.fate = Fate::Closed,
            }
        }
        if self.fate == Fate::Closing {
            self.discard_input(buffer);
        }
    }

    /// The next whole request.
    pub(super) fn next_request(&mut self) -> Result<Option<Request>, FrameError> {
        match self.fate {
            Fate::Open => self.input.next_message(),
            Fate::Closing | Fate::Closed => Ok(None),
        }
    }

    pub(super) fn reply(&mut self, reply_to: u64, body: ServerBody) {
        let message = ServerMessage { reply_to, body: Some(body) };
        // Our own messages are bounded by the record's and the survivors' bounds, far below a frame's.
        let fits = encode_frame(&message, &mut self.output).is_ok();
        if !fits || self.output.len() > UNSENT_BYTES_MAX {
            self.fate = Fate::Closed;
        }
    }

    /// Answers nothing more than what is already in the buffer.
    pub(super) fn close_after_output(&mut self) {
        if self.fate == Fate::Open {
            self.fate = Fate::Closing;
        }
    }

    pub(super) fn attach(&mut self, allocation_id: String) {
        self.attached = Some(allocation_id);
    }

    /// Remembers a wait; `false` if there are too many.
    pub(super) fn add_wait(&mut self, id: u64, allocation_id: String) -> bool {
        let fits = self.waits.len() < WAITS_MAX;
        if fits {
            self.waits.push((id, allocation_id));
        }
        fits
    }

    pub(super) fn push_event(&mut self, allocation_id: &str, event: &ServerBody) {
        let wanted = self
            .attached
            .as_ref()
            .is_some_and(|wanted| wanted.is_empty() || wanted == allocation_id);
        if wanted {
            self.reply(0, event.clone());
        }
    }

    pub(super) fn answer_waits(&mut self, allocation_id: &str, state: &ServerBody) {
        let (answered, kept) = std::mem::take(&mut self.waits)
            .into_iter()
            .partition(|(_, wanted)| wanted == allocation_id);
        self.waits = kept;
        let answered: Vec<(u64, String)> = answered;
        for (id, _) in answered {
            self.reply(id, state.clone());
        }
    }

    /// Sends what the socket takes now.
    pub(super) fn send(&mut self) {
        while !self.output.is_empty() && self.fate != Fate::Closed {
            match self.stream.write(&self.output) {
                Ok(0) => self.fate = Fate::Closed,
                Ok(length) => drop(self.output.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.fate = Fate::Closed,
            }
        }
        if self.fate == Fate::Closing {
            self.fate = Fate::Closed;
        }
    }

    /// Unread input would make the close a reset that takes our last answer with it.
    fn discard_input(&mut self, buffer: &mut [u8]) {
        while let Ok(length) = self.stream.read(buffer) {
            if length == 0 {
                self.fate = Fate::Closed;
                return;
            }
        }
    }
}
