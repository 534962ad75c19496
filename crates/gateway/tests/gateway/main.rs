//! A gateway in front of workers over real connections. Requests are sent by a client of another
//! library where they are in order, and byte by byte where they are not.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod anything;
mod bad_input;
mod decisions;
mod failing;
mod passing;
mod rig;
mod waiting;
mod worker;
