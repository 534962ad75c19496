//! Command lines in this process, against schedulers on the loopback.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod behaviour;
mod fake;
mod golden;
mod terminal;
