//! Commands that people run beside a worker: asked of its agent, which answers on a stream of its
//! own. What is typed and what is written are passed on, and kept nowhere.

use std::pin::Pin;
use std::time::Duration;

use berth_model::{AllocationId, InstanceIndex, NodeId};
use berth_proto::v1;
use berth_proto::v1::exec_input::Input;
use berth_proto::v1::exec_output::Output;
use berth_proto::v1::scheduler_message::Message as ToAgent;
use futures::Stream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::instance::{Instance, node_name};
use super::jobs::task_named;
use super::{Shared, lookup, status};
use crate::access::Granted;

/// Whoever runs a command says which at once.
const START_LIMIT: Duration = Duration::from_secs(5);
/// An agent dials back at once.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);
/// Pieces on their way, each way: a slow reader holds up its own command and nothing else.
const PIECES_MAX: usize = 16;
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
        check(&start.command)?;
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
        granted.about(format!("{allocation} of job {}/{}: {program}", job.namespace(), job.name()));
        let name = node_name(&view, node);
        let session = self.published.sessions.get(node).ok_or_else(|| {
            Status::failed_precondition(format!(
                "node {name}, which runs {allocation}, is not connected"
            ))
        })?;
        let (to_caller, outputs) = mpsc::channel(PIECES_MAX);
        let (to_agent, agent_inputs) = mpsc::channel(PIECES_MAX);
        let execs = &self.published.sessions.execs;
        let ends = AgentEnds { outputs: to_caller, inputs: agent_inputs };
        let request_id = execs.open(node, ends);
        let order = ToAgent::ExecRequest(v1::ExecRequest {
            request_id: request_id.clone(),
            allocation_id: allocation.to_string(),
            command: start.command,
            terminal: start.terminal,
        });
        let order = v1::SchedulerMessage { message: Some(order) };
        let (out, stream) = mpsc::channel(PIECES_MAX);
        let passing = Passing {
            shared: self.clone(),
            granted: granted.clone(),
            begun: Begun { request_id, allocation, node, name },
            out,
        };
        if session.orders.send(order).await.is_err() {
            passing.close();
            return Err(passing.away());
        }
        tokio::spawn(passing.run(inputs, to_agent, outputs));
        Ok(Box::pin(ReceiverStream::new(stream)))
    }
}

async fn start_of(inputs: &mut Streaming<v1::ExecInput>) -> Result<v1::ExecStart, Status> {
    let first = tokio::time::timeout(START_LIMIT, inputs.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no command came"))??;
    match first.and_then(|first| first.input) {
        Some(Input::Start(start)) => Ok(start),
        Some(Input::Data(_) | Input::End(_) | Input::Resized(_)) | None => {
            Err(status::invalid_field("start", "the first message says which command is to be run"))
        }
    }
}

fn check(command: &[String]) -> Result<(), Status> {
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

/// What is being run, and where.
struct Begun {
    request_id: String,
    allocation: AllocationId,
    node: NodeId,
    /// The node's.
    name: String,
}

/// A command whose streams are passed on.
struct Passing {
    shared: Shared,
    granted: Granted,
    begun: Begun,
    out: mpsc::Sender<Result<v1::ExecOutput, Status>>,
}

impl Passing {
    /// Passes on until it has ended, or one of the two has gone: dropping the ways to both says
    /// so to whoever is left.
    async fn run(
        self,
        inputs: Streaming<v1::ExecInput>,
        to_agent: mpsc::Sender<Result<v1::ExecInput, Status>>,
        outputs: mpsc::Receiver<v1::ExecOutput>,
    ) {
        // The two directions do not wait for each other.
        let mut going_in = JoinSet::new();
        going_in.spawn(pass_inputs(inputs, to_agent));
        let problem = self.pass_outputs(outputs).await;
        drop(going_in);
        self.close();
        if let Err(problem) = problem {
            // Whoever has gone needs no word.
            let _ = self.out.send(Err(problem)).await;
        }
    }

    async fn pass_outputs(
        &self,
        mut outputs: mpsc::Receiver<v1::ExecOutput>,
    ) -> Result<(), Status> {
        let published = &self.shared.published;
        let mut views = published.views();
        let begins_by = Instant::now() + BEGIN_LIMIT;
        let mut is_first = true;
        loop {
            let output = tokio::select! {
                output = outputs.recv() => output.ok_or_else(|| self.away())?,
                () = sleep_until(begins_by), if is_first => return Err(self.away()),
                () = self.out.closed() => return Ok(()),
                changed = views.changed() => {
                    let view = views.borrow_and_update().clone();
                    // A right that was taken back is taken back at once.
                    self.granted.still(&view, published.now())?;
                    match changed {
                        Ok(()) => continue,
                        Err(_) => return Err(Status::unavailable("the scheduler ends")),
                    }
                }
            };
            is_first = false;
            let is_last = matches!(output.output, Some(Output::Ended(_)));
            let output = self.with_place(output);
            if self.out.send(Ok(output)).await.is_err() || is_last {
                return Ok(());
            }
        }
    }

    /// The agent leaves it to us to say where it is.
    fn with_place(&self, output: v1::ExecOutput) -> v1::ExecOutput {
        let Some(Output::Begun(_)) = output.output else { return output };
        let allocation_id = self.begun.allocation.to_string();
        let begun = v1::ExecBegun { allocation_id, node: self.begun.name.clone() };
        v1::ExecOutput { output: Some(Output::Begun(begun)) }
    }

    fn close(&self) {
        self.shared.published.sessions.execs.close(&self.begun.request_id);
    }

    fn away(&self) -> Status {
        let Begun { allocation, node, name, .. } = &self.begun;
        let connected = self.shared.published.sessions.get(*node).is_some();
        let why = if connected { "does not answer" } else { "went away" };
        Status::unavailable(format!(
            "node {name} {why}; whether the command beside {allocation} has ended is not known"
        ))
    }
}

async fn pass_inputs(
    mut inputs: Streaming<v1::ExecInput>,
    to_agent: mpsc::Sender<Result<v1::ExecInput, Status>>,
) {
    loop {
        match inputs.message().await {
            Ok(Some(input)) => {
                if to_agent.send(Ok(input)).await.is_err() {
                    return;
                }
            }
            Ok(None) => {
                let end = v1::ExecInput { input: Some(Input::End(v1::ExecInputEnd {})) };
                let _ = to_agent.send(Ok(end)).await;
                // It listens on; the end of this way would be taken for its own.
                return to_agent.closed().await;
            }
            Err(_) => return,
        }
    }
}
