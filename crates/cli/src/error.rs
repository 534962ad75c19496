//! How a command fails: words, code and exit status.

use std::io;

use berth_client::{ClientError, Refusal, Tried};
use serde_json::{Value, json};
use tonic::Code;

use crate::console::Console;
use crate::globals::Format;
use crate::interrupt::Doing;

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    /// `plan`: some instances would wait.
    WouldWait,
    /// `sim replay`: a decision is another one now.
    Different,
    /// `exec`: as the command itself ended.
    OfCommand(u8),
}

impl Exit {
    pub(crate) fn status(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::WouldWait => 6,
            Exit::Different => 1,
            Exit::OfCommand(code) => code,
        }
    }
}

/// One thing wrong with what the user gave.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fault {
    /// The whole text for people, with place and excerpt.
    pub(crate) text: String,
    /// The text without place and excerpt.
    pub(crate) message: String,
    pub(crate) field: Option<String>,
    pub(crate) hint: Option<String>,
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum CliError {
    /// What the user gave is wrong; never empty.
    BadInput(Vec<Fault>),
    Client(ClientError),
    /// The cluster did as asked, and the job failed.
    JobFailed {
        message: String,
        hint: Option<String>,
    },
    /// Something on this machine is not as it must be.
    Failed {
        message: String,
        hint: Option<String>,
    },
    /// The time that the user set has passed.
    TimedOut {
        message: String,
        hint: Option<String>,
    },
    Interrupted(Doing),
    /// The reader of stdout has gone away.
    ClosedPipe,
    Output(io::Error),
}

/// An error ready to be shown.
struct Shown {
    code: &'static str,
    faults: Vec<Fault>,
    request_id: Option<String>,
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> CliError {
        CliError::Client(error)
    }
}

impl CliError {
    /// Bad input in one sentence.
    pub(crate) fn bad_input(message: impl Into<String>) -> CliError {
        CliError::BadInput(vec![Fault::new(message)])
    }

    /// A failure on this machine, in one sentence.
    pub(crate) fn failed(message: impl Into<String>) -> CliError {
        CliError::Failed { message: message.into(), hint: None }
    }

    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            CliError::BadInput(_) => 2,
            CliError::Client(ClientError::Refused(refusal)) => status_of(refusal.code).1,
            CliError::Client(
                ClientError::Unreachable { .. }
                | ClientError::NoLeader { .. }
                | ClientError::OutcomeUnknown { .. },
            ) => 3,
            CliError::JobFailed { .. }
            | CliError::Failed { .. }
            | CliError::TimedOut { .. }
            | CliError::Output(_) => 1,
            CliError::Interrupted(_) => 130,
            // As a shell reports a process that SIGPIPE ended.
            CliError::ClosedPipe => 141,
        }
    }

    /// Tells the user.
    pub(crate) fn print(&self, console: &mut Console<'_>, format: Format) {
        let Some(shown) = self.shown() else { return };
        console.end_progress();
        match format {
            Format::Json => console.error_line(&shown.to_json().to_string()),
            Format::Table | Format::Wide | Format::Yaml => {
                for fault in &shown.faults {
                    console.error_line(&format!("error: {}", fault.text));
                    if let Some(hint) = &fault.hint {
                        console.error_line(&format!("hint: {hint}"));
                    }
                }
            }
        }
    }

    fn shown(&self) -> Option<Shown> {
        let (code, fault) = match self {
            CliError::BadInput(faults) => {
                return Some(Shown::new("bad-input", faults.clone()));
            }
            CliError::Client(ClientError::Refused(refusal)) => return Some(of_refusal(refusal)),
            CliError::Client(ClientError::Unreachable { tried }) => (
                "unreachable",
                Fault::listing("the cluster cannot be reached", tried).hint(
                    "name its schedulers with --server or BERTH_SERVER; \
                         if they speak TLS, give --tls-dir or BERTH_TLS_DIR",
                ),
            ),
            CliError::Client(ClientError::NoLeader { tried }) => (
                "no-leader",
                Fault::listing("the cluster has no leader", tried)
                    .hint("reads are answered meanwhile with --stale"),
            ),
            CliError::Client(ClientError::OutcomeUnknown { key, tried }) => {
                let fault = Fault::listing("outcome unknown", tried);
                ("outcome-unknown", fault.hint(repeat_hint(key.as_deref())))
            }
            CliError::JobFailed { message, hint } => {
                ("job-failed", Fault { hint: hint.clone(), ..Fault::new(message) })
            }
            CliError::Failed { message, hint } => {
                ("failed", Fault { hint: hint.clone(), ..Fault::new(message) })
            }
            CliError::TimedOut { message, hint } => {
                ("timeout", Fault { hint: hint.clone(), ..Fault::new(message) })
            }
            CliError::Interrupted(doing) => ("interrupted", interrupted(doing)),
            CliError::ClosedPipe => return None,
            CliError::Output(error) => ("output", Fault::new(format!("cannot write: {error}"))),
        };
        Some(Shown::new(code, vec![fault]))
    }
}

fn repeat_hint(key: Option<&str>) -> String {
    match key {
        Some(key) => format!("repeat with `--key {key}` to find out"),
        None => "look at the job before repeating the command".to_owned(),
    }
}

fn interrupted(doing: &Doing) -> Fault {
    match doing {
        Doing::Looking => Fault::new("interrupted"),
        Doing::Running => Fault::new("interrupted; the command is told to end"),
        Doing::Submitting { key } => {
            Fault::new("interrupted; outcome unknown").hint(repeat_hint(Some(key)))
        }
        Doing::Waiting { job_id } => Fault::new(format!("interrupted; job {job_id} goes on"))
            .hint(format!("`berth job wait {job_id}` waits for it, `berth stop {job_id}` ends it")),
    }
}

/// The words of the cluster: one fault for each violation, or one in all.
fn of_refusal(refusal: &Refusal) -> Shown {
    let (code, _) = status_of(refusal.code);
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let mut faults: Vec<Fault> = refusal
        .violations
        .iter()
        .map(|violation| Fault {
            text: if violation.field.is_empty() {
                violation.message.clone()
            } else {
                format!("{}: {}", violation.field, violation.message)
            },
            message: violation.message.clone(),
            field: given(&violation.field),
            hint: given(&violation.hint),
        })
        .collect();
    if faults.is_empty() {
        faults.push(Fault::new(&refusal.message));
    }
    if let Some(last) = faults.last_mut() {
        last.hint = last.hint.take().or_else(|| refusal.hint.clone());
    }
    Shown { code, faults, request_id: refusal.request_id.clone() }
}

/// The code for scripts and the exit status of a refusal.
fn status_of(code: Code) -> (&'static str, u8) {
    match code {
        Code::InvalidArgument => ("invalid-argument", 2),
        Code::NotFound => ("not-found", 1),
        Code::AlreadyExists => ("exists", 5),
        Code::FailedPrecondition => ("wrong-state", 5),
        Code::Aborted => ("changed", 5),
        Code::OutOfRange => ("out-of-range", 1),
        Code::ResourceExhausted => ("limit", 1),
        Code::PermissionDenied => ("not-allowed", 4),
        Code::Unauthenticated => ("not-authenticated", 4),
        Code::Unimplemented => ("not-supported", 1),
        // The client does not return these three as refusals.
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => ("unavailable", 3),
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => ("internal", 1),
    }
}

impl Fault {
    pub(crate) fn new(message: impl Into<String>) -> Fault {
        let message = message.into();
        Fault { text: message.clone(), message, field: None, hint: None }
    }

    /// A message with a line for each scheduler that was asked.
    fn listing(message: &str, tried: &[Tried]) -> Fault {
        let each: Vec<String> = tried.iter().map(ToString::to_string).collect();
        let lines: String = each.iter().map(|line| format!("\n  {line}")).collect();
        let text = format!("{message}{lines}");
        Fault { text, message: format!("{message} ({})", each.join("; ")), ..Fault::default() }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Fault {
        Fault { hint: Some(hint.into()), ..self }
    }
}

impl Shown {
    fn new(code: &'static str, faults: Vec<Fault>) -> Shown {
        Shown { code, faults, request_id: None }
    }

    /// The first fault at the top, all of them under `problems`.
    fn to_json(&self) -> Value {
        let first = self.faults.first().cloned().unwrap_or_default();
        let problems: Vec<Value> = self
            .faults
            .iter()
            .map(|fault| {
                json!({ "message": fault.message, "field": fault.field, "hint": fault.hint })
            })
            .collect();
        json!({
            "error": {
                "code": self.code,
                "message": first.message,
                "field": first.field,
                "hint": first.hint,
                "request_id": self.request_id,
                "problems": problems,
            }
        })
    }
}
