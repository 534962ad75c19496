//! A command in a worker's container, by the engine. It cannot be asked to end one: what a caller
//! that has gone leaves behind is ended by its number, where that is told and is this host's.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use berth_proto::v1::exec_output::Output;
use berth_proto::v1::{ExecInput, ExecTerminal, TerminalSize};
use bollard::Docker as Client;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{ExecConfig, ExecInspectResponse};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Streaming;

use super::terminal::cells;
use super::{Caller, HANG_UP_GRACE, HUNG_UP, Heard, Outputs, heard};
use crate::docker::connect;

/// The engine tells of an end a moment after the output's.
const END_LIMIT: Duration = Duration::from_secs(10);
/// An engine before 23 takes a size only when the terminal is there, and begins to answer before
/// that: asked so often (as its own client does), with so long in between.
const FIRST_SIZES_MAX: u32 = 10;
const FIRST_SIZE_WAIT: Duration = Duration::from_millis(20);
/// Between two questions whether it has ended.
const END_LOOK: Duration = Duration::from_millis(20);

/// Runs it, and says how it ended, as a shell does.
///
/// # Errors
/// It could not be begun, in words.
pub async fn run(
    socket: &Path,
    name: &str,
    command: Vec<String>,
    terminal: Option<ExecTerminal>,
    caller: &mut Caller,
) -> Result<u32, String> {
    let engine = connect(socket).await?;
    let in_words = |error: Error| format!("the engine cannot run it: {error}");
    let size = terminal.as_ref().and_then(|terminal| terminal.size);
    let made = engine.create_exec(name, options(command, terminal.as_ref())).await;
    let id = made.map_err(in_words)?.id;
    let how = StartExecOptions { detach: false, tty: terminal.is_some(), output_capacity: None };
    let begun = engine.start_exec(&id, Some(how)).await.map_err(in_words)?;
    let StartExecResults::Attached { mut output, input } = begun else {
        return Err("the engine does not say what it writes".to_owned());
    };
    let command = Command { engine, id };
    if let Some(size) = size {
        for _ in 0..FIRST_SIZES_MAX {
            if command.resize(size).await.is_ok() {
                break;
            }
            tokio::time::sleep(FIRST_SIZE_WAIT).await;
        }
    }
    caller.outputs.begun().await;
    let outputs = caller.outputs.clone();
    let over = tokio::select! {
        over = pass_outputs(&mut output, &outputs) => over,
        () = command.pass_inputs(input, &mut caller.inputs) => Over::HungUp,
        () = outputs.closed() => Over::HungUp,
    };
    let told = match over {
        Over::AllWritten => command.exit_code().await,
        Over::HungUp => Err(HUNG_UP.to_owned()),
        Over::Broken(problem) => Err(format!("the engine says no more of it: {problem}")),
    };
    if told.is_err() {
        command.hang_up().await;
    }
    told
}

/// Why nothing more is passed on.
enum Over {
    AllWritten,
    HungUp,
    Broken(Error),
}

fn options(command: Vec<String>, terminal: Option<&ExecTerminal>) -> ExecConfig {
    let kind = terminal.map(|terminal| &terminal.kind).filter(|kind| !kind.is_empty());
    let size = terminal.and_then(|terminal| terminal.size);
    ExecConfig {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(terminal.is_some()),
        env: kind.map(|kind| vec![format!("TERM={kind}")]),
        cmd: Some(command),
        console_size: size
            .map(|size| vec![usize::from(cells(size.rows)), usize::from(cells(size.columns))]),
        ..ExecConfig::default()
    }
}

/// One that the engine runs.
struct Command {
    engine: Client,
    id: String,
}

impl Command {
    /// Until the caller hangs up.
    async fn pass_inputs(
        &self,
        input: std::pin::Pin<Box<dyn AsyncWrite + Send>>,
        inputs: &mut Streaming<ExecInput>,
    ) {
        let mut input = Some(input);
        loop {
            match heard(inputs).await {
                Heard::HungUp => return,
                Heard::Resized(size) => {
                    // It may have no terminal, or have ended.
                    let _ = self.resize(size).await;
                }
                Heard::Data(data) => {
                    if let Some(open) = &mut input
                        && write(open, &data).await.is_err()
                    {
                        input = None;
                    }
                }
                Heard::End => {
                    if let Some(mut open) = input.take() {
                        let _ = open.shutdown().await;
                    }
                }
            }
        }
    }

    async fn resize(&self, size: TerminalSize) -> Result<(), Error> {
        let options = ResizeExecOptions { height: cells(size.rows), width: cells(size.columns) };
        self.engine.resize_exec(&self.id, options).await
    }

    async fn look(&self) -> Result<ExecInspectResponse, String> {
        let found = self.engine.inspect_exec(&self.id).await;
        found.map_err(|error| format!("the engine does not say how it ended: {error}"))
    }

    /// Of one whose output has ended.
    async fn exit_code(&self) -> Result<u32, String> {
        let asked = async {
            loop {
                let found = self.look().await?;
                if found.running != Some(true) {
                    let code = found.exit_code.and_then(|code| u32::try_from(code).ok());
                    return code.ok_or_else(|| "the engine does not say how it ended".to_owned());
                }
                tokio::time::sleep(END_LOOK).await;
            }
        };
        let silent = |_| "its output has ended, and the engine says that it runs".to_owned();
        timeout(END_LIMIT, asked).await.map_err(silent)?
    }

    /// Ends it, where it can be found on this host.
    async fn hang_up(&self) {
        for signal in [Signal::HUP, Signal::KILL] {
            let Ok(Ok(Some((container, pid)))) = timeout(END_LIMIT, self.process()).await else {
                return;
            };
            if signal_in(&container, pid, signal).is_err() {
                return;
            }
            tokio::time::sleep(HANG_UP_GRACE).await;
        }
    }

    /// The container and the number of its process; `None` once it has ended.
    async fn process(&self) -> Result<Option<(String, i64)>, String> {
        loop {
            let found = self.look().await?;
            if found.running != Some(true) {
                return Ok(None);
            }
            // What has just begun has none yet.
            if let Some(pid) = found.pid.filter(|pid| *pid > 0) {
                return Ok(Some((found.container_id.unwrap_or_default(), pid)));
            }
            tokio::time::sleep(END_LOOK).await;
        }
    }
}

/// Signals a process of this host that is in a container.
fn signal_in(container: &str, pid: i64, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    // Opened before looking: what is looked at is then what is signalled.
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    if container.is_empty() || !groups.contains(container) {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(pidfd_send_signal(process, signal)?)
}

async fn write(input: &mut (impl AsyncWrite + Unpin), data: &[u8]) -> io::Result<()> {
    input.write_all(data).await?;
    input.flush().await
}

/// Until there is no more, or nobody to tell it to.
async fn pass_outputs(
    output: &mut (impl Stream<Item = Result<LogOutput, Error>> + Unpin),
    outputs: &Outputs,
) -> Over {
    while let Some(piece) = output.next().await {
        let said = match piece {
            Err(problem) => return Over::Broken(problem),
            Ok(piece) => piece,
        };
        let said = match said {
            LogOutput::StdErr { message } => Output::Stderr(message),
            LogOutput::StdOut { message } | LogOutput::Console { message } => {
                Output::Stdout(message)
            }
            LogOutput::StdIn { .. } => continue,
        };
        if !outputs.say(said).await {
            return Over::HungUp;
        }
    }
    Over::AllWritten
}
