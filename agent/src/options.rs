//! What an agent is told when it starts.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use berth_config::units::SimulatedGpus;
use berth_model::{
    CpuMilli, DurationMs, MemoryBytes, Name, PortRange, TASKS_PER_DEVICE_MAX_DEFAULT,
};
use berth_supervise::gpu::STUCK_AFTER;
use berth_telemetry::Metrics;

use crate::artifacts::Artifacts;
use crate::confinement::Wish;
use crate::credentials::Transport;
use crate::docker::Docker;
use crate::gpus::{DEADLINE, Lister, Pace};
use crate::metadata::MetadataService;

/// What an agent tells of the load of its host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HostLoad {
    /// What the kernel says; of a simulated host what is pretended.
    #[default]
    Measured,
    /// What is pretended, and else nothing.
    Pretended,
}

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
    /// Where other hosts reach this one's workers; empty: the address on the way to the schedulers.
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
    /// Whether the load of the host is this agent's to tell.
    pub host_load: HostLoad,
    /// NVIDIA's library, where the loader does not find it by itself.
    pub nvml_library: Option<PathBuf>,
    /// What lists the devices of this host instead, where they are not NVIDIA's.
    pub lister: Option<Lister>,
    /// How often GPUs are looked at.
    pub gpu_pace: Pace,
    /// How faulty ones are mended.
    pub repair: Repair,
    pub labels: BTreeMap<String, String>,
    pub pool: Name,
    pub zone: Name,
    /// Whether workers are held to their limits.
    pub hold: Hold,
    /// What workers see and may.
    pub confinement: Wish,
    /// Whether workers may ask the cloud who this host is.
    pub metadata_service: MetadataService,
    /// How many tasks may share one GPU.
    pub tasks_per_gpu_max: u32,
    /// Where the control daemon of NVIDIA's MPS listens, for workers that share a GPU.
    pub mps_directory: Option<PathBuf>,
    /// The user of workers, where the agent is root.
    pub worker_user: Option<String>,
    /// Between two tries to reach a scheduler, at least and at most.
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// Without a scheduler for this long, all workers are stopped; never where
    /// absent.
    pub stop_after: Option<Duration>,
    /// `exe arguments… --dir DIR` must end in `berth_shim::run(DIR)`.
    pub shim: Program,
    /// `exe arguments… more` must end in [`crate::probe`] of all that is more.
    pub prober: Program,
    /// `exe arguments… more` must end in [`crate::self_test`] of all that is more.
    pub gpu_tester: Program,
    /// How workers in containers are run.
    pub docker: Docker,
    /// How files that tasks need are fetched.
    pub artifacts: Artifacts,
    /// A descriptor of a pipe: when its other end closes, everything here ends.
    pub stop_on_fd_close: Option<u32>,
    /// What `/metrics` shows.
    pub metrics: Option<Metrics>,
}

/// How faulty GPUs are mended.
#[derive(Clone, Debug)]
pub struct Repair {
    /// More lines of the table of what errors ask for.
    pub xids: Option<PathBuf>,
    /// Where the kernel's messages are read, for errors that NVML does not tell of; nowhere where
    /// absent.
    pub kernel_log: Option<PathBuf>,
    /// How long a mended GPU has to be quiet.
    pub soak: DurationMs,
    /// How long a GPU's memory may be in use after its last worker.
    pub stuck_after: DurationMs,
    /// What resets a GPU, with its uuid as the one argument; the driver's own program
    /// where absent.
    pub reset: Option<PathBuf>,
    /// What tests a GPU that was quiet.
    pub test: GpuTest,
    /// How long that may take.
    pub test_within: Duration,
}

/// What tests a GPU that was mended and quiet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GpuTest {
    /// The agent's own test, through NVIDIA's library for computing: the one in this file, or where
    /// the loader finds it. A GPU is not tested where there is none.
    BuiltIn { library: Option<PathBuf> },
    /// This program, with the GPU's uuid as its one argument.
    Program(PathBuf),
    /// Nothing: it only has to be quiet.
    Nothing,
}

impl Default for Repair {
    fn default() -> Repair {
        Repair {
            xids: None,
            kernel_log: None,
            soak: DurationMs::from_secs(60),
            stuck_after: STUCK_AFTER,
            reset: None,
            test: GpuTest::BuiltIn { library: None },
            test_within: DEADLINE,
        }
    }
}

/// Whether something holds workers that not every host has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Hold {
    /// Where the host allows it.
    #[default]
    IfPossible,
    /// An agent that cannot have it does not start.
    Always,
    Never,
}

/// How a process of the agent's own is started.
#[derive(Clone, Debug)]
pub struct Program {
    pub exe: PathBuf,
    pub arguments: Vec<OsString>,
}

impl Program {
    /// A mode of the executable that runs now. Through `/proc`, because its
    /// path may mean a newer release by the time it is needed.
    #[must_use]
    pub fn of_this_executable(mode: &str) -> Program {
        Program { exe: PathBuf::from("/proc/self/exe"), arguments: vec![mode.into()] }
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
            host_load: HostLoad::default(),
            nvml_library: None,
            lister: None,
            gpu_pace: Pace::default(),
            repair: Repair::default(),
            labels: BTreeMap::new(),
            pool: default.clone(),
            zone: default,
            hold: Hold::default(),
            confinement: Wish::default(),
            metadata_service: MetadataService::default(),
            tasks_per_gpu_max: TASKS_PER_DEVICE_MAX_DEFAULT,
            mps_directory: None,
            worker_user: None,
            retry_min: Duration::from_millis(20),
            retry_max: Duration::from_secs(1),
            stop_after: None,
            shim: Program::of_this_executable("shim"),
            prober: Program::of_this_executable("gpu-prober"),
            gpu_tester: Program::of_this_executable("gpu-self-test"),
            docker: Docker::default(),
            artifacts: Artifacts::default(),
            stop_on_fd_close: None,
            metrics: None,
        }
    }
}
