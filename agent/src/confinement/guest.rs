//! Runs a program within what holds a worker: what the agent does for a worker, such as the
//! command of a health check, is the worker's to pay for, and may no more than it. A process of
//! its own, which gets none of the job's variables until it has given up what it could do with
//! them.

use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use super::enclosure::{Enclosure, Rights};
use super::inside;
use super::{MARKS, first, rights};
use crate::frame::{self, Framed};

/// As a shell says that a command could not be run.
pub const CANNOT_RUN: u8 = 127;

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
        Err(problem) => {
            use std::io::Write as _;
            // Nobody may be listening.
            let _ = writeln!(io::stderr(), "{problem}");
            ExitCode::from(CANNOT_RUN)
        }
    }
}

fn run(guest: &Guest) -> Result<u8, String> {
    guest.enclosure.enter_groups()?;
    if let Some(dir) = &guest.inside {
        inside::join(Path::new(dir)).map_err(|error| format!("cannot join the worker: {error}"))?;
        std::env::set_current_dir("/").map_err(|error| error.to_string())?;
    }
    let enclosure = &guest.enclosure;
    rights::keep(Rights::try_from(enclosure.rights).unwrap_or(Rights::Few), enclosure.user)?;
    let mut command = first::command(enclosure).map_err(|problem| format!("{problem:?}"))?;
    if guest.inside.is_none() {
        return Err(format!("cannot run it: {}", command.exec()));
    }
    wait_for(command)
}

/// Joining a namespace of processes takes a child; it ends as that does.
fn wait_for(mut command: Command) -> Result<u8, String> {
    let ended = command.status().map_err(|error| format!("cannot run it: {error}"))?;
    // By a signal is not by itself, and that is all that anybody asks.
    Ok(ended.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}
