//! The one loop. It sleeps in poll(2) until a socket, a pipe, a child or a deadline needs it; idle it wakes every two
//! seconds to see whether its directory still exists.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, statat, unlinkat};
use rustix::io::Errno;

use super::allocation::{Allocation, Change};
use super::connection::Connection;
use crate::client::SOCKET_FILE;
use crate::lane::LaneJournal;
use crate::process::ProcessIdentity;
use crate::protocol::{Refusal, RefusalCode, ServerBody};

/// Connections at once: the agent's, its dead predecessor's, and a few for people. The oldest makes room.
const CONNECTIONS_MAX: usize = 8;
/// Ended allocations whose late second start is refused.
const RETIRED_MAX: usize = 128;
/// How often an idle shim looks whether its directory is still there.
const DIRECTORY_CHECK: Duration = Duration::from_secs(2);
/// How long an idle shim, or one with a record that can never be written, stays without any client.
const LONELY: Duration = Duration::from_secs(60);
const TROUBLE_PAUSE: Duration = Duration::from_millis(100);
const SCRATCH_BYTES: usize = 64 << 10;

/// The whole state of a shim process.
#[derive(Debug)]
pub(super) struct Shim {
    /// Locked as long as the shim lives.
    dir: File,
    /// The directory through its descriptor, so that neither its length nor a rename matters.
    pub(super) base: PathBuf,
    socket_inode: u64,
    listener: UnixListener,
    child_ended: UnixStream,
    connections: Vec<Connection>,
    pub(super) held: Option<Allocation>,
    pub(super) retired: VecDeque<String>,
    pub(super) lane: Option<LaneJournal>,
    pub(super) identity: ProcessIdentity,
    /// Since when there has been no client, or nothing held.
    lonely_since: Instant,
    next_directory_check: Instant,
    pub(super) fate: Fate,
    scratch: Box<[u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Serving,
    Quitting,
}

/// Which connections have something to read.
struct Ready {
    listener: bool,
    connections: Vec<bool>,
}

impl Shim {
    pub(super) fn new(
        dir: File,
        base: PathBuf,
        listener: UnixListener,
        child_ended: UnixStream,
        lane: Option<LaneJournal>,
        identity: ProcessIdentity,
    ) -> io::Result<Self> {
        let socket_inode = statat(&dir, SOCKET_FILE, AtFlags::SYMLINK_NOFOLLOW)?.st_ino;
        let ended = crate::lane::read_lane_records(&base).unwrap_or_default();
        let now = Instant::now();
        Ok(Self {
            dir,
            base,
            socket_inode,
            listener,
            child_ended,
            connections: Vec::new(),
            held: None,
            retired: ended.into_iter().map(|record| record.allocation_id).collect(),
            lane,
            identity,
            lonely_since: now,
            next_directory_check: now + DIRECTORY_CHECK,
            fate: Fate::Serving,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
        })
    }

    /// Runs until the shim has nothing left to stay for.
    pub(super) fn serve(mut self) -> io::Result<()> {
        while self.fate == Fate::Serving {
            let ready = self.wait().unwrap_or_else(|error| {
                // For want of kernel memory, say. A shim must outlive that, and must not spin meanwhile.
                super::log_trouble(format_args!("cannot poll: {error}"));
                std::thread::sleep(TROUBLE_PAUSE);
                Ready { listener: false, connections: Vec::new() }
            });
            self.drain_child_notices();
            self.receive(&ready.connections);
            if ready.listener {
                self.accept();
            }
            self.advance();
            self.connections.iter_mut().for_each(Connection::send);
            self.drop_closed();
            self.consider_quitting();
        }
        if self.socket_is_ours() {
            unlinkat(&self.dir, SOCKET_FILE, AtFlags::empty())?;
        }
        Ok(())
    }

    /// Remembers an ended allocation as one that must not start again.
    pub(super) fn retire_held(&mut self) {
        if let Some(allocation) = self.held.take() {
            self.retired.push_back(allocation.id().to_owned());
            if self.retired.len() > RETIRED_MAX {
                self.retired.pop_front();
            }
            self.lonely_since = Instant::now();
        }
    }

    /// Pushes `event` to whoever attached.
    pub(super) fn announce(&mut self, allocation_id: &str, event: &ServerBody) {
        for connection in &mut self.connections {
            connection.push_event(allocation_id, event);
        }
    }

    /// Tells waits and subscribers that the held allocation has ended.
    pub(super) fn announce_end(&mut self) {
        let Some(allocation) = &self.held else { return };
        let (id, state) = (allocation.id().to_owned(), allocation.state());
        for connection in &mut self.connections {
            connection.answer_waits(&id, &ServerBody::State(state.clone()));
        }
        self.announce(&id, &ServerBody::Ended(state));
    }

    fn wait(&self) -> io::Result<Ready> {
        let now = Instant::now();
        let mut polled = vec![
            PollFd::new(&self.listener, PollFlags::IN),
            PollFd::new(&self.child_ended, PollFlags::IN),
        ];
        for connection in &self.connections {
            let output = if connection.has_unsent() { PollFlags::OUT } else { PollFlags::empty() };
            polled.push(PollFd::from_borrowed_fd(connection.descriptor(), PollFlags::IN | output));
        }
        let worker = self.held.iter().flat_map(|held| held.descriptors(now));
        polled.extend(worker.map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN)));
        let timeout = self.next_deadline().map(|deadline| deadline.saturating_duration_since(now));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |polled: &PollFd<'_>| !polled.revents().is_empty();
        let connections = polled[2..2 + self.connections.len()].iter().map(is_ready).collect();
        Ok(Ready { listener: is_ready(&polled[0]), connections })
    }

    fn next_deadline(&self) -> Option<Instant> {
        match &self.held {
            Some(held) if held.is_alive() => held.next_deadline(),
            Some(held) => Some(
                held.next_deadline()
                    .map_or(self.next_directory_check, |at| at.min(self.next_directory_check)),
            ),
            None => Some(self.next_directory_check),
        }
    }

    fn drain_child_notices(&mut self) {
        while matches!(self.child_ended.read(&mut self.scratch), Ok(length) if length > 0) {}
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if self.connections.len() == CONNECTIONS_MAX {
                        self.connections.remove(0);
                    }
                    self.connections.extend(Connection::accept(stream).ok());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Out of descriptors, most likely: the oldest connection gives up its own.
                Err(_) if !self.connections.is_empty() => drop(self.connections.remove(0)),
                Err(_) => return,
            }
        }
    }

    fn receive(&mut self, ready: &[bool]) {
        for index in (0..self.connections.len())
            .filter(|index| ready.get(*index).copied().unwrap_or_default())
        {
            self.connections[index].receive(&mut self.scratch);
            self.answer_all(index);
        }
    }

    fn answer_all(&mut self, index: usize) {
        loop {
            match self.connections[index].next_request() {
                Ok(None) => return,
                Ok(Some(request)) => {
                    let id = request.id;
                    if let Some(body) = self.answer(index, request) {
                        self.connections[index].reply(id, body);
                    }
                }
                Err(error) => {
                    let refusal = self.refusal(RefusalCode::BadRequest, error.to_string());
                    self.connections[index].reply(0, ServerBody::Refused(refusal));
                    self.connections[index].close_after_output();
                    return;
                }
            }
        }
    }

    pub(super) fn connection(&mut self, index: usize) -> &mut Connection {
        &mut self.connections[index]
    }

    pub(super) fn refusal(&self, code: RefusalCode, message: String) -> Refusal {
        let held_allocation_id =
            self.held.as_ref().map(|held| held.id().to_owned()).unwrap_or_default();
        Refusal { code: code.into(), message, held_allocation_id }
    }

    fn advance(&mut self) {
        let Some(held) = &mut self.held else { return };
        match held.advance(Instant::now(), &mut self.lane, &mut self.scratch) {
            Change::None => {}
            Change::Phase => {
                let (id, state) = (held.id().to_owned(), held.state());
                self.announce(&id, &ServerBody::Changed(state));
            }
            Change::Ended => self.announce_end(),
        }
    }

    fn drop_closed(&mut self) {
        let before = self.connections.len();
        self.connections.retain(|connection| !connection.is_closed());
        if before > 0 && self.connections.is_empty() {
            self.lonely_since = Instant::now();
        }
    }

    fn consider_quitting(&mut self) {
        let now = Instant::now();
        if self.held.as_ref().is_some_and(Allocation::is_alive) || now < self.next_directory_check {
            return;
        }
        self.next_directory_check = now + DIRECTORY_CHECK;
        let holding = match &self.held {
            None => Holding::Nothing,
            Some(held) if held.is_durable() => Holding::Ended,
            Some(_) => Holding::Unrecorded,
        };
        let alone_for = self.connections.is_empty().then(|| now.duration_since(self.lonely_since));
        let socket = if self.socket_is_ours() { Socket::InPlace } else { Socket::Gone };
        self.fate = fate(holding, socket, alone_for);
    }

    fn socket_is_ours(&self) -> bool {
        statat(self.dir.as_fd(), SOCKET_FILE, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| stat.st_ino == self.socket_inode)
    }
}

/// What a shim without a living tree still has.
#[derive(Clone, Copy, Debug)]
enum Holding {
    Nothing,
    Ended,
    /// An end that could not be made durable yet.
    Unrecorded,
}

#[derive(Clone, Copy, Debug)]
enum Socket {
    InPlace,
    /// Its directory was removed, so nobody can connect any more.
    Gone,
}

/// Whether there is anything left to stay for; `alone_for` is `None` while a client is connected.
fn fate(holding: Holding, socket: Socket, alone_for: Option<Duration>) -> Fate {
    let is_lonely = alone_for.is_some_and(|alone_for| alone_for >= LONELY);
    let quits = match (holding, socket) {
        (Holding::Nothing, Socket::Gone) => true,
        (Holding::Nothing, Socket::InPlace) => is_lonely,
        (Holding::Ended, Socket::Gone) => alone_for.is_some(),
        // The record's directory may come back, but not for ever without anybody who could ask.
        (Holding::Unrecorded, Socket::Gone) => is_lonely,
        (Holding::Ended | Holding::Unrecorded, Socket::InPlace) => false,
    };
    if quits { Fate::Quitting } else { Fate::Serving }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_stays_as_long_as_somebody_could_ask_for_an_end() {
        let (short, long) = (Some(Duration::from_secs(59)), Some(LONELY));
        let check = |holding, socket, expected: [Fate; 3]| {
            let actual = [None, short, long].map(|alone_for| fate(holding, socket, alone_for));
            assert_eq!(actual, expected, "{holding:?} {socket:?}");
        };
        let (stay, quit) = (Fate::Serving, Fate::Quitting);
        check(Holding::Nothing, Socket::InPlace, [stay, stay, quit]);
        check(Holding::Nothing, Socket::Gone, [quit, quit, quit]);
        check(Holding::Ended, Socket::InPlace, [stay, stay, stay]);
        check(Holding::Ended, Socket::Gone, [stay, quit, quit]);
        check(Holding::Unrecorded, Socket::InPlace, [stay, stay, stay]);
        check(Holding::Unrecorded, Socket::Gone, [stay, stay, quit]);
    }
}
