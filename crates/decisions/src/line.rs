//! The lines as they stand in a file.

use berth_routing::record::Happening;
use serde::{Deserialize, Serialize};

/// The format that is written, and the only one that is read.
pub const FORMAT: u32 = 1;

/// What a line says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The first line.
    Recording {
        writer: String,
    },
    /// A pool of that service begins: its first happening comes next.
    Service {
        pool: u64,
        service: String,
    },
    Happened {
        pool: u64,
        happening: Happening,
    },
    /// The last line of a record that ended before its gateway did.
    Ended(Ended),
}

/// Why a record is not whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// It has as many bytes as it may.
    Full,
    /// The disk is slower than the requests come.
    TooSlow,
}

impl Ended {
    /// In words.
    #[must_use]
    pub fn told(self) -> &'static str {
        match self {
            Ended::Full => "the file had as many bytes as it may",
            Ended::TooSlow => "decisions were made faster than they could be written",
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Line {
    Recording {
        format: u32,
        writer: String,
    },
    Service {
        pool: u64,
        service: String,
    },
    Begun {
        pool: u64,
        policy: String,
    },
    Policy {
        pool: u64,
        policy: String,
    },
    Members {
        pool: u64,
        at_us: u64,
        members: Vec<LineMember>,
    },
    Picked(Box<LinePicked>),
    FirstByte {
        pool: u64,
        at_us: u64,
        number: u64,
    },
    Finished {
        pool: u64,
        at_us: u64,
        number: u64,
        outcome: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spare_for_us: Option<u64>,
    },
    Reported {
        pool: u64,
        at_us: u64,
        replica: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        running: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        waiting: Option<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kv_milli: Option<u32>,
    },
    Ended {
        because: Ended,
    },
}

/// A decision: a replica, or why there is none.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinePicked {
    pub pool: u64,
    pub at_us: u64,
    /// Of the request at its replica; with all to `compared` absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<LineScored>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_up: Option<LineScored>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<usize>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub none: Option<String>,
    pub prompt_tokens: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<LinePrefix>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<String>,
    pub chance: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LineMember {
    pub replica: String,
    pub weight_milli: u32,
    pub tier: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinePrefix {
    pub tokens_each: u32,
    pub hashes: Vec<String>,
}

/// A replica and what it costs; the least is chosen.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LineScored {
    pub id: String,
    pub cost: u64,
    /// It failed lately or asked to be spared: it comes after all that did not.
    #[serde(default, skip_serializing_if = "is_false")]
    pub spared: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !value
}
