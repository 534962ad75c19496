//! Runs a program within what holds a worker: what the agent does for a worker, such as the
//! command of a health check, is the worker's to pay for, and may no more than it. A process of
//! its own, which gets none of the job's variables until it has given up what it could do with
//! them.

use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::ExitCode;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::enclosure::{Enclosure, Rights};
use super::inside;
use super::{MARKS, first, rights};
use crate::frame::{self, Framed};

/// As a shell says that a command could not be run.
pub const CANNOT_RUN: u8 = 127;
/// The worker has not begun, or has ended, or nothing more may run beside it.
pub const CANNOT_JOIN: u8 = 125;

/// A program that is run for a worker; said on standard input.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Guest {
    /// Without a view: it sees what the worker sees.
    #[prost(message, required, tag = "1")]
    pub enclosure: Enclosure,
    /// The directory of the allocation whose namespaces it enters; none where absent.
    #[prost(string, optional, tag = "2")]
    pub inside: Option<String>,
}

impl Guest {
    /// The same for a command.
    pub fn running(&self, command: Vec<String>) -> Guest {
        let enclosure = Enclosure { command, ..self.enclosure.clone() };
        Guest { enclosure, ..self.clone() }
    }

    /// What its process is found by.
    pub fn marks(&self) -> impl Iterator<Item = (&str, &str)> {
        let variables = self.enclosure.environment.iter();
        let variables = variables.filter(|variable| MARKS.contains(&&*variable.name));
        variables.map(|variable| (&*variable.name, &*variable.value))
    }

    /// What its process is to read.
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(self)
    }
}

/// Does what standard input says, and ends as the program does.
pub fn be_guest() -> ExitCode {
    let mut given = Vec::new();
    let read = io::stdin().read_to_end(&mut given);
    let guest = match read.map(|_| frame::decode::<Guest>(&given)) {
        Ok(Framed::Message(guest, _)) => guest,
        Ok(Framed::End | Framed::Garbled(_)) | Err(_) => return ExitCode::from(2),
    };
    match run(&guest) {
        Ok(code) => ExitCode::from(code),
        Err((code, problem)) => {
            use std::io::Write as _;
            // Nobody may be listening.
            let _ = writeln!(io::stderr(), "{problem}");
            ExitCode::from(code)
        }
    }
}

fn run(guest: &Guest) -> Result<u8, (u8, String)> {
    enter(guest).map_err(|problem| (CANNOT_JOIN, problem))?;
    let cannot = |problem: String| (CANNOT_RUN, problem);
    let command = first::command(&guest.enclosure);
    let mut command = command.map_err(|problem| cannot(format!("{problem:?}")))?;
    if guest.inside.is_none() {
        return Err(cannot(command.exec().to_string()));
    }
    // Joining a namespace of processes takes a child; this one ends as that does.
    let ended = command.status().map_err(|error| cannot(error.to_string()))?;
    // By a signal is not by itself, and that is all that anybody asks.
    Ok(ended.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

/// From here on it may no more than the worker.
fn enter(guest: &Guest) -> Result<(), String> {
    let enclosure = &guest.enclosure;
    // Else the worker could look into this process once it is among its own.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| error.to_string())?;
    enclosure.enter_groups()?;
    if let Some(dir) = &guest.inside {
        inside::join(Path::new(dir)).map_err(|error| format!("cannot join the worker: {error}"))?;
        std::env::set_current_dir("/").map_err(|error| error.to_string())?;
    }
    rights::keep(Rights::try_from(enclosure.rights).unwrap_or(Rights::Few), enclosure.user)
}
