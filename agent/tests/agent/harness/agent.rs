//! An agent process on a data directory of its own.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use berth_model::AllocationId;
use berth_shim::{Mark, ProcessIdentity, kill_all, processes_of};
use rustix::pipe::{PipeFlags, pipe_with};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::within;

const PROGRAM: &str = env!("CARGO_BIN_EXE_berth-agent-test");

/// A data directory and the agent on it. Dropping it ends everything of it.
pub struct Agent {
    dir: TempDir,
    child: Option<Child>,
    /// Closing it ends the agent with all of its workers.
    owner: Option<OwnedFd>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Agent {
    pub fn start(scheduler: &str, more: &[&str]) -> Agent {
        Agent::start_with(scheduler, more, &[])
    }

    /// With more in its environment.
    pub fn start_with(scheduler: &str, more: &[&str], environment: &[(&str, &str)]) -> Agent {
        Agent::begin(tempfile::tempdir().unwrap(), scheduler, more, environment)
    }

    /// With its data below a directory that is there, perhaps on a disk of its own.
    pub fn start_in(dir: TempDir, scheduler: &str, more: &[&str]) -> Agent {
        Agent::begin(dir, scheduler, more, &[])
    }

    fn begin(dir: TempDir, scheduler: &str, more: &[&str], environment: &[(&str, &str)]) -> Agent {
        let mut arguments = vec!["agent".to_owned(), "--server".to_owned(), scheduler.to_owned()];
        arguments.extend(["--name", "node-a", "--data-dir"].map(str::to_owned));
        arguments.push(dir.path().join("data").to_string_lossy().into_owned());
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        let environment =
            environment.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let environment = environment.collect();
        let mut agent = Agent { dir, child: None, owner: None, arguments, environment };
        agent.start_again();
        agent
    }

    /// The same agent again, after a kill.
    pub fn start_again(&mut self) {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let child = Command::new(PROGRAM)
            .args(&self.arguments)
            .env("LEAKED_FROM_THE_AGENT", "yes")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(reader))
            .kill_on_drop(false)
            .spawn()
            .unwrap();
        self.child = Some(child);
        self.owner = Some(writer);
    }

    /// Starts a second agent on the same directory and waits for its end.
    pub async fn second(&self) -> (Option<i32>, String) {
        let output = Command::new(PROGRAM)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output();
        let output = within("the second agent", output).await.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).expect("it runs")
    }

    /// SIGKILL, so that it can prepare for nothing.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.start_kill().unwrap();
        within("the agent's end", child.wait()).await.unwrap();
    }

    pub async fn terminate(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let mut child = self.child.take().expect("it runs");
        within("the agent's end", child.wait()).await.unwrap().code()
    }

    /// Closes the owner's pipe, as the kernel does when the owner dies.
    pub async fn owner_dies(&mut self) -> Option<i32> {
        self.owner = None;
        let mut child = self.child.take().expect("it runs");
        within("the agent's end", child.wait()).await.unwrap().code()
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn allocation(&self, id: AllocationId) -> PathBuf {
        self.data().join("allocs").join(id.to_string())
    }

    pub fn task_dir(&self, id: AllocationId) -> PathBuf {
        self.allocation(id).join("task")
    }

    fn mark(&self, id: AllocationId) -> Mark {
        let task_dir = Some(self.task_dir(id).to_string_lossy().into_owned());
        Mark { allocation_id: id.to_string(), task_dir, cgroup_dirs: Vec::new() }
    }

    pub fn processes(&self, id: AllocationId) -> Vec<ProcessIdentity> {
        processes_of(&self.mark(id)).unwrap()
    }

    pub fn stdout(&self, id: AllocationId) -> String {
        text(&self.allocation(id).join("stdout"))
    }

    /// Pids of the shims of this data directory, found by their command lines.
    pub fn shims(&self) -> Vec<u32> {
        let wanted = self.data().join("shims");
        let is_ours = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains("\0shim\0") && line.contains(wanted.to_str().unwrap())
        };
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(is_ours)
            .collect()
    }

    /// Pids of the processes that look at this agent's GPUs.
    pub fn probers(&self) -> Vec<u32> {
        self.in_mode("gpu-prober")
    }

    /// Pids of the processes that fetch for this agent.
    pub fn fetchers(&self) -> Vec<u32> {
        self.in_mode("artifact-fetcher")
    }

    /// Pids of the processes that test this agent's GPUs.
    pub fn gpu_testers(&self) -> Vec<u32> {
        self.in_mode("gpu-self-test")
    }

    /// Pids of the agent's own children that run in this mode of the executable.
    fn in_mode(&self, mode: &str) -> Vec<u32> {
        let is_ours = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&format!("\0{mode}\0"))
                && parent_of(*pid) == Some(self.pid())
        };
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(is_ours).collect()
    }

    /// The shim that is the parent of this process.
    pub fn shim_of(&self, process: &ProcessIdentity) -> u32 {
        parent_of(process.pid).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.owner = None;
        if let Some(mut child) = self.child.take() {
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            while child.try_wait().is_ok_and(|status| status.is_none())
                && std::time::Instant::now() < deadline
            {
                std::thread::yield_now();
            }
        }
        // Whatever is left by a test that failed, or that killed its agent.
        let allocations = std::fs::read_dir(self.data().join("allocs")).into_iter().flatten();
        for entry in allocations.flatten() {
            if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                let _ = kill_all(&self.mark(id), Duration::from_secs(1));
            }
        }
        for pid in self.shims() {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            let _ =
                pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        }
    }
}

/// The parent of a process, unless it has gone.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Waits until a process has ended.
pub async fn until_gone(pid: u32) {
    let Ok(process) = ProcessIdentity::of(pid) else { return };
    let Some(process) = process.open().unwrap() else { return };
    let ended = tokio::task::spawn_blocking(move || {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let bound = Timespec::try_from(super::BOUND).unwrap();
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&bound)).unwrap()
    });
    assert_eq!(within("the process to end", ended).await.unwrap(), 1, "process {pid} goes on");
}

/// The whole of a file; empty if it is not there.
pub fn text(path: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = File::open(path) {
        file.read_to_string(&mut text).unwrap();
    }
    text
}
