//! Workers in containers of Docker's engine. A container is watched by a process of its own,
//! the runner, which a shim starts like any worker: so adoption, output, stops, leases and exit
//! codes are those of processes. The runner brings the container up, carries its output and
//! its signals, and ends with its exit code. That nothing of the container is left is seen to
//! by the agent, before an end is told: whoever kills a runner has not killed its container.

mod engine;
mod inside;
mod plan;
mod runner;

pub use engine::{Cleared, clear, connect, containers_of, version};
pub use plan::{Docker, Gpus, Host, TASK_DIR, body};
pub use runner::run_container;

/// The file of an allocation that says what its container is. It holds the environment, so it
/// is nobody's but the agent's.
pub const PLAN_FILE: &str = "container.json";
/// The runner makes it before it asks for a container: from then on there may be one.
pub const MADE_FILE: &str = "container.made";
/// The runner makes it when the container runs; it holds the engine's id of that.
pub const UP_FILE: &str = "container.up";

/// The runner makes it when it knows which devices the container can use.
const WATCHED_FILE: &str = "container.watched";

/// Whether a file of an allocation is there. Where nobody can say, it is taken for there: a
/// container too many is looked for rather than one too few.
pub fn is_there(dir: &std::path::Path, file: &str) -> bool {
    dir.join(file).try_exists().unwrap_or(true)
}

/// The engine's id of an allocation's container; empty where there is none yet, or an earlier
/// agent wrote none down. `None`: it is no container's.
pub fn id_of(dir: &std::path::Path) -> Option<String> {
    let is_container = dir.join(PLAN_FILE).exists();
    is_container.then(|| std::fs::read_to_string(dir.join(UP_FILE)).unwrap_or_default())
}
