//! Files that a task needs before its worker starts. They are fetched by a process of their
//! own, once for a host however many want them, kept in a cache with a bound, checked, and put
//! into the task's directory. Nothing here decides when a worker starts.
//!
//! Who trusts whom: a source may send anything, a job may name any source, a worker may do
//! anything in its own directory. So each address is checked where the connection is made
//! (`rules`, `dialler`), the process that speaks with the source can neither read nor change
//! what is kept (`fetcher` writes to one open file), what is kept was checked by the agent
//! itself (`cache`), and no link in a task's directory is followed (`place`).

mod cache;
mod child;
mod dialler;
mod fetcher;
mod fetches;
mod files;
mod objects;
mod order;
mod place;
mod rules;
mod web;

use std::time::Duration;

pub use fetcher::fetch_artifact;
pub use fetches::{Fetches, Unplaced};

use crate::options::Program;

/// How artifacts are fetched and kept.
#[derive(Clone, Debug)]
pub struct Artifacts {
    /// Schemes, beginnings of URLs, or `loopback`.
    pub allow: Vec<String>,
    /// Bytes of disk for what was fetched; more only while it is in use.
    pub keep_bytes: u64,
    /// No file is longer.
    pub size_max_bytes: u64,
    /// Without a byte for this long a fetch is given up, however much has come.
    pub stall_after: Duration,
    /// `exe arguments…` must end in [`fetch_artifact`].
    pub fetcher: Program,
}

impl Default for Artifacts {
    fn default() -> Artifacts {
        Artifacts {
            allow: vec!["https".to_owned()],
            keep_bytes: 20 << 30,
            size_max_bytes: 1 << 40,
            stall_after: Duration::from_secs(30),
            fetcher: Program::of_this_executable("artifact-fetcher"),
        }
    }
}
