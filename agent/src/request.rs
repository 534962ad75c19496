//! From a wish to what a shim is asked.

use std::path::Path;

use berth_model::{JobKind, QualityClass, TaskSpec};
use berth_shim::protocol::{
    EnvironmentVariable, Resource as Limited, ResourceLimit, StartRequest, StopSettings, UserIds,
};
use berth_supervise::AgentMs;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use crate::allocation_dir::AllocationDir;
use crate::environment::{Environment, substitute};
use crate::wanted::Wanted;

/// Where the end of an allocation is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordPlace {
    /// In the shim's journal: cheap, for what comes by the thousand.
    Lane,
    /// In the allocation's own directory.
    OwnDirectory,
}

/// The lane is for batch work without devices and ports: many short ones, of
/// which none holds anything that must be known to be free.
pub fn record_place(wanted: &Wanted) -> RecordPlace {
    let plain = wanted.row.devices.is_empty() && wanted.row.ports.is_empty();
    match wanted.job.kind {
        JobKind::Batch if plain => RecordPlace::Lane,
        JobKind::Batch | JobKind::Service | JobKind::Daemon => RecordPlace::OwnDirectory,
    }
}

/// Who goes first when the host runs out of memory, beside what it uses: −1000 is never and
/// 1000 is first; a process that nobody has told anything is at 0.
pub fn out_of_memory_score(quality: QualityClass) -> i32 {
    match quality {
        QualityClass::Guaranteed => 100,
        QualityClass::Burstable => 500,
        QualityClass::BestEffort => 1000,
    }
}

/// Files that each process of a worker has open at a time. What nobody has asked for is no more
/// than this host gives to anybody.
pub fn open_files_max(task: &TaskSpec) -> u64 {
    let own = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    match task.limits.open_files {
        Some(most) => u64::from(most),
        None => u64::from(TaskSpec::OPEN_FILES_DEFAULT).min(own),
    }
}

fn open_files(task: &TaskSpec, user: Option<UserIds>) -> Option<ResourceLimit> {
    // A root without that right, as in some containers, cannot limit another user's process.
    let may = user.is_none()
        || capabilities(None).is_ok_and(|own| own.effective.contains(CapabilitySet::SYS_RESOURCE));
    if !may && task.limits.open_files.is_none() {
        return None;
    }
    let most = open_files_max(task);
    Some(ResourceLimit { resource: Limited::OpenFiles.into(), soft: most, hard: most })
}

/// As it is told to other processes.
pub fn variables(environment: &Environment) -> Vec<EnvironmentVariable> {
    let variable = |(name, value): (&String, &String)| EnvironmentVariable {
        name: name.clone(),
        value: value.clone(),
    };
    environment.iter().map(variable).collect()
}

/// Where a worker begins.
pub fn working_dir(task: &TaskSpec, environment: &Environment, dir: &AllocationDir) -> String {
    match &task.workdir {
        Some(workdir) => substitute(workdir, environment),
        None => dir.task().to_string_lossy().into_owned(),
    }
}

/// What the shim is asked.
pub fn start_request(
    wanted: &Wanted,
    environment: &Environment,
    dir: &AllocationDir,
    user: Option<UserIds>,
    lease_ends_at: Option<AgentMs>,
) -> StartRequest {
    let task = wanted.task();
    let text = |path: &Path| path.to_string_lossy().into_owned();
    StartRequest {
        allocation_id: wanted.row.allocation.to_string(),
        command: task.command.iter().map(|word| substitute(word, environment)).collect(),
        env: variables(environment),
        working_dir: working_dir(task, environment, dir),
        stdout_path: text(&dir.stdout()),
        stderr_path: text(&dir.stderr()),
        stop: Some(StopSettings {
            signal: Some(task.stop.signal.number()),
            grace_ms: Some(task.stop.grace.0),
            ..StopSettings::default()
        }),
        user,
        limits: open_files(task, user).into_iter().collect(),
        oom_score_adjust: Some(out_of_memory_score(task.quality())),
        lease_ends_at_boot_ms: lease_ends_at.map(|at| at.0),
        record_dir: match record_place(wanted) {
            RecordPlace::Lane => String::new(),
            RecordPlace::OwnDirectory => text(dir.path()),
        },
        ..StartRequest::default()
    }
}
