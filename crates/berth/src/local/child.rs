//! A child process that ends when the pipe on its standard input does.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::Command;

/// How long a child that was asked to end may take: an agent stops its workers
/// within two seconds, a leader hands over in as many.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A scheduler or agent of a local cluster.
pub struct Child {
    pub name: String,
    pub pid: u32,
    process: tokio::process::Child,
    asked_to_end: Asked,
}

/// Settings of clusters for trials: their data may be where temporary files are,
/// which is memory on many machines.
/// And whoever tries something out works where they stand.
pub const TRIAL_SETTINGS: [(&str, &str); 2] =
    [("BERTH_SCHEDULER__DISK__ALLOW_MEMORY", "true"), ("BERTH_AGENT__CONFINEMENT__WRITABLE", "/")];

/// What children have of this process's environment; the last is where some hosts have
/// their driver's library.
const KEPT: [&str; 3] = ["PATH", "HOME", "LD_LIBRARY_PATH"];

#[derive(PartialEq, Eq)]
enum Asked {
    No,
    Yes,
}

impl Child {
    /// Starts `program` with `arguments`. It has a process group of
    /// its own, so that Ctrl-C in the terminal reaches the parent alone.
    pub fn spawn(program: &Path, name: &str, arguments: &[String]) -> anyhow::Result<Child> {
        Child::spawn_with(program, name, arguments, &[])
    }

    /// The same, with more settings.
    pub fn spawn_with(
        program: &Path,
        name: &str,
        arguments: &[String],
        settings: &[(&str, String)],
    ) -> anyhow::Result<Child> {
        let process = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(std::env::vars_os().filter(|(key, _)| KEPT.iter().any(|kept| key == kept)))
            .envs(TRIAL_SETTINGS)
            .envs(settings.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let pid = process.id().with_context(|| format!("{name} ended at once"))?;
        Ok(Child { name: name.to_owned(), pid, process, asked_to_end: Asked::No })
    }

    /// Closes the child's pipe: it ends in order.
    pub fn close(&mut self) {
        self.asked_to_end = Asked::Yes;
        drop(self.process.stdin.take());
    }

    /// Kills the child with SIGKILL and waits until it is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.asked_to_end = Asked::Yes;
        self.process.kill().await.with_context(|| format!("kill {}", self.name))
    }

    /// Waits until the child has ended; kills it if that takes too long.
    pub async fn ended_or_killed(&mut self) {
        if tokio::time::timeout(END_LIMIT, self.process.wait()).await.is_err() {
            eprintln!("{} did not end in {} s and is killed", self.name, END_LIMIT.as_secs());
            let _ = self.process.kill().await;
        }
    }

    /// Waits until the child ends by itself.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        self.asked_to_end = Asked::Yes;
        // Waiting closes the pipe, which would ask it to end.
        let pipe = self.process.stdin.take();
        let ended = self.process.wait().await.with_context(|| format!("wait for {}", self.name));
        drop(pipe);
        ended
    }

    /// How the child ended, if it did so without having been asked to.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        if self.asked_to_end == Asked::Yes {
            return None;
        }
        self.process.try_wait().ok().flatten()
    }
}
