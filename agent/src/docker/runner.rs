//! The process that watches one container.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bollard::Docker as Client;
use bollard::container::{AttachContainerResults, LogOutput};
use bollard::errors::Error;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, CreateImageOptionsBuilder,
    EventsOptionsBuilder, InspectContainerOptions, KillContainerOptionsBuilder,
    StartContainerOptions, WaitContainerOptions,
};
use tokio::io::AsyncWriteExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;

use super::engine::{clear, connect, is};
use super::{PLAN_FILE, PROBLEM_FILE};

/// As `docker run` ends when there is no container to speak of.
const NO_CONTAINER: u8 = 125;
/// As a shell says that SIGKILL or SIGTERM was the end.
const KILLED: u8 = 137;
const TERMINATED: u8 = 143;
/// For the rest of the output of a container that has ended.
const LAST_OUTPUT: Duration = Duration::from_secs(5);
/// Before an engine that has gone is asked again.
const ENGINE_RETRY: Duration = Duration::from_secs(1);

/// Why there is no container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// No other job would fare better on this host.
    Host(String),
    /// The image cannot be had, or cannot run what it is asked to.
    Start(String),
}

/// What a runner has left in the directory of its allocation.
pub fn problem(dir: &Path) -> Option<Problem> {
    let text = fs::read_to_string(dir.join(PROBLEM_FILE)).ok()?;
    let (kind, reason) = text.split_once('\n')?;
    let reason = reason.to_owned();
    Some(if kind == "host" { Problem::Host(reason) } else { Problem::Start(reason) })
}

fn leave(dir: &Path, problem: &Problem) {
    let (kind, reason) = match problem {
        Problem::Host(reason) => ("host", reason),
        Problem::Start(reason) => ("start", reason),
    };
    // Its exit code tells as much, and its output.
    let _ = fs::write(dir.join(PROBLEM_FILE), format!("{kind}\n{reason}"));
}

/// Runs a container to its end and ends with its exit code. The arguments are the agent's own
/// affair: the engine's socket, the container's name, the allocation's directory.
#[must_use]
pub fn run_container(mut given: impl Iterator<Item = String>) -> ExitCode {
    let (Some(socket), Some(name), Some(dir)) = (given.next(), given.next(), given.next()) else {
        return ExitCode::from(2);
    };
    let (socket, dir) = (PathBuf::from(socket), PathBuf::from(dir));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return ExitCode::from(NO_CONTAINER) };
    let outcome = runtime.block_on(run(&socket, &name, &dir));
    // Whoever reads this pipe may be slow, and nothing waits for it any more.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(problem) => {
            leave(&dir, &problem);
            ExitCode::from(NO_CONTAINER)
        }
    }
}

async fn run(socket: &Path, name: &str, dir: &Path) -> Result<u8, Problem> {
    let mut signals = signals().map_err(|error| Problem::Host(error.to_string()))?;
    let client = connect(socket).await.map_err(Problem::Host)?;
    let container = Container { client, name, socket };
    let begun = tokio::select! {
        begun = container.begin(dir) => begun?,
        _ = signals.recv() => {
            // The agent does it again if this fails.
            let _ = clear(socket, name).await;
            return Ok(TERMINATED);
        }
    };
    let mut output = tokio::spawn(carry(begun));
    let code = {
        let ending = container.until_ended();
        let out_of_memory = container.end_when_out_of_memory();
        tokio::pin!(ending, out_of_memory);
        loop {
            tokio::select! {
                code = &mut ending => break code,
                Some(signal) = signals.recv() => container.kill(signal).await,
                () = &mut out_of_memory => {}
            }
        }
    };
    if tokio::time::timeout(LAST_OUTPUT, &mut output).await.is_err() {
        output.abort();
    }
    Ok(code)
}

struct Container<'a> {
    client: Client,
    name: &'a str,
    socket: &'a Path,
}

impl Container<'_> {
    /// Brings it up; its output comes from the first byte on.
    async fn begin(&self, dir: &Path) -> Result<AttachContainerResults, Problem> {
        let body = read_plan(&dir.join(PLAN_FILE)).map_err(Problem::Host)?;
        let image = body.image.clone().unwrap_or_default();
        self.fetch(&image).await?;
        // Of a try before this one, by a runner that was killed.
        clear(self.socket, self.name).await.map_err(Problem::Host)?;
        let named = CreateContainerOptionsBuilder::new().name(self.name).build();
        let cannot = |what: &str, error: Error| {
            let text = format!("cannot {what} a container of image {image}: {error}");
            // What the engine answers is about what it was asked; silence is about the host.
            if matches!(error, Error::DockerResponseServerError { .. }) {
                Problem::Start(text)
            } else {
                Problem::Host(text)
            }
        };
        let made = self.client.create_container(Some(named), body).await;
        made.map_err(|error| cannot("make", error))?;
        let attached = self.attach().await.map_err(|error| cannot("attach to", error))?;
        let started = self.client.start_container(self.name, None::<StartContainerOptions>).await;
        started.map_err(|error| cannot("start", error))?;
        Ok(attached)
    }

    /// Sees to it that the image is here.
    async fn fetch(&self, image: &str) -> Result<(), Problem> {
        match self.client.inspect_image(image).await {
            Ok(_) => return Ok(()),
            Err(error) if is(&error, 404) => {}
            Err(error) => return Err(Problem::Host(format!("cannot look for {image}: {error}"))),
        }
        let options = CreateImageOptionsBuilder::new().from_image(image).build();
        let mut pulling = std::pin::pin!(self.client.create_image(Some(options), None, None));
        while let Some(step) = pulling.next().await {
            step.map_err(|error| {
                let text = format!("image {image} is not on this host and cannot be pulled");
                Problem::Start(format!("{text}: {error}"))
            })?;
        }
        Ok(())
    }

    async fn attach(&self) -> Result<AttachContainerResults, Error> {
        let options =
            AttachContainerOptionsBuilder::new().stream(true).stdout(true).stderr(true).build();
        self.client.attach_container(self.name, Some(options)).await
    }

    /// Its exit code, as soon as it has one. An engine that goes and comes back may have left
    /// it running.
    async fn until_ended(&self) -> u8 {
        loop {
            let mut waiting =
                std::pin::pin!(self.client.wait_container(self.name, None::<WaitContainerOptions>));
            match waiting.next().await {
                Some(Ok(ended)) => return exit_code(ended.status_code),
                Some(Err(Error::DockerContainerWaitError { code, .. })) => return exit_code(code),
                Some(Err(error)) if is(&error, 404) => return KILLED,
                Some(Err(_)) | None => tokio::time::sleep(ENGINE_RETRY).await,
            }
            let found =
                self.client.inspect_container(self.name, None::<InspectContainerOptions>).await;
            match found {
                Err(error) if is(&error, 404) => return KILLED,
                Err(_) => {}
                Ok(found) => match found.state {
                    Some(state) if state.running == Some(false) => {
                        return exit_code(state.exit_code.unwrap_or(i64::from(KILLED)));
                    }
                    // It goes on, and so does its output.
                    _ => {
                        if let Ok(attached) = self.attach().await {
                            tokio::spawn(carry(attached));
                        }
                    }
                },
            }
        }
    }

    /// Ends all of it when the kernel has killed a part of it for want of memory.
    async fn end_when_out_of_memory(&self) {
        let filters: HashMap<&str, Vec<&str>> =
            [("container", vec![self.name]), ("event", vec!["oom"])].into();
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        let mut events = std::pin::pin!(self.client.events(Some(options)));
        if let Some(Ok(_)) = events.next().await {
            self.kill("SIGKILL").await;
        }
        // An end is told once.
        std::future::pending::<()>().await;
    }

    async fn kill(&self, signal: &str) {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        // It may have ended just now.
        let _ = self.client.kill_container(self.name, Some(options)).await;
    }
}

fn read_plan(file: &Path) -> Result<ContainerCreateBody, String> {
    let text =
        fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    serde_json::from_slice(&text)
        .map_err(|error| format!("cannot understand {}: {error}", file.display()))
}

fn exit_code(code: i64) -> u8 {
    u8::try_from(code).unwrap_or(KILLED)
}

/// The container's output becomes this process's.
async fn carry(mut attached: AttachContainerResults) {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(Ok(output)) = attached.output.next().await {
        let written = match output {
            LogOutput::StdErr { message } => write(&mut stderr, &message).await,
            LogOutput::StdOut { message } | LogOutput::Console { message } => {
                write(&mut stdout, &message).await
            }
            LogOutput::StdIn { .. } => Ok(()),
        };
        if written.is_err() {
            return;
        }
    }
}

async fn write(to: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// Every signal that may ask a worker to end, as the engine calls it.
fn signals() -> std::io::Result<mpsc::Receiver<&'static str>> {
    let (tell, told) = mpsc::channel(16);
    for (kind, name) in [
        (SignalKind::terminate(), "SIGTERM"),
        (SignalKind::interrupt(), "SIGINT"),
        (SignalKind::hangup(), "SIGHUP"),
        (SignalKind::quit(), "SIGQUIT"),
        (SignalKind::user_defined1(), "SIGUSR1"),
        (SignalKind::user_defined2(), "SIGUSR2"),
    ] {
        let mut arriving = signal(kind)?;
        let tell = tell.clone();
        tokio::spawn(async move {
            while arriving.recv().await.is_some() {
                if tell.send(name).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(told)
}
