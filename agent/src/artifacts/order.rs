//! What the agent and its fetcher say to each other: one order in a line, and lines of news.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What the fetcher is asked: to bring a source into the file that is its standard output.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Order {
    pub source: String,
    /// The setting, as it was given.
    pub allow: Vec<String>,
    /// Milliseconds without a byte after which the fetch is given up.
    pub stall_ms: u64,
    /// How long it may be.
    pub bytes_max: u64,
    /// It is known what it has to be.
    pub is_pinned: bool,
    /// What of the host is nobody's to have.
    pub hidden: Vec<PathBuf>,
    /// A whole copy is there, and this is what was said of it.
    pub held: Option<Stamp>,
    /// A beginning is there.
    pub begun: Option<Begun>,
    /// Credentials for what the agent may reach; never the job's.
    pub environment: BTreeMap<String, String>,
}

/// The beginning of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Begun {
    pub bytes: u64,
    pub stamp: Stamp,
}

/// By what an origin tells one content from another.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Stamp {
    pub etag: Option<String>,
    pub last_modified: Option<String>,
    pub bytes: Option<u64>,
}

/// What the fetcher says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum News {
    /// From now on bytes come, after those that were there or from the beginning.
    Begins {
        resumed_at: u64,
        stamp: Stamp,
    },
    /// Nothing came, and the copy that is held is still right.
    Unchanged,
    /// All of it is there.
    Done {
        bytes: u64,
    },
    Failed(Failure),
}

/// Why there is no file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Failure {
    /// The next try may do better.
    Passing(String),
    /// It is this host's own, and another one would do better.
    Host(String),
    /// No other host would.
    Lasting(String),
}

impl Stamp {
    /// What a range may be made to depend on: a weak tag tells two contents apart no better
    /// than a glance.
    pub fn condition(&self) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|tag| !tag.starts_with("W/"));
        strong.or(self.last_modified.as_deref())
    }

    /// Whether anything is known by which a change would be noticed.
    pub fn tells_changes(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some()
    }
}

impl Failure {
    pub fn reason(&self) -> &str {
        match self {
            Failure::Passing(reason) | Failure::Host(reason) | Failure::Lasting(reason) => reason,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.reason())
    }
}
