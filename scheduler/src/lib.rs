//! A scheduler node: one replica of the cluster state, the gRPC services over
//! it, and, while it leads, the loop that decides. It knows neither devices
//! nor processes, and openraft and sled only through `berth-raft`.

#![forbid(unsafe_code)]

mod access;
mod app;
mod boot;
mod copies;
mod events;
mod history;
mod http;
mod identity;
mod in_place;
mod leader;
mod options;
mod peers;
mod pulse;
pub mod restore;
mod rpc;
mod sessions;
pub mod storage;

pub use berth_state::Seat;
pub use boot::{Leave, Running, run, start};
pub use copies::CopyOptions;
pub use options::{Formation, MemoryDisk, SchedulerOptions, Transport};
