//! Talks to a cluster over gRPC, because every caller needs the same care: find
//! the leader, try again only where a repeat is harmless, and tell "refused",
//! "not reached" and "outcome unknown" apart. It interprets no job and prints
//! nothing.
#![forbid(unsafe_code)]

mod access;
mod attempt;
mod backoff;
mod cluster;
mod connect;
mod error;
mod exec;
mod gateways;
mod jobs;
mod key;
mod namespaces;
mod node_reservations;
mod nodes;
mod operator;
mod options;
mod services;
mod stream;

pub use cluster::Client;
pub use error::{ClientError, Failure, Refusal, Tried};
pub use exec::{ExecInputs, ExecOutputs, FileStream};
pub use key::new_key;
pub use options::Options;
pub use stream::{EventStream, LogStream};
