//! What the command line may say to the daemons. Values of settings stay text
//! here: the configuration checks them with those from files and variables.

use std::path::PathBuf;

use berth_cli::{ClientCommand, GlobalArgs};
use clap::{Args, Parser, Subcommand};

/// A distributed scheduler for GPU clusters that run AI models.
#[derive(Parser)]
#[command(name = "berth", version, propagate_version = true, max_term_width = 100)]
pub struct Arguments {
    #[command(flatten)]
    pub globals: GlobalArgs,
    #[command(subcommand)]
    pub task: Task,
}

#[derive(Subcommand)]
pub enum Task {
    #[command(flatten)]
    Daemon(Box<Daemon>),
    #[command(flatten)]
    Client(ClientCommand),
}

#[derive(Subcommand)]
pub enum Daemon {
    /// Run one scheduler node
    Scheduler(SchedulerArguments),
    /// Run the agent of this host
    Agent(AgentArguments),
    /// Pass requests on to the replicas of services
    Gateway(GatewayArguments),
    /// Run a local cluster in the foreground
    Dev(DevArguments),
    /// Show the whole story on this machine, checked as it goes
    Demo(DemoArguments),
    /// Say what is wrong with this host's driver, GPUs, cgroups and Docker, and how to mend it
    Doctor(DoctorArguments),
    /// Stand in for a model server, for trials and benchmarks
    MockWorker(MockWorkerArguments),
    /// Look at a stopped scheduler's data
    #[command(subcommand)]
    Storage(StorageCommand),
}

#[derive(Args)]
pub struct DoctorArguments {
    /// Where Docker listens [default: /var/run/docker.sock]
    #[arg(long, value_name = "PATH")]
    pub docker_socket: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum StorageCommand {
    /// Read all of it and tell what is wrong; writes nothing
    Verify(StorageVerifyArguments),
    /// Write log and snapshots to a file, to carry them elsewhere
    Export(StorageCarryArguments),
    /// Make log and snapshots from an exported file
    Import(StorageCarryArguments),
}

#[derive(Args)]
pub struct StorageCarryArguments {
    /// The exported file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The data directory of the scheduler
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
}

#[derive(Args)]
pub struct StorageVerifyArguments {
    /// The data directory of the scheduler
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
}

#[derive(Args)]
pub struct SchedulerArguments {
    /// Where log, snapshots and identity are kept
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// gRPC for clients, agents and peers [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// The address that others reach --listen by, where it differs
    #[arg(long, value_name = "ADDR")]
    pub advertise: Option<String>,
    /// Health and metrics [default: 127.0.0.1:7071]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// Listen beyond this machine without encryption
    #[arg(long, conflicts_with = "tls_dir")]
    pub plain_text: bool,
    /// Certificate, key and authority; beyond loopback there is TLS [default: DATA-DIR/tls]
    #[arg(long, value_name = "DIR")]
    pub tls_dir: Option<String>,
    /// Form a new cluster
    #[arg(long, conflicts_with = "join")]
    pub bootstrap: bool,
    /// Schedulers of the cluster to join
    #[arg(long, value_name = "ADDR,…")]
    pub join: Option<String>,
    /// With --join: the file with the token that lets this scheduler in
    #[arg(long, value_name = "FILE", requires = "join")]
    pub join_token_file: Option<String>,
    /// With --join: receive the log without a vote, until promoted
    #[arg(long, requires = "join")]
    pub learner: bool,
    #[command(flatten)]
    pub process: ProcessArguments,
}

#[derive(Args)]
pub struct GatewayArguments {
    /// The schedulers that tell who serves what [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR,…")]
    pub servers: Option<String>,
    /// Requests of callers [default: 127.0.0.1:7072]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Health and metrics
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// Where the last routes are kept, to begin with while no scheduler can be reached
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// A new file for each decision and what it depends on; `berth sim replay` reads it
    #[arg(long, value_name = "FILE")]
    pub record: Option<String>,
    /// Certificate, key and authority for the schedulers
    #[arg(long, value_name = "DIR")]
    pub tls_dir: Option<String>,
    /// Listen beyond this machine, although nothing is encrypted and nobody is asked who they are
    #[arg(long)]
    pub plain_text: bool,
    #[command(flatten)]
    pub process: ProcessArguments,
}

#[derive(Args)]
pub struct AgentArguments {
    /// The schedulers to dial
    #[arg(long, value_name = "ADDR,…")]
    pub servers: Option<String>,
    /// Where task directories, logs and records are kept
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// The node's name [default: the host's]
    #[arg(long)]
    pub name: Option<String>,
    /// The address that other hosts reach this one's workers by
    #[arg(long, value_name = "ADDR")]
    pub advertise: Option<String>,
    /// Health and metrics [default: 127.0.0.1:7073]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// Certificate, key and authority [default: DATA-DIR/tls]
    #[arg(long, value_name = "DIR")]
    pub tls_dir: Option<String>,
    /// The file with the token that lets this agent in, once
    #[arg(long, value_name = "FILE")]
    pub join_token_file: Option<String>,
    /// Take orders from other machines without encryption
    #[arg(long, conflicts_with_all = ["tls_dir", "join_token_file"])]
    pub plain_text: bool,
    /// Cores offered to workers, such as 16 or 500m [default: measured]
    #[arg(long, value_name = "N")]
    pub cpus: Option<String>,
    /// Memory offered to workers, such as 64GiB [default: measured]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// The ports that workers are given from [default: 20000-29999]
    #[arg(long, value_name = "FIRST-LAST")]
    pub ports: Option<String>,
    /// GPUs to pretend to have, such as 8xH100-80GB
    #[arg(long, value_name = "GPUS")]
    pub simulate: Option<String>,
    /// A label of the node; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// The pool that the node belongs to
    #[arg(long)]
    pub pool: Option<String>,
    /// The failure domain that the node stands in
    #[arg(long)]
    pub zone: Option<String>,
    /// The user that workers run as, where the agent is root
    #[arg(long, value_name = "USER")]
    pub worker_user: Option<String>,
    /// From where artifacts may come: schemes, beginnings of URLs, or `loopback`
    #[arg(long, value_name = "ENTRY[,ENTRY]")]
    pub artifacts_allow: Option<String>,
    #[command(flatten)]
    pub process: ProcessArguments,
}

/// What every daemon takes.
#[derive(Args)]
pub struct ProcessArguments {
    /// What is logged, such as info,berth_raft=debug
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,
    /// End when the other end of this descriptor is closed
    #[arg(long, hide = true, value_name = "FD")]
    pub stop_on_fd_close: Option<u32>,
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DevArguments {
    #[command(subcommand)]
    pub command: Option<DevCommand>,
    /// Schedulers: 1, 3 or 5
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub schedulers: u8,
    /// Agents
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub agents: u8,
    /// Simulated GPUs of each agent [default: this host's own where one agent is started and
    /// there are any, else 8xH100-80GB]
    #[arg(long, value_name = "GPUS")]
    pub gpus: Option<String>,
    /// Let workers see and do all that you may; as root they see only their own processes and
    /// devices otherwise
    #[arg(long)]
    pub unconfined: bool,
    /// Where the cluster keeps its data [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Written, whole, when work can be submitted
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// What the children log
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    pub log_level: String,
}

#[derive(Subcommand)]
pub enum DevCommand {
    /// Have a simulated GPU of a local cluster show a fault, or a host be short of something
    Fault(DevFaultArguments),
}

/// One thing or several; later ones add to earlier ones.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("fault").required(true).multiple(true)
    .args(["xid", "lost", "back", "recovery", "remap", "utilization", "temperature", "clear",
        "cpu", "memory", "clear_host"]))]
#[command(group = clap::ArgGroup::new("of_gpu").multiple(true).requires("gpu")
    .args(["xid", "lost", "back", "recovery", "remap", "utilization", "temperature", "clear"]))]
pub struct DevFaultArguments {
    /// The agent's name, as `berth node list` has it
    #[arg(long, value_name = "NAME")]
    pub agent: String,
    /// The GPU's index on its node
    #[arg(long, value_name = "INDEX")]
    pub gpu: Option<u32>,
    /// Where the local cluster keeps its data, as it said when it began [default:
    /// BERTH_DEV_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The driver reports this error, once
    #[arg(long, value_name = "NUMBER")]
    pub xid: Option<u64>,
    /// It falls off the bus
    #[arg(long, conflicts_with = "back")]
    pub lost: bool,
    /// It is back on the bus
    #[arg(long)]
    pub back: bool,
    /// What the driver says that it needs: nothing, reset, reboot, drain-peers, drain-and-reset
    #[arg(long, value_name = "ACTION")]
    pub recovery: Option<String>,
    /// Rows of its memory to be exchanged: done, pending, failed
    #[arg(long, value_name = "STATE")]
    pub remap: Option<String>,
    /// Its load in percent
    #[arg(long, value_name = "PERCENT")]
    pub utilization: Option<u32>,
    /// In degrees Celsius
    #[arg(long, value_name = "CELSIUS")]
    pub temperature: Option<u32>,
    /// Forget all that was said of it before, first
    #[arg(long)]
    pub clear: bool,
    /// So much of its host's processors is in use, in percent
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub cpu: Option<u32>,
    /// So much of its host's memory is in use, in percent
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub memory: Option<u32>,
    /// Forget what was said of its host before, first
    #[arg(long)]
    pub clear_host: bool,
}

#[derive(Args)]
pub struct DemoArguments {
    /// Leave the cluster running after the story, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// Remove one instance's trace before counting: the demo must then fail
    #[arg(long, hide = true)]
    pub lose_a_trace: bool,
}

#[derive(Args)]
pub struct MockWorkerArguments {
    /// The model's name
    #[arg(long)]
    pub model: String,
    /// The port on 127.0.0.1
    #[arg(long)]
    pub port: u16,
    /// How fast it is, in thousandths of a model of eight billion parameters on an H100
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub speed: u32,
}
