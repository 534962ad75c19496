//! The HTTP shell around `berth-routing`: requests for a service come in, one of its replicas
//! answers, and what it says is passed on as it comes. It knows no job and no Raft: who serves what
//! is told to it as [`Routes`], and it goes on with what it was told last.
//!
//! What holds whatever a caller or a replica does:
//! - a request is counted at its replica from the step that picks it until its answer has ended,
//!   however it ends: the count is a value that takes itself back when it is dropped;
//! - nothing is committed to the caller before the first byte of an answer, so that until then
//!   another replica can be asked;
//! - after it, an answer that breaks off is said to be broken, never made to look whole;
//! - a caller who goes away takes the request at the replica along.
#![forbid(unsafe_code)]

mod answer;
mod asked;
mod clock;
mod errors;
mod headers;
mod hearing;
mod making;
mod outgoing;
mod path;
mod probe;
mod proxy;
mod room;
mod routes;
mod sending;
mod server;
mod service;
mod signals;
mod sse;
mod table;
mod view;

pub use making::Witness;
pub use routes::{Endpoint, Routes, ServiceRoute};
pub use server::{Gateway, GatewayOptions, Patience};
pub use view::{ReplicaState, ReplicaView, ServiceView};
