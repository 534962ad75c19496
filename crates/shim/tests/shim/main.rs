//! Real shims and real workers. Nothing sleeps: a test waits for a message, an end of file or a pidfd.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod adoption;
mod cgroups;
mod lease;
mod lifecycle;
mod logs;
mod protocol;
mod rig;
mod surroundings;
mod tree;
