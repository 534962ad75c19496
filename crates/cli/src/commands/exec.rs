//! `berth exec JOB -- CMD`: a command beside a running worker.

use berth_client::{ExecInputs, ExecOutputs};
use berth_proto::v1::exec_output::Output;
use berth_proto::v1::{ExecEnded, ExecStart, ExecTerminal};
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::error::{CliError, Exit};
use crate::interrupt::Doing;
use crate::session::Session;
use crate::terminal::{self, RawTerminal};
use crate::values;

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Id, name, or prefix of an id
    #[arg(value_name = "JOB", value_parser = values::reference)]
    pub job: String,

    /// The task, where the job has several
    #[arg(long, value_name = "TASK")]
    pub task: Option<String>,

    /// The instance
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub index: u32,

    /// Give the command a terminal; so it is where standard input and output are one
    #[arg(long, short, conflicts_with_all = ["no_tty", "no_stdin"])]
    pub tty: bool,

    /// Give it none: standard output and error stay apart
    #[arg(long, short = 'T')]
    pub no_tty: bool,

    /// Give it nothing to read
    #[arg(long)]
    pub no_stdin: bool,

    /// The program and its arguments
    #[arg(value_name = "CMD", last = true, required = true)]
    pub command: Vec<String>,
}

pub(crate) async fn run(args: ExecArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let has_terminal = args.tty || (!args.no_tty && !args.no_stdin && terminal::is_interactive());
    let terminal = has_terminal.then(|| ExecTerminal {
        size: terminal::size(),
        kind: session.host.variable("TERM").unwrap_or_default().to_owned(),
    });
    let start = ExecStart {
        job: Some(session.job(&args.job)),
        task: args.task.unwrap_or_default(),
        index: args.index,
        command: args.command,
        terminal,
    };
    // Before the command can have begun: whoever ends this one from then on is to be heard.
    let terminated = terminations().map_err(|error| CliError::failed(error.to_string()))?;
    session.interrupt.set(Doing::Running);
    let typed = (!args.no_stdin).then_some(terminal::typed as Typed);
    tokio::select! {
        exit = with_command(start, typed, session) => exit,
        () = terminated => Err(CliError::Interrupted(Doing::Running)),
    }
}

/// Begins to read what is typed here.
type Typed = fn() -> mpsc::Receiver<Vec<u8>>;

async fn with_command(
    start: ExecStart,
    typed: Option<Typed>,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let has_terminal = start.terminal.is_some();
    let (inputs, mut outputs) = session.client.exec(start).await?;
    // Nothing that is typed is taken before there is somebody to read it.
    match outputs.next().await? {
        Some(Output::Begun(_)) => {}
        Some(Output::Ended(ended)) => return exit_of(ended),
        Some(Output::Stdout(_) | Output::Stderr(_)) | None => return Err(no_answer()),
    }
    let _raw = has_terminal.then(RawTerminal::begin).flatten();
    if let Some(typed) = typed {
        let window = has_terminal.then(|| signal(SignalKind::window_change())).transpose();
        let window = window.map_err(|error| CliError::failed(error.to_string()))?;
        // For itself: whoever waits for room there must not keep what is written waiting.
        tokio::spawn(pass_inputs(inputs, typed(), window));
    } else {
        drop(inputs);
    }
    show(&mut outputs, session).await
}

async fn show(outputs: &mut ExecOutputs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    loop {
        match outputs.next().await? {
            Some(Output::Stdout(data)) => session.console.data(&data)?,
            Some(Output::Stderr(data)) => session.console.error_data(&data),
            Some(Output::Ended(ended)) => return exit_of(ended),
            Some(Output::Begun(_)) => {}
            None => return Err(no_answer()),
        }
    }
}

/// Listens from now on for being told to end: a terminal must be given back as it was, whoever
/// ends this process. Ends when it is told.
///
/// # Errors
///
/// When the system lets nobody listen.
fn terminations() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    })
}

async fn pass_inputs(
    inputs: ExecInputs,
    mut typed: mpsc::Receiver<Vec<u8>>,
    mut window: Option<Signal>,
) {
    let mut is_over = false;
    loop {
        let resized = async {
            match &mut window {
                Some(window) => window.recv().await,
                None => std::future::pending().await,
            }
        };
        let goes_on = tokio::select! {
            data = typed.recv(), if !is_over => match data {
                Some(data) => inputs.data(data.into()).await,
                None => {
                    is_over = true;
                    inputs.end().await
                }
            },
            _ = resized => match terminal::size() {
                Some(size) => inputs.resized(size).await,
                None => true,
            },
        };
        if !goes_on {
            return;
        }
    }
}

/// As the command itself would have ended here.
fn exit_of(ended: ExecEnded) -> Result<Exit, CliError> {
    match ended.exit_code {
        Some(code) => Ok(Exit::OfCommand(u8::try_from(code).unwrap_or(u8::MAX))),
        None => Err(CliError::failed(ended.problem)),
    }
}

fn no_answer() -> CliError {
    CliError::failed("the scheduler said no more; whether the command has ended is not known")
}
