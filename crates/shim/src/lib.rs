//! A tiny process that stays the parent of a worker, so that the worker outlives the agent and its exit code is
//! never lost. It refuses to decide anything: no restarts, no placement, no retries, only what a client asks.
//!
//! The process ([`run`]) needs no runtime and no network library and stays below 4 MiB of memory of its own, beside
//! the pages of the executable that all share. The agent talks to it with [`ShimHandle`]; after a restart it finds
//! its shims again with [`scan`]. If a shim itself was killed, [`processes_of`] tells what still runs and
//! [`kill_all`] ends it.
//!
//! # One allocation at a time, or a lane of them
//!
//! A shim is *idle*, then *running* after a start; the allocation is *ended* when its main process has ended **and**
//! nothing of its process tree is left **and** the exit record is durable. A retire makes it idle again. A sequence
//! of starts and retires is a lane. The shim is a child subreaper: whatever a worker forks, however often and in
//! whatever session, has the shim as its nearest living ancestor once its own parents are gone, so "no child left"
//! (`ECHILD`) is the exact truth about the tree. Signals go to every process found by parent links, by the mark
//! (`BERTH_ALLOC_ID` together with `BERTH_TASK_DIR`) in a process's environment, and in the given cgroups.
//!
//! Files in the shim's directory: `shim.sock`, `exits` (the lane journal, see [`lane`]) and `shim.log` (the shim's own
//! troubles). The directory itself is locked (`flock`) as long as its shim lives, so two shims never serve one.
//!
//! # Protocol `shim/1`, frozen
//!
//! Over a stream socket come frames: a little-endian `u32` length of at most [`protocol::FRAME_BYTES_MAX`], then that
//! many bytes of one protobuf message. A client sends [`protocol::Request`]s, each with an id of its choice above
//! zero; the shim sends [`protocol::ServerMessage`]s, whose `reply_to` is that id, or zero for a pushed event.
//! A later agent drives an older shim, so fields are only ever added, never renumbered or given another meaning;
//! byte fixtures in the tests hold this. The peer must have the shim's own user id, or be root.
//!
//! | request | answer | meaning |
//! | --- | --- | --- |
//! | hello | hello | protocol, version, pid, start time, boot id, and the state of what is held |
//! | start | state | start a worker; the same id again answers the state; another one is refused as `busy`. May name an ended allocation to be retired in the same step |
//! | signal | done | one signal, to the main process or to the tree |
//! | stop | state | signal the tree, after the grace kill what is left |
//! | stats | stats | CPU time, memory, processes of the tree |
//! | attach | state | from now on push `started`, `changed` and `ended`; an empty id means every allocation of this shim |
//! | wait | state | answered when the allocation has ended |
//! | retire | done | forget an ended allocation; refused while it is not ended and durable |
//! | exit | done | an idle shim quits |
//!
//! Everything that is not done is answered by `refused` with a [`protocol::RefusalCode`]. A frame that cannot be read
//! is answered by `refused` once, then the connection is closed; other connections and the worker go on.
//!
//! # Durability
//!
//! The exit record is on disk before the end is announced. An allocation with a directory of its own gets the file
//! `exit` (temporary file, fsync, rename, fsync of the directory); one of a lane gets a slot of the preallocated
//! journal and one fdatasync: 64 µs against 230 µs on an ext4 virtual disk (November 2026). Whole cycles of `/bin/true`
//! over two shims on two cores (`cargo bench -p berth-shim`) then ran at 1,950/s by journal and 1,030/s by file, where
//! spawning and waiting alone reached 3,740/s; on the same machine three times overloaded, at 660/s, 240/s and
//! 2,090/s. Both carry a CRC, so a torn write reads as "no record", never as a wrong exit code. If the disk is full
//! the record is kept in memory and tried again every second; the state then says `recording` with the error.

#![forbid(unsafe_code)]

pub mod client;
pub mod lane;
pub mod process;
pub mod protocol;
pub mod record;
mod server;

pub use client::{Event, FoundShim, ShimError, ShimHandle, remove_stale_socket, scan};
pub use process::{KillError, Mark, ProcessIdentity, kill_all, processes_of, scan_environments};
pub use record::{ExitRecord, RecordError, read_exit_record};
pub use server::run;
