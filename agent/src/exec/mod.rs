//! Commands that somebody runs beside a worker: what is typed goes in, what they write goes back,
//! on a stream of their own to the scheduler that asked. They are held by what holds the worker,
//! and go when whoever asked has gone. Who may ask is decided long before.

mod container;
mod descriptor;
mod process;
mod terminal;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_identity::Dialer;
use berth_proto::v1::agents_client::AgentsClient;
use berth_proto::v1::exec_input::Input;
use berth_proto::v1::exec_output::Output;
use berth_proto::v1::{
    ExecBegun, ExecEnded, ExecInput, ExecOutput, ExecPush, ExecTerminal, TerminalSize,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::{debug, info};

use crate::confinement::Guest;
use crate::session::dial;

/// Commands at once; more are told to come again. Each costs a connection and a process or two.
const COMMANDS_MAX: usize = 32;
/// Those that are only told why not; beyond them nobody is told anything.
const REFUSALS_MAX: usize = 64;
/// For what hears that its caller has hung up.
const HANG_UP_GRACE: Duration = Duration::from_secs(3);
/// What is told of it then, to nobody.
const HUNG_UP: &str = "nobody is there any more";
/// Pieces of output on their way; the reader's pace is the pace.
const PIECES_MAX: usize = 8;
/// Of one piece of output.
const PIECE_BYTES: usize = 32 << 10;

/// A command and what it is run beside.
pub struct Wanted {
    pub command: Vec<String>,
    pub terminal: Option<ExecTerminal>,
    pub place: Place,
}

/// Where a command runs.
pub enum Place {
    /// Among the processes of a worker.
    Process {
        guest: Box<Guest>,
        /// The worker's own, whose terminals the worker sees.
        dir: PathBuf,
    },
    Container {
        socket: PathBuf,
        name: String,
    },
}

/// The commands that are being run. Dropped, all of them end, but for those in containers.
pub struct ExecRequests {
    dialer: Dialer,
    /// Whatever is answered, refusals among them.
    answers: JoinSet<()>,
    room: Arc<Semaphore>,
}

impl ExecRequests {
    /// None yet; answers go out through `dialer`.
    pub fn through(dialer: Dialer) -> ExecRequests {
        let room = Arc::new(Semaphore::new(COMMANDS_MAX));
        ExecRequests { dialer, answers: JoinSet::new(), room }
    }

    /// Runs a command, or says why not, over a connection of its own to `scheduler`.
    pub fn serve(&mut self, scheduler: String, request_id: String, wanted: Result<Wanted, String>) {
        while self.answers.try_join_next().is_some() {}
        if self.answers.len() >= COMMANDS_MAX + REFUSALS_MAX {
            return debug!(request_id, "too many are told already that there is no room");
        }
        let full = || {
            format!(
                "{COMMANDS_MAX} commands run beside the workers of this node already; come again"
            )
        };
        let wanted = wanted.and_then(|wanted| {
            let place = self.room.clone().try_acquire_owned().map_err(|_| full())?;
            Ok((wanted, place))
        });
        let dialer = self.dialer.clone();
        self.answers.spawn(async move {
            let (wanted, _place) = match wanted {
                Ok((wanted, place)) => (Ok(wanted), Some(place)),
                Err(reason) => (Err(reason), None),
            };
            if let Err(problem) = answer(&dialer, &scheduler, &request_id, wanted).await {
                debug!(request_id, problem, "nobody waits for a command any more");
            }
        });
    }
}

async fn answer(
    dialer: &Dialer,
    scheduler: &str,
    request_id: &str,
    wanted: Result<Wanted, String>,
) -> Result<(), String> {
    let channel = dial::connect(dialer, scheduler).await?;
    let (pushes, outgoing) = mpsc::channel(PIECES_MAX);
    let first = ExecPush { request_id: request_id.to_owned(), output: None };
    let gone = || "the stream was closed".to_owned();
    pushes.send(first).await.map_err(|_| gone())?;
    // Answered when somebody still waits for it: only then anything is begun.
    let inputs = AgentsClient::new(channel).exec(ReceiverStream::new(outgoing)).await;
    let inputs = inputs.map_err(|status| status.message().to_owned())?.into_inner();
    let mut caller = Caller { inputs, outputs: Outputs(pushes.clone()) };
    let ended = match wanted {
        Ok(wanted) => run(wanted, &mut caller).await,
        Err(reason) => Err(reason),
    };
    let ended = match ended {
        Ok(code) => ExecEnded { exit_code: Some(code), ..ExecEnded::default() },
        Err(problem) => ExecEnded { problem, ..ExecEnded::default() },
    };
    caller.outputs.say(Output::Ended(ended)).await;
    // The last word goes before the stream does.
    drop(pushes);
    let Caller { mut inputs, outputs } = caller;
    drop(outputs);
    while let Ok(Some(_)) = inputs.message().await {}
    Ok(())
}

/// Runs a command until it ends, or its caller has gone; its exit code, as a shell tells it.
async fn run(wanted: Wanted, caller: &mut Caller) -> Result<u32, String> {
    let Wanted { command, terminal, place } = wanted;
    info!(program = command.first(), "command begins beside a worker");
    match place {
        Place::Process { guest, dir } => {
            process::run(&guest.running(command), &dir, terminal, caller).await
        }
        Place::Container { socket, name } => {
            container::run(&socket, &name, command, terminal, caller).await
        }
    }
}

/// Whoever wants a command to run.
struct Caller {
    inputs: Streaming<ExecInput>,
    outputs: Outputs,
}

/// The way back.
#[derive(Clone)]
struct Outputs(mpsc::Sender<ExecPush>);

impl Outputs {
    /// Waits for room; whether anybody still listens.
    async fn say(&self, output: Output) -> bool {
        self.0.send(push(output)).await.is_ok()
    }

    /// That it has begun; where, the scheduler knows.
    async fn begun(&self) -> bool {
        self.say(Output::Begun(ExecBegun::default())).await
    }

    /// Until nobody listens any more.
    async fn closed(&self) {
        self.0.closed().await;
    }
}

fn push(output: Output) -> ExecPush {
    let output = Some(ExecOutput { output: Some(output) });
    ExecPush { request_id: String::new(), output }
}

/// What a command hears of its caller.
enum Heard {
    Data(Vec<u8>),
    /// There is nothing more to read.
    End,
    Resized(TerminalSize),
    /// It has gone.
    HungUp,
}

/// The next that is of use.
async fn heard(inputs: &mut Streaming<ExecInput>) -> Heard {
    loop {
        let Ok(Some(input)) = inputs.message().await else { return Heard::HungUp };
        match input.input {
            Some(Input::Data(data)) => return Heard::Data(data.into()),
            Some(Input::End(_)) => return Heard::End,
            Some(Input::Resized(size)) => return Heard::Resized(size),
            // For the scheduler, or of a later release.
            Some(Input::Start(_)) | None => {}
        }
    }
}
