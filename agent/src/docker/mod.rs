//! Workers in containers of Docker's engine. A container is watched by a process of its own,
//! the runner, which a shim starts like any worker: so adoption, output, stops, leases and exit
//! codes are those of processes. The runner brings the container up, carries its output and
//! its signals, and ends with its exit code. That nothing of the container is left is seen to
//! by the agent, before an end is told: whoever kills a runner has not killed its container.

mod engine;
mod plan;
mod runner;

pub use engine::{Cleared, clear, version};
pub use plan::{Docker, Gpus, TASK_DIR, body};
pub use runner::{Problem, problem, run_container};

/// The file of an allocation that says what its container is. It holds the environment, so it
/// is nobody's but the agent's.
pub const PLAN_FILE: &str = "container.json";
/// What the runner leaves in the allocation's directory when there is no container to speak
/// of.
const PROBLEM_FILE: &str = "container.problem";
