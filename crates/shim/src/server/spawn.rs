//! From a start request to a running worker. Nothing of the shim's own environment, descriptors or signal settings
//! reaches it, and no code runs between fork and exec, which keeps the fast path of posix_spawn(3).

use std::io::{self, PipeReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{cgroup, describe, limits};
use crate::process::Stat;
use crate::protocol::StartRequest;

/// Searched when the worker's environment has no `PATH`, as by the system's own default.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_UMASK: u32 = 0o022;

/// A worker whose exec has succeeded.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) pid: u32,
    pub(super) start_ticks: u64,
    /// Readable when the process has ended.
    pub(super) descriptor: OwnedFd,
    pub(super) stdout: PipeReader,
    pub(super) stderr: PipeReader,
}

/// Starts the worker.
///
/// # Errors
/// A sentence for the exit record; no process is left then.
pub(super) fn spawn(request: &StartRequest) -> Result<Spawned, String> {
    check_working_dir(&request.working_dir)?;
    let program = find_program(request)?;
    let limits = limits::check(&request.limits)?;
    let in_words = |action: &'static str| {
        move |error: io::Error| format!("cannot {action}: {}", describe(&error))
    };
    let (stdout, stdout_writer) = io::pipe().map_err(in_words("make a pipe"))?;
    let (stderr, stderr_writer) = io::pipe().map_err(in_words("make a pipe"))?;
    for reader in [&stdout, &stderr] {
        rustix::io::ioctl_fionbio(reader, true)
            .map_err(|error| in_words("make a pipe")(error.into()))?;
    }
    let mut command = build(request, &program);
    command.stdout(stdout_writer).stderr(stderr_writer);
    let child = {
        let dirs = if request.enters_cgroups_itself { &[][..] } else { &request.cgroup_dirs };
        let _visit = cgroup::enter(dirs)?;
        let mask = request.umask.unwrap_or(DEFAULT_UMASK);
        let _borrowed = limits::borrow(&limits, mask, request.oom_score_adjust);
        command.spawn()
    };
    let mut child = child.map_err(|error| {
        format!("cannot execute `{}`: {}", request.command[0], describe(&error))
    })?;
    // The command holds the pipes' writing ends; with them open there would never be an end of file.
    drop(command);
    match adopt(child.id(), request, &limits) {
        Ok((start_ticks, descriptor)) => {
            Ok(Spawned { pid: child.id(), start_ticks, descriptor, stdout, stderr })
        }
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(format!("cannot set up the process: {}", describe(&error)))
        }
    }
}

fn adopt(
    pid: u32,
    request: &StartRequest,
    limits: &[(rustix::process::Resource, rustix::process::Rlimit)],
) -> io::Result<(u64, OwnedFd)> {
    let raw_pid =
        i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    limits::impose(raw_pid, limits)?;
    if let Some(adjust) = request.oom_score_adjust {
        match std::fs::write(format!("/proc/{pid}/oom_score_adj"), adjust.to_string()) {
            // A program that is another user's, or not to be read, keeps what it was born with.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            // An ended child needs no score.
            Err(error) if Stat::read(pid).is_ok_and(|stat| !stat.is_dead()) => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok((Stat::read(pid)?.start_ticks, pidfd_open(raw_pid, PidfdFlags::empty())?))
}

fn build(request: &StartRequest, program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .arg0(&request.command[0])
        .args(&request.command[1..])
        .env_clear()
        .envs(request.env.iter().map(|variable| (&variable.name, &variable.value)))
        .current_dir(&request.working_dir)
        .stdin(Stdio::null())
        .process_group(0);
    if let Some(user) = request.user {
        // std drops the supplementary groups along with root's identity.
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// posix_spawn reports a bad directory and a bad program alike, so the directory is tried first.
fn check_working_dir(dir: &str) -> Result<(), String> {
    let in_words = |reason: String| format!("cannot enter working directory `{dir}`: {reason}");
    let metadata = std::fs::metadata(dir).map_err(|error| in_words(describe(&error)))?;
    if metadata.is_dir() { Ok(()) } else { Err(in_words("not a directory".to_owned())) }
}

/// The program as an absolute path: relative to the working directory if it has a slash, else looked up in the
/// worker's own `PATH`.
fn find_program(request: &StartRequest) -> Result<PathBuf, String> {
    let name = &request.command[0];
    let working_dir = Path::new(&request.working_dir);
    if name.contains('/') {
        return Ok(working_dir.join(name));
    }
    let path = request.env.iter().rev().find(|variable| variable.name == "PATH");
    let path = path.map_or(DEFAULT_PATH, |variable| variable.value.as_str());
    let mut reason = "no such file or directory";
    for dir in path.split(':').map(|dir| working_dir.join(dir)) {
        let candidate = dir.join(name);
        match std::fs::metadata(&candidate) {
            Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => {
                return Ok(candidate);
            }
            Ok(metadata) if metadata.is_file() => reason = "permission denied",
            Ok(_) | Err(_) => {}
        }
    }
    Err(format!("cannot execute `{name}`: {reason}"))
}
