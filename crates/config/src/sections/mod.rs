//! The typed sections. Each names its keys, kinds and defaults in one place.

mod agent;
mod client;
mod gateway;
mod log;
mod raft;
mod scheduler;

pub use agent::{Agent, Artifacts, Devices, Disconnect, Docker, Gpus, HostUse};
pub use client::{Client, OutputFormat};
pub use gateway::Gateway;
pub use log::{Log, LogFormat};
pub use raft::{Raft, RaftProfile, RaftTimers};
pub use scheduler::{Disk, Guards, Lease, Scheduler};

use crate::reader::Reader;

/// All settings of all parts; each part reads its own section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[scheduler]`
    pub scheduler: Scheduler,
    /// `[agent]`
    pub agent: Agent,
    /// `[gateway]`
    pub gateway: Gateway,
    /// `[client]`
    pub client: Client,
    /// `[log]`
    pub log: Log,
}

impl Config {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            scheduler: Scheduler::read(reader),
            agent: Agent::read(reader),
            gateway: Gateway::read(reader),
            client: Client::read(reader),
            log: Log::read(reader),
        }
    }
}
