//! Between protobuf and core types: requests in, with every problem listed;
//! rows out; and the frozen formats of the log and of snapshots. Inside, types
//! are already true. This crate does no input or output of its own.

#![forbid(unsafe_code)]

pub mod access;
pub mod agent;
#[cfg(test)]
mod arbitrary;
pub mod backup;
pub mod capture;
mod enumeration;
pub mod frozen;
pub mod log;
mod problem;
pub mod snapshot;
pub mod spec;
pub mod views;

pub use frozen::DecodeError;
