//! Runs a program within what holds a worker: what the agent does for a worker or its owner, such
//! as the command of a health check, is the worker's to pay for, and may no more than it. A
//! process of its own, which gets none of the job's variables until it has given up what it could
//! do with them.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, WaitOptions, geteuid, getrlimit, ioctl_tiocsctty,
    set_dumpable_behavior, set_parent_process_death_signal, setrlimit, setsid, waitpid,
};

use super::enclosure::{Enclosure, Rights};
use super::inside;
use super::{MARKS, first, keeper, rights};
use crate::frame;
use crate::sys::{self, Forked};

/// As a shell says that a command could not be run.
pub const CANNOT_RUN: u8 = 127;
/// The worker has not begun, or has ended, or nothing more may run beside it.
pub const CANNOT_JOIN: u8 = 125;
/// What a shell adds to the number of the signal that a program died of.
const SIGNALLED: i32 = 128;
/// The environment of a job and a command, of which a job's specification and a call of gRPC have
/// much less.
const GUEST_BYTES_MAX: u64 = 16 << 20;

/// A program that is run for a worker; said on standard input, where its own follows.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Guest {
    /// Without a view: it sees what the worker sees.
    #[prost(message, required, tag = "1")]
    pub enclosure: Enclosure,
    /// The directory of the allocation whose namespaces it enters; none where absent.
    #[prost(string, optional, tag = "2")]
    pub inside: Option<String>,
    #[prost(enumeration = "Input", tag = "3")]
    pub input: i32,
    /// Files that each of its processes may have open; as many as whoever starts it where absent.
    #[prost(uint64, optional, tag = "4")]
    pub open_files: Option<u64>,
}

/// What a program reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Input {
    Nothing = 0,
    /// What follows this message.
    Rest = 1,
    /// The terminal that standard output is, which becomes its own.
    Terminal = 2,
}

impl Guest {
    /// The same for a command.
    pub fn running(&self, command: Vec<String>) -> Guest {
        let enclosure = Enclosure { command, ..self.enclosure.clone() };
        Guest { enclosure, ..self.clone() }
    }

    /// Whether anything holds it. Nothing does where the worker is not confined and nobody is
    /// root: there are neither groups nor other users.
    pub fn is_held(&self) -> bool {
        self.enclosure.rights != i32::from(Rights::OfUser) || geteuid().is_root()
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
    // Not in the agent's session: that may have a terminal, and somebody at it.
    if setsid().is_err() {
        return ExitCode::from(2);
    }
    // Without a buffer, which would take more than the message.
    let input = io::stdin().as_fd().try_clone_to_owned().map(File::from);
    let guest = input.and_then(|mut input| frame::read_one::<Guest>(&mut input, GUEST_BYTES_MAX));
    let Ok(guest) = guest else { return ExitCode::from(2) };
    match run(&guest) {
        Ok(code) => ExitCode::from(code),
        Err((code, problem)) => {
            // Nobody may be listening.
            let _ = writeln!(io::stderr(), "{problem}");
            ExitCode::from(code)
        }
    }
}

fn run(guest: &Guest) -> Result<u8, (u8, String)> {
    enter(guest).map_err(|problem| (CANNOT_JOIN, problem))?;
    let cannot = |problem: String| (CANNOT_RUN, problem);
    let enclosure = &guest.enclosure;
    let mut command =
        first::command(enclosure).map_err(|problem| cannot(problem.reason().to_owned()))?;
    let failed =
        |error: &io::Error| cannot(first::not_executed(enclosure, error).reason().to_owned());
    match Input::try_from(guest.input).unwrap_or(Input::Nothing) {
        Input::Terminal => return at_terminal(&mut command).map_err(|error| failed(&error)),
        Input::Rest => command.stdin(Stdio::inherit()),
        Input::Nothing => &mut command,
    };
    if guest.inside.is_none() {
        return Err(failed(&command.exec()));
    }
    // Joining a namespace of processes takes a child; this one ends as that does, and not by a
    // signal that is meant for that.
    keeper::leave_signals_to_the_worker().map_err(|error| failed(&error))?;
    command.status().map(shell_code).map_err(|error| failed(&error))
}

/// No more than this, and no more than what is given to this process where that is less and it
/// may not raise it.
fn limit_open_files(most: u64) -> rustix::io::Result<()> {
    let limit = |most| Rlimit { current: Some(most), maximum: Some(most) };
    match setrlimit(Resource::Nofile, limit(most)) {
        Err(rustix::io::Errno::PERM) => {
            let own = getrlimit(Resource::Nofile).maximum.unwrap_or(most);
            setrlimit(Resource::Nofile, limit(most.min(own)))
        }
        done => done,
    }
}

/// Runs it at a terminal of its own, in a session of its own: whoever hangs up ends what is
/// left of it. The leader of a session is in its namespace, or a shell would find itself
/// without the control of its jobs.
fn at_terminal(command: &mut Command) -> io::Result<u8> {
    rustix::stdio::dup2_stdin(io::stdout())?;
    match sys::fork()? {
        Forked::Parent(child) => loop {
            match waitpid(Some(child), WaitOptions::empty()) {
                Ok(Some((_, status))) => {
                    return Ok(shell_code(ExitStatus::from_raw(status.as_raw())));
                }
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        },
        Forked::Child => {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            setsid()?;
            ioctl_tiocsctty(io::stdin())?;
            Err(command.stdin(Stdio::inherit()).exec())
        }
    }
}

/// As a shell tells how a program ended.
pub fn shell_code(ended: ExitStatus) -> u8 {
    let code = ended.code().or_else(|| ended.signal().map(|signal| SIGNALLED + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// From here on it may no more than the worker.
fn enter(guest: &Guest) -> Result<(), String> {
    let enclosure = &guest.enclosure;
    // Else the worker could look into this process once it is among its own.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| error.to_string())?;
    enclosure.enter_groups()?;
    if let Some(most) = guest.open_files {
        limit_open_files(most).map_err(|error| format!("cannot limit open files: {error}"))?;
    }
    if let Some(dir) = &guest.inside {
        inside::join(Path::new(dir)).map_err(|error| format!("cannot join the worker: {error}"))?;
        std::env::set_current_dir("/").map_err(|error| error.to_string())?;
    }
    rights::keep(Rights::try_from(enclosure.rights).unwrap_or(Rights::Few), enclosure.user)
}
