//! Resource limits and umask of a worker, set without code between fork and exec: the shim takes them itself for the
//! moment of the spawn, so the child is born with them.
//!
//! A process without CAP_SYS_RESOURCE could never raise its own hard limits again. Such a shim takes the soft limits
//! only, and gives the child its hard limits right after the spawn; a child forked by the worker before that keeps
//! the shim's hard limits. A limit on address space below the shim's own few MiB makes the spawn fail.

use std::io;

use rustix::fs::Mode;
use rustix::process::{Pid, Resource as Kernel, Rlimit, getrlimit, prlimit, setrlimit, umask};
use rustix::thread::CapabilitySet;

use crate::protocol::{Resource, ResourceLimit};

/// What the shim borrowed for a spawn and gives back when dropped.
#[derive(Debug)]
pub(super) struct Borrowed {
    limits: Vec<(Kernel, Rlimit)>,
    umask: Mode,
    /// Of this process, where the child is born with another.
    out_of_memory_score: Option<String>,
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        umask(self.umask);
        if let Some(own) = &self.out_of_memory_score
            && let Err(error) = std::fs::write(OUT_OF_MEMORY_SCORE, own)
        {
            super::log_trouble(format_args!("keeps its worker's score for out of memory: {error}"));
        }
        for (resource, own) in &self.limits {
            // Allowed: the hard limit is unchanged, or the shim may raise it.
            let _ = setrlimit(*resource, *own);
        }
    }
}

/// The limits asked for, checked against what this process may give.
pub(super) fn check(limits: &[ResourceLimit]) -> Result<Vec<(Kernel, Rlimit)>, String> {
    limits.iter().map(check_one).collect()
}

fn check_one(limit: &ResourceLimit) -> Result<(Kernel, Rlimit), String> {
    let resource = Resource::try_from(limit.resource).unwrap_or(Resource::Unspecified);
    let Some(kernel) = kernel_resource(resource) else {
        return Err(format!("cannot set limit: resource {} is unknown", limit.resource));
    };
    let finite = |value: u64| (value != u64::MAX).then_some(value);
    if limit.soft > limit.hard {
        return Err(format!(
            "cannot set limit: {resource:?} has a soft limit above its hard limit"
        ));
    }
    let above_own = getrlimit(kernel).maximum.is_some_and(|own| limit.hard > own);
    if above_own && !may_raise_limits() {
        return Err(format!("cannot set limit: {resource:?} may not be raised"));
    }
    Ok((kernel, Rlimit { current: finite(limit.soft), maximum: finite(limit.hard) }))
}

/// Who goes first when memory runs out.
const OUT_OF_MEMORY_SCORE: &str = "/proc/self/oom_score_adj";

/// Takes the score for out of memory if it can be given back, so that what a worker forks at once has it too.
fn borrow_score(score: Option<i32>) -> Option<String> {
    let score = score.filter(|_| may_raise_limits())?;
    let own = std::fs::read_to_string(OUT_OF_MEMORY_SCORE).ok()?;
    std::fs::write(OUT_OF_MEMORY_SCORE, score.to_string()).ok()?;
    Some(own.trim().to_owned())
}

/// Takes the umask, the score and the limits, the hard ones if they can be given back.
pub(super) fn borrow(limits: &[(Kernel, Rlimit)], mask: u32, score: Option<i32>) -> Borrowed {
    let out_of_memory_score = borrow_score(score);
    let restores_hard = !limits.is_empty() && may_raise_limits();
    let mut own = Vec::new();
    for (resource, wanted) in limits {
        let before = getrlimit(*resource);
        let maximum = if restores_hard { wanted.maximum } else { before.maximum };
        // What fails here comes with the limits that the child is given afterwards.
        if setrlimit(*resource, Rlimit { current: wanted.current, maximum }).is_ok() {
            own.push((*resource, before));
        }
    }
    let umask = umask(Mode::from_raw_mode(mask & 0o777));
    Borrowed { limits: own, umask, out_of_memory_score }
}

fn may_raise_limits() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE))
}

/// Gives the new child its limits, soft and hard.
pub(super) fn impose(child: Pid, limits: &[(Kernel, Rlimit)]) -> io::Result<()> {
    for (resource, wanted) in limits {
        match prlimit(Some(child), *resource, *wanted) {
            // It has ended already, with no time to exceed anything.
            Ok(_) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn kernel_resource(resource: Resource) -> Option<Kernel> {
    match resource {
        Resource::Unspecified => None,
        Resource::OpenFiles => Some(Kernel::Nofile),
        Resource::Processes => Some(Kernel::Nproc),
        Resource::CoreBytes => Some(Kernel::Core),
        Resource::FileBytes => Some(Kernel::Fsize),
        Resource::LockedBytes => Some(Kernel::Memlock),
        Resource::StackBytes => Some(Kernel::Stack),
        Resource::AddressSpaceBytes => Some(Kernel::As),
        Resource::CpuSeconds => Some(Kernel::Cpu),
    }
}
