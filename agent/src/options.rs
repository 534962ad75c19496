//! What an agent is told when it starts.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use berth_config::units::SimulatedGpus;
use berth_model::{CpuMilli, MemoryBytes, Name, PortRange};
use berth_telemetry::Metrics;

use crate::credentials::Transport;

/// Everything that an agent is told from outside.
#[derive(Clone)]
pub struct AgentOptions {
    /// Schedulers to dial, `HOST:PORT`; at least one.
    pub servers: Vec<String>,
    /// How they are reached.
    pub transport: Transport,
    /// Kept over restarts; one agent at a time.
    pub data_dir: PathBuf,
    /// The node's name.
    pub name: Name,
    /// Where other hosts reach this one's workers, for people.
    pub address: String,
    /// `HOST:PORT` of health and metrics; none where absent.
    pub http: Option<String>,
    /// Offered to workers; measured where absent.
    pub cpu: Option<CpuMilli>,
    /// Offered to workers; measured where absent.
    pub memory: Option<MemoryBytes>,
    /// The ports that workers may be given.
    pub ports: PortRange,
    /// GPUs to pretend to have.
    pub simulate: Option<SimulatedGpus>,
    pub labels: BTreeMap<String, String>,
    pub pool: Name,
    pub zone: Name,
    /// The user of workers, where the agent is root.
    pub worker_user: Option<String>,
    /// Between two tries to reach a scheduler, at least and at most.
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// Without a scheduler for this long, all workers are stopped; never where
    /// absent.
    pub stop_after: Option<Duration>,
    pub shim: ShimProgram,
    /// A descriptor of a pipe: when its other end closes, everything here ends.
    pub stop_on_fd_close: Option<u32>,
    /// What `/metrics` shows.
    pub metrics: Option<Metrics>,
}

/// How a shim is started: `exe arguments… --dir DIR` must end in
/// `berth_shim::run(DIR)`.
#[derive(Clone, Debug)]
pub struct ShimProgram {
    pub exe: PathBuf,
    pub arguments: Vec<OsString>,
}

impl ShimProgram {
    /// `shim` of the executable that runs now. Through `/proc`, because its
    /// path may mean a newer release by the time a shim is needed.
    #[must_use]
    pub fn of_this_executable() -> ShimProgram {
        ShimProgram { exe: PathBuf::from("/proc/self/exe"), arguments: vec!["shim".into()] }
    }
}

impl AgentOptions {
    /// The defaults for everything that has one.
    #[must_use]
    pub fn new(servers: Vec<String>, data_dir: PathBuf, name: Name) -> AgentOptions {
        let default = Name::new("default").expect("a word of letters is a name");
        AgentOptions {
            servers,
            transport: Transport::PlainText,
            data_dir,
            name,
            address: String::new(),
            http: None,
            cpu: None,
            memory: None,
            ports: PortRange::DEFAULT,
            simulate: None,
            labels: BTreeMap::new(),
            pool: default.clone(),
            zone: default,
            worker_user: None,
            retry_min: Duration::from_millis(20),
            retry_max: Duration::from_secs(1),
            stop_after: None,
            shim: ShimProgram::of_this_executable(),
            stop_on_fd_close: None,
            metrics: None,
        }
    }
}
