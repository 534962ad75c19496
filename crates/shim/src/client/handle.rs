//! One connection to one shim. Requests block until their answer or a timeout; events that come meanwhile are kept.
//! For use under an asynchronous runtime, wait on the descriptor and take messages with the `try_` methods.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::{SOCKET_FILE, ShimError};
use crate::protocol::{
    AllocationState, AttachRequest, ExitRequest, FrameBuffer, HelloReply, HelloRequest,
    LeaseRequest, PROTOCOL_VERSION, Refusal, RefusalCode, Request, RequestBody, RetireRequest,
    ServerBody, ServerMessage, SignalRequest, SignalScope, StartRequest, StatsReply, StatsRequest,
    StopRequest, WaitRequest, encode_frame,
};

/// How long an answer may take unless told otherwise; a shim answers within a spawn and a sync of the disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const RECEIVE_BYTES: usize = 16 << 10;

/// What a shim pushes to those who attached.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Started(AllocationState),
    Changed(AllocationState),
    Ended(AllocationState),
}

/// A connection to a shim. Dropping it harms neither the shim nor its worker.
#[derive(Debug)]
pub struct ShimHandle {
    dir: PathBuf,
    stream: UnixStream,
    input: FrameBuffer,
    events: VecDeque<Event>,
    last_id: u64,
    hello: HelloReply,
    answer_timeout: Duration,
}

impl ShimHandle {
    /// Connects to the shim in `dir` and greets it.
    ///
    /// # Errors
    /// [`ShimError::Absent`], [`ShimError::Stale`], [`ShimError::Foreign`], or a refusal of the protocol version.
    pub fn connect(dir: &Path) -> Result<Self, ShimError> {
        let mut handle = Self::open(dir)?;
        let id = handle.send_hello()?;
        handle.receive_hello(id, Instant::now() + ANSWER_TIMEOUT)?;
        Ok(handle)
    }

    /// A connection that has not greeted yet.
    pub(super) fn open(dir: &Path) -> Result<Self, ShimError> {
        Ok(Self {
            dir: dir.to_owned(),
            stream: open_stream(dir)?,
            input: FrameBuffer::default(),
            events: VecDeque::new(),
            last_id: 0,
            hello: HelloReply::default(),
            answer_timeout: ANSWER_TIMEOUT,
        })
    }

    pub(super) fn send_hello(&mut self) -> Result<u64, ShimError> {
        self.send(RequestBody::Hello(HelloRequest { protocol: PROTOCOL_VERSION }))
    }

    pub(super) fn receive_hello(&mut self, id: u64, deadline: Instant) -> Result<(), ShimError> {
        let ServerBody::Hello(hello) = self.answer_to(id, Some(deadline))? else {
            return Err(ShimError::UnexpectedAnswer);
        };
        self.hello = hello;
        Ok(())
    }

    /// The shim's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the shim said of itself when the connection was made, the state it then held included.
    #[must_use]
    pub fn hello(&self) -> &HelloReply {
        &self.hello
    }

    /// Changes how long each later answer may take; 10 s at first.
    pub fn set_answer_timeout(&mut self, timeout: Duration) {
        self.answer_timeout = timeout;
    }

    /// Starts a worker, or answers the state if this allocation was started here before. A worker that could not be
    /// executed is an ended allocation, not an error.
    ///
    /// # Errors
    /// Refusals `Busy`, `AlreadyEnded`, `RecordUnavailable`, `BadRequest`.
    pub fn start(&mut self, request: StartRequest) -> Result<AllocationState, ShimError> {
        self.ask_state(RequestBody::Start(request))
    }

    /// Sends one signal.
    ///
    /// # Errors
    /// Refusals `WrongAllocation`, `NotRunning`, `BadRequest`.
    pub fn signal(
        &mut self,
        allocation_id: &str,
        signal: i32,
        scope: SignalScope,
    ) -> Result<(), ShimError> {
        let allocation_id = allocation_id.to_owned();
        self.ask_done(RequestBody::Signal(SignalRequest {
            allocation_id,
            signal,
            scope: scope.into(),
        }))
    }

    /// Begins the end of the tree and returns at once; the end itself is an event, or the answer to a wait.
    ///
    /// # Errors
    /// Refusals `WrongAllocation`, `BadRequest`.
    pub fn stop(&mut self, request: StopRequest) -> Result<AllocationState, ShimError> {
        self.ask_state(RequestBody::Stop(request))
    }

    /// Moves the end of the lease to a later moment of CLOCK_BOOTTIME, in ms.
    ///
    /// # Errors
    /// Refusals `WrongAllocation`, and `UnknownRequest` of an older shim.
    pub fn renew_lease(&mut self, request: LeaseRequest) -> Result<(), ShimError> {
        self.ask_done(RequestBody::Lease(request))
    }

    /// What the tree uses now.
    ///
    /// # Errors
    /// Refusal `WrongAllocation`.
    pub fn stats(&mut self, allocation_id: &str) -> Result<StatsReply, ShimError> {
        let allocation_id = allocation_id.to_owned();
        let ServerBody::Stats(stats) =
            self.ask(RequestBody::Stats(StatsRequest { allocation_id }))?
        else {
            return Err(ShimError::UnexpectedAnswer);
        };
        Ok(stats)
    }

    /// Subscribes to events of `allocation_id`, or of every allocation of this shim if it is empty.
    ///
    /// # Errors
    /// Refusal `WrongAllocation`.
    pub fn attach(&mut self, allocation_id: &str) -> Result<AllocationState, ShimError> {
        let allocation_id = allocation_id.to_owned();
        self.ask_state(RequestBody::Attach(AttachRequest { allocation_id }))
    }

    /// Blocks until the allocation has ended, without a timeout.
    ///
    /// # Errors
    /// Refusal `WrongAllocation`; [`ShimError::Closed`] if the shim was killed.
    pub fn wait(&mut self, allocation_id: &str) -> Result<AllocationState, ShimError> {
        let id =
            self.send(RequestBody::Wait(WaitRequest { allocation_id: allocation_id.to_owned() }))?;
        expect_state(self.answer_to(id, None)?)
    }

    /// Makes the shim forget an ended allocation and become idle. Once answered, its record is durable and its tree
    /// empty.
    ///
    /// # Errors
    /// Refusals `NotEnded`, `WrongAllocation`.
    pub fn retire(&mut self, allocation_id: &str) -> Result<(), ShimError> {
        self.ask_done(RequestBody::Retire(RetireRequest {
            allocation_id: allocation_id.to_owned(),
        }))
    }

    /// Ends an idle shim.
    ///
    /// # Errors
    /// Refusal `Busy`.
    pub fn exit(mut self) -> Result<(), ShimError> {
        self.ask_done(RequestBody::Exit(ExitRequest {}))
    }

    /// The next event, waiting for `timeout` at most, or for ever without one. `None`: none came in time.
    ///
    /// # Errors
    /// [`ShimError::Closed`] if the shim was killed.
    pub fn next_event(&mut self, timeout: Option<Duration>) -> Result<Option<Event>, ShimError> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.receive_before(deadline) {
                // An answer that nobody waits for any more.
                Ok(message) => match sort(message) {
                    Incoming::Event(event) => self.events.push_back(event),
                    Incoming::Answer(..) | Incoming::Unknown => {}
                },
                Err(ShimError::TimedOut { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a request without waiting for its answer and returns the id that the answer will carry.
    ///
    /// # Errors
    /// If the shim is gone, or the request is above the frame's bound.
    pub fn send(&mut self, body: RequestBody) -> Result<u64, ShimError> {
        self.last_id += 1;
        let mut frame = Vec::new();
        encode_frame(&Request { id: self.last_id, body: Some(body) }, &mut frame)?;
        match self.stream.write_all(&frame) {
            Ok(()) => Ok(self.last_id),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(self.closed()),
            Err(error) => Err(error.into()),
        }
    }

    /// The next message, answer or event, if one is there now; never blocks. Events kept by the blocking methods are
    /// had from [`ShimHandle::next_event`] alone.
    ///
    /// # Errors
    /// [`ShimError::Closed`] if the shim is gone.
    pub fn try_receive(&mut self) -> Result<Option<ServerMessage>, ShimError> {
        let mut buffer = [0; RECEIVE_BYTES];
        loop {
            if let Some(message) = self.input.next_message()? {
                return Ok(Some(message));
            }
            match recv(&self.stream, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Err(self.closed()),
                Ok((length, _)) => self.input.extend(&buffer[..length]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }

    fn ask(&mut self, body: RequestBody) -> Result<ServerBody, ShimError> {
        let deadline = Instant::now() + self.answer_timeout;
        let id = self.send(body)?;
        self.answer_to(id, Some(deadline))
    }

    fn ask_state(&mut self, body: RequestBody) -> Result<AllocationState, ShimError> {
        expect_state(self.ask(body)?)
    }

    fn ask_done(&mut self, body: RequestBody) -> Result<(), ShimError> {
        let ServerBody::Done(_) = self.ask(body)? else {
            return Err(ShimError::UnexpectedAnswer);
        };
        Ok(())
    }

    fn answer_to(&mut self, id: u64, deadline: Option<Instant>) -> Result<ServerBody, ShimError> {
        loop {
            match sort(self.receive_before(deadline)?) {
                Incoming::Event(event) => self.events.push_back(event),
                // Zero: the shim could not read a frame of ours, so the connection ends.
                Incoming::Answer(reply_to, ServerBody::Refused(refusal))
                    if reply_to == id || reply_to == 0 =>
                {
                    return Err(refused(refusal));
                }
                Incoming::Answer(reply_to, body) if reply_to == id => return Ok(body),
                // The late answer to a request that timed out, or an event of a newer shim.
                Incoming::Answer(..) | Incoming::Unknown => {}
            }
        }
    }

    fn receive_before(&mut self, deadline: Option<Instant>) -> Result<ServerMessage, ShimError> {
        loop {
            if let Some(message) = self.try_receive()? {
                return Ok(message);
            }
            let remaining =
                deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if remaining.is_some_and(|remaining| remaining.is_zero()) {
                return Err(ShimError::TimedOut { dir: self.dir.clone() });
            }
            let timeout = remaining.and_then(|remaining| Timespec::try_from(remaining).ok());
            match poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }

    fn closed(&self) -> ShimError {
        ShimError::Closed { dir: self.dir.clone() }
    }
}

impl AsFd for ShimHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsRawFd for ShimHandle {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.stream.as_raw_fd()
    }
}

/// Connects through the directory's descriptor, since a socket's path has at most 107 bytes.
fn open_stream(dir: &Path) -> Result<UnixStream, ShimError> {
    let flags =
        i32::try_from((OFlags::PATH | OFlags::DIRECTORY).bits()).expect("open flags fit an int");
    let opened = File::options().read(true).custom_flags(flags).open(dir);
    let connected = opened.and_then(|opened| {
        UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET_FILE}", opened.as_raw_fd()))
    });
    let stream = connected.map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            ShimError::Absent { dir: dir.to_owned() }
        } else if error.kind() == io::ErrorKind::ConnectionRefused {
            ShimError::Stale { dir: dir.to_owned() }
        } else {
            ShimError::Io(error)
        }
    })?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).map_err(io::Error::from)?;
    if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
        return Err(ShimError::Foreign { dir: dir.to_owned(), uid: peer.uid.as_raw() });
    }
    Ok(stream)
}

/// A message by what it is for.
enum Incoming {
    Event(Event),
    Answer(u64, ServerBody),
    /// Of a newer shim.
    Unknown,
}

fn sort(message: ServerMessage) -> Incoming {
    match message.body {
        Some(ServerBody::Started(state)) => Incoming::Event(Event::Started(state)),
        Some(ServerBody::Changed(state)) => Incoming::Event(Event::Changed(state)),
        Some(ServerBody::Ended(state)) => Incoming::Event(Event::Ended(state)),
        Some(body) => Incoming::Answer(message.reply_to, body),
        None => Incoming::Unknown,
    }
}

fn expect_state(body: ServerBody) -> Result<AllocationState, ShimError> {
    let ServerBody::State(state) = body else {
        return Err(ShimError::UnexpectedAnswer);
    };
    Ok(state)
}

fn refused(refusal: Refusal) -> ShimError {
    ShimError::Refused {
        code: RefusalCode::try_from(refusal.code).unwrap_or(RefusalCode::Unspecified),
        message: refusal.message,
        held_allocation_id: refusal.held_allocation_id,
    }
}
