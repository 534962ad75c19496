//! The process that watches one container.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use berth_shim::ProcessIdentity;
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
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;

use super::engine::{answer, clear, connect, is};
use super::inside::{self, Kept};
use super::{MADE_FILE, PLAN_FILE, UP_FILE, WATCHED_FILE};
use crate::problem::Problem;

/// As `docker run` ends when there is no container to speak of.
const NO_CONTAINER: u8 = 125;
/// As a shell says that SIGKILL or SIGTERM was the end.
const KILLED: u8 = 137;
const TERMINATED: u8 = 143;
/// For the rest of the output of a container that has ended.
const LAST_OUTPUT: Duration = Duration::from_secs(5);
/// For the next piece of an image.
const PULL_STALL: Duration = Duration::from_secs(300);
/// How long before its shim the runner kills a container that does not end.
const KILL_BEFORE: Duration = Duration::from_millis(500);
/// Before an engine that has gone is asked again.
const ENGINE_RETRY: Duration = Duration::from_secs(1);

/// Runs a container to its end and ends with its exit code. The arguments are the agent's own
/// affair: the engine's socket, the container's name, the allocation's directory, the
/// milliseconds from a signal to SIGKILL, and those between two looks at its devices; or what
/// such a look is to look at.
#[must_use]
pub fn run_container(given: impl Iterator<Item = String>) -> ExitCode {
    let mut given = given.peekable();
    if given.next_if(|first| first == inside::LOOK).is_some() {
        return inside::be_inside(given);
    }
    let (Some(socket), Some(name), Some(dir)) = (given.next(), given.next(), given.next()) else {
        return ExitCode::from(2);
    };
    let mut span = || given.next().and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
    let (Some(grace), Some(look_every)) = (span(), span()) else {
        return ExitCode::from(2);
    };
    let (socket, dir) = (PathBuf::from(socket), PathBuf::from(dir));
    let spans = Spans { grace, look_every };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return ExitCode::from(NO_CONTAINER) };
    let outcome = runtime.block_on(run(&socket, &name, &dir, spans));
    // Whoever reads this pipe may be slow, and nothing waits for it any more.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(problem) => {
            problem.leave_in(&dir);
            ExitCode::from(NO_CONTAINER)
        }
    }
}

#[derive(Clone, Copy)]
struct Spans {
    /// From a signal to SIGKILL.
    grace: Duration,
    /// Between two looks at its devices.
    look_every: Duration,
}

async fn run(socket: &Path, name: &str, dir: &Path, spans: Spans) -> Result<u8, Problem> {
    let mut signals = signals().map_err(|error| Problem::Host(error.to_string()))?;
    let client = connect(socket).await.map_err(Problem::Host)?;
    let container = Container { client, name, socket, output: Mutex::new(None) };
    let id = tokio::select! {
        begun = container.begin(dir) => begun?,
        _ = signals.recv() => {
            // The agent does it again if this fails.
            let _ = clear(socket, name).await;
            return Ok(TERMINATED);
        }
    };
    // Before the shim, which would kill this process and leave the container: also when its
    // lease ends and no agent is there.
    let Spans { grace, look_every } = spans;
    let patience = grace.saturating_sub(KILL_BEFORE).max(grace / 2);
    // Why the host is to blame for its end.
    let lost = OnceCell::new();
    let code = {
        let ending = container.until_ended();
        let out_of_memory = container.end_when_out_of_memory(&id);
        let signalling = async {
            let Some(first) = signals.recv().await else { return std::future::pending().await };
            let deadline = tokio::time::Instant::now() + patience;
            container.signal(first).await;
            while let Ok(Some(more)) = tokio::time::timeout_at(deadline, signals.recv()).await {
                container.signal(more).await;
            }
            tokio::time::sleep_until(deadline).await;
            container.signal("SIGKILL").await;
            std::future::pending::<()>().await;
        };
        let losing = async {
            let reason = container.until_devices_are_lost(dir, look_every).await;
            // It ends as any other, whatever the shim asks for meanwhile.
            let _ = lost.set(reason);
            container.signal("SIGKILL").await;
            std::future::pending::<()>().await;
        };
        tokio::pin!(ending, out_of_memory, signalling, losing);
        tokio::select! {
            code = &mut ending => code,
            () = &mut out_of_memory => KILLED,
            () = &mut signalling => KILLED,
            () = &mut losing => KILLED,
        }
    };
    let output = container.output.lock().await.take();
    if let Some(mut output) = output
        && tokio::time::timeout(LAST_OUTPUT, &mut output).await.is_err()
    {
        output.abort();
    }
    match lost.into_inner() {
        Some(reason) => Err(Problem::Host(reason)),
        None => Ok(code),
    }
}

struct Container<'a> {
    client: Client,
    name: &'a str,
    socket: &'a Path,
    /// Whoever carries it.
    output: Mutex<Option<JoinHandle<()>>>,
}

impl Container<'_> {
    /// Brings it up, with its output from the first byte on, and returns its id.
    async fn begin(&self, dir: &Path) -> Result<String, Problem> {
        let body = read_plan(&dir.join(PLAN_FILE)).map_err(Problem::Host)?;
        let image = body.image.clone().unwrap_or_default();
        self.fetch(&image).await?;
        // Of a try before this one, by a runner that was killed.
        clear(self.socket, self.name).await.map_err(Problem::Host)?;
        let named = CreateContainerOptionsBuilder::new().name(self.name).build();
        let cannot = |what: &str, error: Error| {
            let text = format!("cannot {what} a container of image {image}: {error}");
            match answer(&error) {
                // Of what it was asked; of itself; of nothing.
                Some((400..500, _)) => Problem::Start(text),
                Some((_, message)) if names_a_port(message) => Problem::Port(text),
                Some(_) => Problem::Passing(text),
                None => Problem::Host(text),
            }
        };
        mark(dir, MADE_FILE, "")?;
        let made = self.client.create_container(Some(named), body).await;
        let id = made.map_err(|error| cannot("make", error))?.id;
        self.carry_output().await.map_err(|error| cannot("attach to", error))?;
        let started = self.client.start_container(self.name, None::<StartContainerOptions>).await;
        started.map_err(|error| cannot("start", error))?;
        mark(dir, UP_FILE, &id)?;
        Ok(id)
    }

    /// Sees to it that the image is here.
    async fn fetch(&self, image: &str) -> Result<(), Problem> {
        match self.client.inspect_image(image).await {
            Ok(_) => return Ok(()),
            Err(error) if is(&error, 404) => {}
            Err(error) if matches!(answer(&error), Some((400..500, _))) => {
                return Err(Problem::Start(format!("there is no image {image}: {error}")));
            }
            Err(error) => return Err(Problem::Host(format!("cannot look for {image}: {error}"))),
        }
        let options = CreateImageOptionsBuilder::new().from_image(image);
        // Without a tag the engine would fetch every one that there is.
        let options = if has_tag(image) { options } else { options.tag("latest") };
        let pulled = self.client.create_image(Some(options.build()), None, None);
        let mut pulling = std::pin::pin!(pulled);
        let cannot = |why: String| format!("image {image} is not on this host and {why}");
        loop {
            match tokio::time::timeout(PULL_STALL, pulling.next()).await {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => {
                    let text = cannot(format!("cannot be pulled: {error}"));
                    return Err(if is_for_good(&error) {
                        Problem::Start(text)
                    } else {
                        Problem::Passing(text)
                    });
                }
                Err(_) => {
                    let seconds = PULL_STALL.as_secs();
                    let text = cannot(format!("nothing of it came for {seconds} s"));
                    return Err(Problem::Passing(text));
                }
            }
        }
    }

    /// What it says comes out of this process, from now on.
    async fn carry_output(&self) -> Result<(), Error> {
        let options =
            AttachContainerOptionsBuilder::new().stream(true).stdout(true).stderr(true).build();
        let attached = self.client.attach_container(self.name, Some(options)).await?;
        if let Some(before) = self.output.lock().await.replace(tokio::spawn(carry(attached))) {
            // Nothing comes twice.
            before.abort();
        }
        Ok(())
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
                    // It goes on, and so does its output; else it does at the next look.
                    _ => drop(self.carry_output().await),
                },
            }
        }
    }

    /// Ends all of it when the kernel has killed a part of it for want of memory.
    async fn end_when_out_of_memory(&self, id: &str) {
        let filters: HashMap<&str, Vec<&str>> =
            [("container", vec![id]), ("event", vec!["oom"])].into();
        loop {
            // All that the engine remembers: the first may be older than this question.
            let options = EventsOptionsBuilder::new().since("0").filters(&filters).build();
            let mut events = std::pin::pin!(self.client.events(Some(options)));
            if let Some(Ok(_)) = events.next().await {
                self.signal("SIGKILL").await;
                return std::future::pending().await;
            }
            tokio::time::sleep(ENGINE_RETRY).await;
        }
    }

    /// Why it cannot use the devices any more that it could use at first. Where that cannot be
    /// looked at, or there are none, it is never said.
    async fn until_devices_are_lost(&self, dir: &Path, every: Duration) -> String {
        let body = read_plan(&dir.join(PLAN_FILE));
        let nodes = body.map(|body| inside::nodes_of(&body)).unwrap_or_default();
        if nodes.is_empty() {
            return std::future::pending().await;
        }
        let (first, mut kept) = loop {
            if let Some(first) = self.first_process().await
                && let Some(found) = inside::look(&first, &nodes).await
            {
                break (first, Kept::at_first(found));
            }
            tokio::time::sleep(every).await;
        };
        // Only a sign for whoever waits for it.
        let _ = mark(dir, WATCHED_FILE, "");
        loop {
            tokio::time::sleep(every).await;
            let found = inside::look(&first, &kept.nodes()).await;
            if let Some(reason) = found.and_then(|found| kept.look(&found)) {
                return reason;
            }
        }
    }

    /// Who is number 1 in it.
    async fn first_process(&self) -> Option<ProcessIdentity> {
        let options = None::<InspectContainerOptions>;
        let found = self.client.inspect_container(self.name, options).await.ok()?;
        let pid = u32::try_from(found.state?.pid?).ok().filter(|pid| *pid > 0)?;
        ProcessIdentity::of(pid).ok()
    }

    /// Sends a signal, also through an engine that goes and comes back.
    async fn signal(&self, signal: &str) {
        loop {
            let options = KillContainerOptionsBuilder::new().signal(signal).build();
            match self.client.kill_container(self.name, Some(options)).await {
                Ok(()) => return,
                // It has ended just now, or takes no such signal.
                Err(error) if matches!(answer(&error), Some((400..500, _))) => return,
                Err(_) => tokio::time::sleep(ENGINE_RETRY).await,
            }
        }
    }
}

/// Leaves a sign for the agent.
fn mark(dir: &Path, file: &str, content: &str) -> Result<(), Problem> {
    let cannot = |error| Problem::Host(format!("cannot write {file}: {error}"));
    fs::write(dir.join(file), content).map_err(cannot)
}

/// Whether an image's name says which of the repository's images is meant.
fn has_tag(image: &str) -> bool {
    image.contains('@') || image.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

/// Whether no other try to pull would fare better.
fn is_for_good(error: &Error) -> bool {
    let streamed = if let Error::DockerStreamError { error } = error { error } else { "" };
    match answer(error) {
        // Too many have asked: later there is room.
        Some((429, _)) => false,
        Some((400..500, _)) => true,
        other => {
            let words = other.map_or(streamed, |(_, message)| message);
            let told = ["not found", "denied", "manifest unknown", "does not exist"];
            told.iter().any(|word| words.contains(word))
        }
    }
}

/// Whether the engine could not publish a port.
fn names_a_port(message: &str) -> bool {
    message.contains("port is already allocated") || message.contains("address already in use")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tag_is_known() {
        for (image, tagged) in [
            ("vllm/vllm-openai", false),
            ("vllm/vllm-openai:v0.11.0", true),
            ("localhost:5000/a", false),
            ("localhost:5000/a:1", true),
            ("a@sha256:00", true),
        ] {
            assert_eq!(has_tag(image), tagged, "{image}");
        }
    }

    #[test]
    fn what_may_pass_is_told_from_what_will_not() {
        let answer = |status_code, message: &str| Error::DockerResponseServerError {
            status_code,
            message: message.to_owned(),
        };
        for (error, for_good) in [
            (answer(404, "pull access denied"), true),
            (answer(500, "manifest for a:1 not found: manifest unknown"), true),
            (answer(500, "dial tcp: lookup registry: no such host"), false),
            (answer(429, "too many"), false),
            (Error::DockerStreamError { error: "unexpected EOF".to_owned() }, false),
            (Error::RequestTimeoutError, false),
        ] {
            assert_eq!(is_for_good(&error), for_good, "{error}");
        }
        assert!(names_a_port("Bind for 0.0.0.0:80 failed: port is already allocated"));
    }
}
