//! Commands that people run beside a worker: asked of its agent, which answers on a stream of its
//! own. What is typed and what is written are passed on, and kept nowhere.

use std::pin::Pin;
use std::time::Duration;

use berth_model::{AllocationId, InstanceIndex};
use berth_proto::v1;
use berth_proto::v1::exec_input::Input;
use berth_proto::v1::exec_output::Output;
use berth_proto::v1::scheduler_message::Message as ToAgent;
use futures::Stream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::instance::{Instance, node_name};
use super::jobs::task_named;
use super::{Shared, lookup, status};
use crate::access::Granted;
use crate::sessions::Session;

/// Whoever runs a command says which at once.
const START_LIMIT: Duration = Duration::from_secs(5);
/// An agent dials back at once.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);
/// Pieces on their way, each way: a slow reader holds up its own command and nothing else.
const PIECES_MAX: usize = 16;
/// Of one piece of input: no more than all of a pipe.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// For somebody who does not read.
const LAST_WORD_LIMIT: Duration = Duration::from_secs(5);
/// No name of a kind of terminal is longer.
const TERMINAL_KIND_BYTES_MAX: usize = 64;
/// Of a program's name in the audit.
const PROGRAM_CHARS_MAX: usize = 256;
/// Of a command with its arguments: less than any system takes.
const COMMAND_BYTES_MAX: usize = 96 << 10;

pub type ExecStream = Pin<Box<dyn Stream<Item = Result<v1::ExecOutput, Status>> + Send>>;

/// The agent's ends of what passes between it and whoever runs a command.
pub struct AgentEnds {
    pub outputs: mpsc::Sender<v1::ExecOutput>,
    pub inputs: mpsc::Receiver<Result<v1::ExecInput, Status>>,
}

impl Shared {
    /// Only the leader has the agents' sessions; a follower says where it is.
    pub async fn exec(
        &self,
        granted: &Granted,
        mut inputs: Streaming<v1::ExecInput>,
    ) -> Result<ExecStream, Status> {
        let start = start_of(&mut inputs).await?;
        self.leading_or_redirect()?;
        let view = self.read(granted, 0).await?.state;
        let job = lookup::job(granted, &view, start.job.as_ref())?;
        let task = task_named(&job, &start.task)?;
        check(&start)?;
        let instance = Instance { job: job.id, task, index: InstanceIndex(start.index) };
        let alive = self.shown(&view, instance, 0);
        let alive = alive.filter(|(id, _)| view.allocations().get(id).is_some());
        let Some((allocation, node)) = alive else {
            let (index, job) = (start.index, job.id);
            return Err(Status::failed_precondition(format!(
                "instance {index} of job {job} does not run: there is nothing to run it beside"
            )));
        };
        let program = start.command.first().map_or("", String::as_str);
        let program: String = program.chars().take(PROGRAM_CHARS_MAX).collect();
        granted.about(format!("{allocation} of job {}/{}: {program}", job.namespace(), job.name()));
        let name = node_name(&view, node);
        let session = self.published.sessions.get(node).ok_or_else(|| {
            Status::failed_precondition(format!(
                "node {name}, which runs {allocation}, is not connected"
            ))
        })?;
        let (out, stream) = mpsc::channel(PIECES_MAX);
        let passing =
            Passing { shared: self.clone(), granted: granted.clone(), allocation, node: name, out };
        let order = v1::ExecRequest {
            // Its id is drawn when somebody waits for it.
            request_id: String::new(),
            allocation_id: allocation.to_string(),
            command: start.command,
            terminal: start.terminal,
        };
        tokio::spawn(passing.run(session, order, inputs));
        Ok(Box::pin(ReceiverStream::new(stream)))
    }
}

async fn start_of(inputs: &mut Streaming<v1::ExecInput>) -> Result<v1::ExecStart, Status> {
    let first = timeout(START_LIMIT, inputs.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no command came"))??;
    match first.and_then(|first| first.input) {
        Some(Input::Start(start)) => Ok(start),
        Some(Input::Data(_) | Input::End(_) | Input::Resized(_)) | None => {
            Err(status::invalid_field("start", "the first message says which command is to be run"))
        }
    }
}

fn check(start: &v1::ExecStart) -> Result<(), Status> {
    let kind = start.terminal.as_ref().map_or("", |terminal| &terminal.kind);
    if kind.len() > TERMINAL_KIND_BYTES_MAX || !kind.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = "expected the name of a kind of terminal, such as xterm-256color";
        return Err(status::invalid_field("terminal.kind", message));
    }
    let command = &start.command;
    let refused = |message: String| Err(status::invalid_field("command", message));
    if command.first().is_none_or(String::is_empty) {
        return refused("a command is missing; give a program and its arguments".to_owned());
    }
    if command.iter().any(|word| word.contains('\0')) {
        return refused("a word of it holds a zero byte, which no program can be given".to_owned());
    }
    let bytes: usize = command.iter().map(|word| word.len() + 1).sum();
    if bytes > COMMAND_BYTES_MAX {
        return refused(format!("it has {bytes} bytes; at most {COMMAND_BYTES_MAX} are taken"));
    }
    Ok(())
}

/// A command whose streams are passed on.
struct Passing {
    shared: Shared,
    granted: Granted,
    allocation: AllocationId,
    /// The node's name.
    node: String,
    out: mpsc::Sender<Result<v1::ExecOutput, Status>>,
}

impl Passing {
    /// Passes on until it has ended, or one of the two has gone: dropping the ways to both says
    /// so to whoever is left.
    async fn run(self, session: Session, order: v1::ExecRequest, inputs: Streaming<v1::ExecInput>) {
        let (to_caller, outputs) = mpsc::channel(PIECES_MAX);
        let (to_agent, agent_inputs) = mpsc::channel(PIECES_MAX);
        let execs = &self.shared.published.sessions.execs;
        let ends = AgentEnds { outputs: to_caller, inputs: agent_inputs };
        let request_id = execs.open(session.node, ends);
        let order = v1::ExecRequest { request_id: request_id.clone(), ..order };
        let order = v1::SchedulerMessage { message: Some(ToAgent::ExecRequest(order)) };
        // The two directions do not wait for each other.
        let over = tokio::select! {
            over = self.pass_outputs(&session, order, outputs, &request_id) => over,
            Err(wrong) = pass_inputs(inputs, to_agent) => Err(wrong),
            refused = self.until_refused() => Err(refused),
            () = self.out.closed() => Ok(()),
        };
        execs.close(&request_id);
        if let Err(problem) = over {
            // Whoever has gone, or does not read, needs no word.
            let _ = timeout(LAST_WORD_LIMIT, self.out.send(Err(problem))).await;
        }
    }

    async fn pass_outputs(
        &self,
        session: &Session,
        order: v1::SchedulerMessage,
        mut outputs: mpsc::Receiver<v1::ExecOutput>,
        request_id: &str,
    ) -> Result<(), Status> {
        let asked = async {
            session.orders.send(order).await.ok()?;
            outputs.recv().await
        };
        let mut next = timeout(BEGIN_LIMIT, asked).await.ok().flatten();
        loop {
            let output = next.ok_or_else(|| self.away(request_id))?;
            let is_last = matches!(output.output, Some(Output::Ended(_)));
            let output = self.with_place(output);
            if self.out.send(Ok(output)).await.is_err() || is_last {
                return Ok(());
            }
            next = outputs.recv().await;
        }
    }

    /// A right that was taken back is taken back at once, whether or not anything passes.
    async fn until_refused(&self) -> Status {
        let published = &self.shared.published;
        let mut views = published.views();
        loop {
            let view = views.borrow_and_update().clone();
            if let Err(refused) = self.granted.still(&view, published.now()) {
                return refused;
            }
            if views.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The agent leaves it to us to say where it is.
    fn with_place(&self, output: v1::ExecOutput) -> v1::ExecOutput {
        let Some(Output::Begun(_)) = output.output else { return output };
        let allocation_id = self.allocation.to_string();
        let begun = v1::ExecBegun { allocation_id, node: self.node.clone() };
        v1::ExecOutput { output: Some(Output::Begun(begun)) }
    }

    /// The agent says no more; nor has it ever, where somebody still waits for its answer.
    fn away(&self, request_id: &str) -> Status {
        let Passing { allocation, node, .. } = self;
        // By now it may not begin any more.
        let was_answered = self.shared.published.sessions.execs.take(request_id).is_none();
        Status::unavailable(if was_answered {
            format!(
                "node {node} went away; whether the command beside {allocation} has ended is not \
                 known"
            )
        } else {
            format!("node {node} does not answer; nothing was begun beside {allocation}")
        })
    }
}

/// Until the caller or the agent has gone; the end of either shows elsewhere too.
async fn pass_inputs(
    mut inputs: Streaming<v1::ExecInput>,
    to_agent: mpsc::Sender<Result<v1::ExecInput, Status>>,
) -> Result<std::convert::Infallible, Status> {
    loop {
        let input = match inputs.message().await {
            Ok(Some(input)) => input,
            Ok(None) => {
                let end = v1::ExecInput { input: Some(Input::End(v1::ExecInputEnd {})) };
                let _ = to_agent.send(Ok(end)).await;
                // It listens on; the end of this way would be taken for its own.
                return std::future::pending().await;
            }
            Err(broken) => return Err(broken),
        };
        if let Some(Input::Data(data)) = &input.input
            && data.len() > PIECE_BYTES_MAX
        {
            let message =
                format!("a piece has {} bytes; at most {PIECE_BYTES_MAX} are taken", data.len());
            return Err(status::invalid_field("data", message));
        }
        if to_agent.send(Ok(input)).await.is_err() {
            return std::future::pending().await;
        }
    }
}
