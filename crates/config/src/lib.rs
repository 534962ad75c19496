//! Layered configuration, because an operator must be able to tell where every
//! value came from and see all mistakes at once; it starts nothing, opens no port
//! and knows no other part of Berth.
//!
//! The layers, later ones winning: built-in defaults, `berth.toml`,
//! `berth.<BERTH_ENV>.toml` beside it, `BERTH_…` variables with a double
//! underscore between levels, flags. [`load`] reads them all; each value of the
//! [`Config`] it returns carries its [`Source`].
//!
//! [`units`] holds the parsers of quantities, for the job file and the command
//! line too.
#![forbid(unsafe_code)]

mod environment;
mod file;
mod flags;
mod kind;
mod layer;
mod load;
mod problem;
mod reader;
mod relations;
mod sections;
mod source;
mod start;
mod suggest;
pub mod units;

pub use environment::KNOWN_VARIABLES;
pub use file::CONFIG_FILE_BYTES_MAX;
pub use flags::Flags;
pub use load::{FileChoice, Inputs, Loaded, Refused, load};
pub use problem::Problem;
pub use reader::Row;
pub use sections::{
    Agent, Artifacts, Client, Config, Devices, Disconnect, Disk, Docker, Gateway, Gpus, Guards,
    HostUse, Lease, Log, LogFormat, OutputFormat, Raft, RaftProfile, RaftTimers, Scheduler,
};
pub use source::{Setting, Source};
pub use suggest::nearest;
