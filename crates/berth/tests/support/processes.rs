//! The machine's processes, as `/proc` shows them: what belongs to a cluster
//! is known by its data directory, which is in the command line of every
//! daemon and shim and in the environment of every worker.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// A living process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub command_line: String,
}

/// Living processes that name `folder`, or something in it, in their command
/// line or environment; this one excepted.
pub fn naming(folder: &Path) -> Vec<Process> {
    let wanted = folder.as_os_str().as_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let Ok(pid) = entry.unwrap().file_name().to_string_lossy().parse::<u32>() else { continue };
        // A process may end between two looks; what cannot be read is gone.
        let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let (command_line, environment) = (read("cmdline"), read("environ"));
        let names = |text: &[u8]| text.windows(wanted.len()).any(|part| part == wanted);
        if pid != std::process::id() && (names(&command_line) || names(&environment)) {
            let command_line = String::from_utf8_lossy(&command_line).replace('\0', " ");
            found.push(Process { pid, command_line });
        }
    }
    found
}

/// Whether a process is there and not merely waiting to be reaped.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the name, which may itself hold anything in brackets.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, Some('Z' | 'X') | None)
}

pub fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("send {signal:?} to {pid:?}: {error}"),
    }
}

/// The user that a process runs as.
pub fn user_of(pid: u32) -> u32 {
    status_number(pid, "Uid:").unwrap()
}

/// Memory of a process in KiB that it shares with none: pages of its executable
/// are not counted. None once it has ended.
pub fn own_memory_kib(pid: u32) -> Option<u32> {
    status_number(pid, "RssAnon:")
}

/// The same, without the pages of its executable that the loader wrote, which are as many as the
/// executable is large and tell nothing of what the process does.
pub fn memory_beside_executable_kib(pid: u32) -> Option<u32> {
    let executable = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let executable = executable.to_str()?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let (mut written, mut is_executables) = (0, false);
    for line in maps.lines() {
        let first = line.split_whitespace().next()?;
        match line.strip_prefix("Anonymous:") {
            Some(rest) if is_executables => {
                written += rest.split_whitespace().next()?.parse::<u32>().ok()?;
            }
            // A mapping begins; of its numbers each has a name before a colon.
            None if !first.ends_with(':') => is_executables = line.ends_with(executable),
            Some(_) | None => {}
        }
    }
    Some(own_memory_kib(pid)?.saturating_sub(written))
}

/// The first number after `key` in the status of a process.
fn status_number(pid: u32, key: &str) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}
