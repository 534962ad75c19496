//! Which processes belong to an allocation, read from `/proc`. It refuses to trust a bare pid: one is signalled only
//! through a pidfd whose start time was compared after it was opened.

pub(crate) mod cgroup;
mod environ;
mod identity;
mod kill;
mod mark;
mod stat;

pub use cgroup::cgroup_pids;
pub use environ::scan_environments;
pub(crate) use identity::signal_all;
pub use identity::{ProcessIdentity, boot_id};
pub use kill::{KillError, kill_all};
pub use mark::{Mark, processes_of};
pub(crate) use mark::{Marked, marked};
pub(crate) use stat::{ProcessTable, Stat};
