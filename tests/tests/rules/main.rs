//! The source itself under test: which crate imports which, where outside
//! libraries may be known, their licences and sources, how long files are, and
//! what no test may do.

#![expect(clippy::unwrap_used, reason = "a test that cannot read the source has failed")]

mod edges;
mod faults;
mod fences;
mod graph;
mod habits;
mod licences;
mod sizes;
mod source;
mod table;
