//! A command beside a worker, from where it was asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use berth_model::AllocationId;
use berth_proto::v1::exec_input::Input;
use berth_proto::v1::exec_output::Output;
use berth_proto::v1::scheduler_message::Message as ToAgent;
use berth_proto::v1::{
    ExecEnded, ExecInput, ExecInputEnd, ExecOutput, ExecPush, ExecRequest, ExecTerminal,
    TerminalSize,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use super::scheduler::Scheduler;
use super::{BOUND, within};

pub type Inputs = UnboundedReceiverStream<Result<ExecInput, Status>>;

/// Requests that no agent has answered yet.
#[derive(Clone, Default)]
pub struct Open(Arc<Mutex<BTreeMap<String, Ends>>>);

type Ends = (mpsc::UnboundedSender<ExecOutput>, mpsc::UnboundedReceiver<Result<ExecInput, Status>>);

impl Open {
    /// An agent's stream, joined with the test's.
    pub async fn answered(&self, mut pushes: Streaming<ExecPush>) -> Result<Inputs, Status> {
        let first = pushes.message().await?.unwrap();
        let ends = self.0.lock().unwrap().remove(&first.request_id);
        let (outputs, inputs) = ends.ok_or_else(|| Status::cancelled("nobody waits"))?;
        tokio::spawn(async move {
            while let Ok(Some(push)) = pushes.message().await {
                let _ = outputs.send(push.output.unwrap());
            }
        });
        Ok(UnboundedReceiverStream::new(inputs))
    }
}

/// A command that runs. Dropped, whoever asked for it has gone.
pub struct Exec {
    inputs: mpsc::UnboundedSender<Result<ExecInput, Status>>,
    outputs: mpsc::UnboundedReceiver<ExecOutput>,
    pub stdout: String,
    pub stderr: String,
    pub ended: Option<ExecEnded>,
}

impl Scheduler {
    pub fn exec(&self, id: AllocationId, command: &[&str]) -> Exec {
        self.exec_at(id, command, None)
    }

    pub fn exec_shell(&self, id: AllocationId, script: &str) -> Exec {
        self.exec(id, &["sh", "-c", script])
    }

    /// The same at a terminal of so many columns and rows.
    pub fn exec_at(
        &self,
        id: AllocationId,
        command: &[&str],
        terminal: Option<(u32, u32)>,
    ) -> Exec {
        let (to_test, outputs) = mpsc::unbounded_channel();
        let (inputs, from_test) = mpsc::unbounded_channel();
        let open = self.execs();
        let request_id = {
            let mut open = open.0.lock().unwrap();
            let request_id = format!("exec-{}", open.len());
            open.insert(request_id.clone(), (to_test, from_test));
            request_id
        };
        let terminal = terminal.map(|(columns, rows)| ExecTerminal {
            size: Some(TerminalSize { columns, rows }),
            kind: "vt100".to_owned(),
        });
        self.say(ToAgent::ExecRequest(ExecRequest {
            request_id,
            allocation_id: id.to_string(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            terminal,
        }));
        Exec { inputs, outputs, stdout: String::new(), stderr: String::new(), ended: None }
    }
}

impl Exec {
    pub fn type_in(&self, text: &str) {
        self.say(Input::Data(text.to_owned().into()));
    }

    pub fn end_input(&self) {
        self.say(Input::End(ExecInputEnd {}));
    }

    pub fn resize(&self, columns: u32, rows: u32) {
        self.say(Input::Resized(TerminalSize { columns, rows }));
    }

    fn say(&self, input: Input) {
        self.inputs.send(Ok(ExecInput { input: Some(input) })).unwrap();
    }

    /// Waits until it has written this to its standard output.
    pub async fn until_said(&mut self, text: &str) {
        within(&format!("`{text}` of a command"), async {
            while !self.stdout.contains(text) {
                assert!(self.hear().await, "it ended: {} {:?}", self.stdout, self.ended);
            }
        })
        .await;
    }

    /// Waits until it has ended: its exit code.
    pub async fn until_ended(&mut self) -> Option<u32> {
        let bound = tokio::time::timeout(BOUND, async { while self.hear().await {} }).await;
        assert!(bound.is_ok(), "it goes on, having said {} {}", self.stdout, self.stderr);
        let ended = self.ended.clone().expect("the agent said how it ended");
        assert!(ended.exit_code.is_some() == ended.problem.is_empty(), "{ended:?}");
        ended.exit_code
    }

    /// Takes one thing in; `false` at the end.
    async fn hear(&mut self) -> bool {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match self.outputs.recv().await.map(|output| output.output.unwrap()) {
            Some(Output::Begun(_)) => {}
            Some(Output::Stdout(data)) => self.stdout += &text(&data),
            Some(Output::Stderr(data)) => self.stderr += &text(&data),
            Some(Output::Ended(ended)) => self.ended = Some(ended),
            None => return false,
        }
        true
    }
}
