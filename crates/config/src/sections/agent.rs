//! `[agent]`

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::scheduler::loopback;
use crate::kind::{
    ADDRESS, ARTIFACTS, CPU, DEVICE_PATH, FULL_PATH, GPUS, HOST_USE, LISTEN, NAME, PATH, PORTS,
    SHARERS, SIZE, SWITCH, TIMER, WAIT, WORD,
};
use crate::reader::Reader;
use crate::source::Setting;
use crate::units::{Address, PortRange, SimulatedGpus};

/// `[agent]`: one agent on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The schedulers to dial. Needed to start.
    pub servers: Setting<Vec<Address>>,
    /// Where task directories, logs and records are kept. Needed to start.
    pub data_dir: Option<Setting<PathBuf>>,
    /// The node's name; the host's where absent.
    pub name: Option<Setting<String>>,
    /// The address that other nodes reach this host's workers by.
    pub advertise: Option<Setting<Address>>,
    /// Health and metrics.
    pub http: Setting<Address>,
    /// Certificate, key and authority.
    pub tls_dir: Option<Setting<PathBuf>>,
    /// Whether to take orders from other machines without encryption, which
    /// dialling them without certificates needs.
    pub plain_text: Setting<bool>,
    /// The file that holds the join token.
    pub join_token_file: Option<Setting<PathBuf>>,
    /// Thousandths of a core offered to workers; measured where absent.
    pub cpus: Option<Setting<u64>>,
    /// Bytes of memory offered to workers; measured where absent.
    pub memory: Option<Setting<u64>>,
    /// The ports that workers are given from.
    pub ports: Setting<PortRange>,
    /// GPUs to pretend to have.
    pub simulate: Option<Setting<SimulatedGpus>>,
    /// Whether the load of the host is told, which of a simulated one it is not.
    pub measure_host: Setting<bool>,
    /// The node's labels, by key.
    pub labels: BTreeMap<String, Setting<String>>,
    /// The pool the node belongs to.
    pub pool: Setting<String>,
    /// The failure domain the node stands in.
    pub zone: Option<Setting<String>>,
    /// Whether cgroups hold workers to their limits.
    pub cgroups: Setting<HostUse>,
    /// `[agent.confinement]`
    pub confinement: Confinement,
    /// The user that workers run as, where the agent is root.
    pub worker_user: Option<Setting<String>>,
    /// `[agent.docker]`
    pub docker: Docker,
    /// `[agent.artifacts]`
    pub artifacts: Artifacts,
    /// `[agent.gpus]`
    pub gpus: Gpus,
    /// `[agent.devices]`
    pub devices: Devices,
    /// `[agent.disconnect]`
    pub disconnect: Disconnect,
}

/// Whether something is used that not every host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostUse {
    /// Where the host allows it.
    Auto,
    /// An agent that cannot does not start.
    Required,
    /// Never.
    Off,
}

impl HostUse {
    pub(crate) const ALL: [Self; 3] = [Self::Auto, Self::Required, Self::Off];

    /// The word used in files.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Required => "required",
            Self::Off => "off",
        }
    }
}

/// `[agent.confinement]`: what workers that are processes of the host see and may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confinement {
    /// Whether they are confined.
    pub mode: Setting<HostUse>,
    /// Paths of the host that they may write to, as its owners allow; `/` for all.
    pub writable: Setting<Vec<PathBuf>>,
    /// Paths of which they are to see nothing, beside the agent's own.
    pub hidden: Setting<Vec<PathBuf>>,
    /// Paths below `/dev` that each of them gets.
    pub devices: Setting<Vec<PathBuf>>,
    /// Whether they may ask the cloud who this host is, which often tells its credentials.
    pub metadata_service: Setting<bool>,
}

/// `[agent.docker]`: how workers in containers are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Docker {
    /// Where Docker's engine listens.
    pub socket: Setting<PathBuf>,
    /// One of the engine's networks, on which ports are published, or `host`, or `none`.
    pub network: Setting<String>,
}

/// `[agent.artifacts]`: how files that tasks need are fetched and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifacts {
    /// Schemes, beginnings of URLs, or `loopback`.
    pub allow: Setting<Vec<String>>,
    /// Bytes of disk for what was fetched.
    pub keep: Setting<u64>,
    /// Bytes of the longest file that is fetched.
    pub max_size: Setting<u64>,
    /// Milliseconds without a byte after which a fetch is given up.
    pub stall_after: Setting<u64>,
}

/// `[agent.devices]`: what lists accelerators that are not NVIDIA's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices {
    /// A program and its arguments; NVIDIA's library is asked where there is none.
    pub command: Setting<Vec<String>>,
    /// Milliseconds between two runs of it.
    pub every: Setting<u64>,
    /// Milliseconds after which it is killed.
    pub deadline: Setting<u64>,
}

/// `[agent.gpus]`: how the agent looks at the host's GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpus {
    /// NVIDIA's library (`libnvidia-ml.so.1`), where the loader does not find it.
    pub nvml_library: Option<Setting<PathBuf>>,
    /// Milliseconds between two looks.
    pub report_every: Setting<u64>,
    /// Milliseconds without an answer after which nothing is known of the GPUs;
    /// above `report_every`.
    pub silent_after: Setting<u64>,
    /// A file with more lines of the table of what GPU errors (XIDs) ask for.
    pub xids: Option<Setting<PathBuf>>,
    /// Where the kernel's messages are read.
    pub kernel_log: Option<Setting<PathBuf>>,
    /// Milliseconds for which a mended GPU has to be quiet.
    pub soak: Setting<u64>,
    /// Milliseconds for which a GPU's memory may be in use after its last worker.
    pub stuck_after: Setting<u64>,
    /// How many tasks may share one GPU.
    pub max_tasks_per_gpu: Setting<u64>,
    /// Where the control daemon of NVIDIA's MPS listens, for tasks that share a GPU.
    pub mps_pipe_directory: Option<Setting<PathBuf>>,
    /// A program that resets the GPU whose uuid is its argument, instead of the driver's.
    pub reset_program: Option<Setting<PathBuf>>,
    /// A program that tests the mended GPU whose uuid is its argument, instead of the agent.
    pub test_program: Option<Setting<PathBuf>>,
    /// Whether the agent tests mended GPUs by itself, where no program does.
    pub self_test: Setting<bool>,
    /// NVIDIA's library that it does so with (`libcuda.so.1`), where the loader does not find it.
    pub cuda_library: Option<Setting<PathBuf>>,
}

/// `[agent.disconnect]`: what the agent does without a scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// Milliseconds before the first attempt to dial again; below `retry_max`.
    pub retry_min: Setting<u64>,
    /// Milliseconds between attempts at most.
    pub retry_max: Setting<u64>,
    /// Milliseconds without a scheduler after which the agent stops its workers
    /// by itself; never where absent.
    pub stop_after: Option<Setting<u64>>,
}

impl Agent {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let worker_ports = PortRange { first: 20_000, last: 29_999 };
        Self {
            servers: reader.list("agent.servers", &ADDRESS, Vec::new()),
            data_dir: reader.optional("agent.data_dir", &PATH),
            name: reader.optional("agent.name", &NAME),
            advertise: reader.optional("agent.advertise", &ADDRESS),
            http: reader.setting("agent.http", &LISTEN, loopback(7073)),
            tls_dir: reader.optional("agent.tls_dir", &PATH),
            plain_text: reader.setting("agent.plain_text", &SWITCH, false),
            join_token_file: reader.optional("agent.join_token_file", &PATH),
            cpus: reader.optional("agent.cpus", &CPU),
            memory: reader.optional("agent.memory", &SIZE),
            ports: reader.setting("agent.ports", &PORTS, worker_ports),
            simulate: reader.optional("agent.simulate", &GPUS),
            measure_host: reader.setting("agent.measure_host", &SWITCH, true),
            labels: reader.labels("agent.labels"),
            pool: reader.setting("agent.pool", &NAME, "default".to_owned()),
            zone: reader.optional("agent.zone", &NAME),
            cgroups: reader.setting("agent.cgroups", &HOST_USE, HostUse::Auto),
            confinement: Confinement {
                mode: reader.setting("agent.confinement.mode", &HOST_USE, HostUse::Auto),
                writable: reader.list("agent.confinement.writable", &FULL_PATH, Vec::new()),
                hidden: reader.list("agent.confinement.hidden", &FULL_PATH, Vec::new()),
                devices: reader.list("agent.confinement.devices", &DEVICE_PATH, Vec::new()),
                metadata_service: reader.setting(
                    "agent.confinement.metadata_service",
                    &SWITCH,
                    false,
                ),
            },
            worker_user: reader.optional("agent.worker_user", &NAME),
            docker: Docker {
                socket: reader.setting("agent.docker.socket", &PATH, "/var/run/docker.sock".into()),
                network: reader.setting("agent.docker.network", &NAME, "bridge".to_owned()),
            },
            artifacts: Artifacts {
                allow: reader.list("agent.artifacts.allow", &ARTIFACTS, vec!["https".to_owned()]),
                keep: reader.setting("agent.artifacts.keep", &SIZE, 20 << 30),
                max_size: reader.setting("agent.artifacts.max_size", &SIZE, 1 << 40),
                stall_after: reader.setting("agent.artifacts.stall_after", &WAIT, 30_000),
            },
            gpus: Gpus {
                nvml_library: reader.optional("agent.gpus.nvml_library", &PATH),
                report_every: reader.setting("agent.gpus.report_every", &TIMER, 1_000),
                silent_after: reader.setting("agent.gpus.silent_after", &TIMER, 10_000),
                xids: reader.optional("agent.gpus.xids", &PATH),
                kernel_log: reader.optional("agent.gpus.kernel_log", &PATH),
                soak: reader.setting("agent.gpus.soak", &WAIT, 60_000),
                stuck_after: reader.setting("agent.gpus.stuck_after", &WAIT, 60_000),
                max_tasks_per_gpu: reader.setting("agent.gpus.max_tasks_per_gpu", &SHARERS, 4),
                mps_pipe_directory: reader.optional("agent.gpus.mps_pipe_directory", &FULL_PATH),
                reset_program: reader.optional("agent.gpus.reset_program", &PATH),
                test_program: reader.optional("agent.gpus.test_program", &PATH),
                self_test: reader.setting("agent.gpus.self_test", &SWITCH, true),
                cuda_library: reader.optional("agent.gpus.cuda_library", &PATH),
            },
            devices: Devices {
                command: reader.list("agent.devices.command", &WORD, Vec::new()),
                every: reader.setting("agent.devices.every", &TIMER, 5_000),
                deadline: reader.setting("agent.devices.deadline", &TIMER, 5_000),
            },
            disconnect: Disconnect {
                retry_min: reader.setting("agent.disconnect.retry_min", &TIMER, 20),
                retry_max: reader.setting("agent.disconnect.retry_max", &TIMER, 1_000),
                stop_after: reader.optional("agent.disconnect.stop_after", &WAIT),
            },
        }
    }
}
