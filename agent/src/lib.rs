//! The agent: Berth's daemon on one host. It dials the schedulers, is told
//! what should run here, makes it so, and says what it sees. It refuses to
//! decide what should run: that is the cluster's, and what follows from it is
//! decided by `berth-supervise`.
//!
//! # What survives what
//!
//! Workers are children of shims, not of the agent. So:
//! - SIGTERM, SIGINT or SIGKILL of the agent leaves every worker running, and
//!   the next agent on the same data directory adopts them. That is how an
//!   agent is upgraded.
//! - With `stop_on_fd_close` the host's owner (`berth dev`) holds the write end
//!   of a pipe. When the agent reads its end, however that came about, all
//!   workers and shims end within about two seconds and the agent with them.
//!   SIGINT is then left to the owner, since a terminal sends it to both.
//!
//! # The data directory
//!
//! | path | what it is |
//! | --- | --- |
//! | `lock` | held while an agent runs here; its pid |
//! | `agent.id` | 16 random bytes, made once: the identity of this directory |
//! | `cluster.id` | the cluster that the directory belongs to |
//! | `desired` | the desired state, on disk before anything of it is begun |
//! | `lease` | when the last heartbeat was acknowledged |
//! | `allocs/ID/` | `allocation` (that it was begun), `task/`, `tmp/` (its `/tmp`), `stdout`, `stderr`, `exit`, `enclosure`, `inside` (its first process), `problem`; of a container `container.json` |
//! | `shims/N/` | one shim each |
//! | `artifacts/` | files that were fetched for tasks |
//! | `gpus` | the GPUs that were last seen |
//! | `simulated/` | the script of simulated GPUs, and what is pretended of the host |

#![deny(unsafe_code)]

mod allocation_dir;
mod artifacts;
mod cgroups;
mod clock;
mod confinement;
mod credentials;
mod data_dir;
mod disk_use;
mod docker;
mod ended_log;
mod environment;
mod exec;
mod file_lock;
mod frame;
mod gpus;
mod holds;
mod host;
pub mod host_use;
mod http;
mod journal;
mod leftovers;
mod logs;
mod metadata;
mod mps;
mod node;
mod options;
mod owners;
mod ports;
mod probe;
mod problem;
mod process_group;
mod reachable;
mod request;
mod run;
/// For fleets of agents without hosts: the session alone, as every agent has it.
pub mod session;
mod shim_link;
mod sys;
mod wanted;
mod worker_user;

pub use artifacts::{Artifacts, fetch_artifact};
pub use confinement::{Wish, confined, try_confinement};
pub use credentials::Transport;
pub use data_dir::ClusterFile;
pub use docker::{Docker, Gpus, run_container};
pub use gpus::{
    BadPretence, GpuDriver, KERNEL_LOG, Lister, Pace, Pretence, devices_listed, host_gpus,
    look_at_gpus, pretend, probe, self_test,
};
pub use host_use::{pretend_host, pretend_nothing_of_host};
pub use metadata::{MetadataService, allow_metadata_service, refuse_metadata_service};
pub use options::{AgentOptions, GpuTest, Hold, HostLoad, Program, Repair};
pub use run::run;
