//! The first process of a worker's namespaces: makes them what the enclosure says, gives up
//! every right, starts the worker and buries whoever is left to it. With its own end the kernel
//! kills all that is still there. It is its own process because a first one is sent no signal
//! that it has not asked for, and workers are to be stopped by theirs.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, WaitOptions, set_dumpable_behavior, wait};

use super::enclosure::{Enclosure, Rights};
use super::keeper::leave_signals_to_the_worker;
use super::{rights, view};
use crate::problem::Problem;

/// What the first process says to the keeper, a line first, when the worker's main process is
/// there and all around it is as it should be.
pub const BEGUN: &str = "begun\n";

/// What it says last.
#[derive(Debug)]
pub enum Word {
    /// How the worker's main process ended.
    Ended(ExitStatus),
    /// Why there was none.
    Problem(Problem),
}

impl Word {
    fn text(&self) -> String {
        match self {
            Word::Ended(status) => format!("ended\n{}", status.into_raw()),
            Word::Problem(Problem::Start(reason)) => format!("start\n{reason}"),
            Word::Problem(
                Problem::Host(reason) | Problem::Passing(reason) | Problem::Port(reason),
            ) => format!("host\n{reason}"),
        }
    }

    pub fn read(said: &str) -> Option<Word> {
        let (kind, rest) = said.split_once('\n')?;
        Some(match kind {
            "ended" => Word::Ended(ExitStatus::from_raw(rest.parse().ok()?)),
            "start" => Word::Problem(Problem::Start(rest.to_owned())),
            _ => Word::Problem(Problem::Host(rest.to_owned())),
        })
    }
}

/// Carries out the enclosure that a directory holds. Its standard input is the channel to the
/// keeper.
pub fn be_first(mut given: impl Iterator<Item = String>) -> ExitCode {
    let Some(dir) = given.next() else { return ExitCode::from(2) };
    let Ok(channel) = take_channel() else { return ExitCode::FAILURE };
    match begin(Path::new(&dir)) {
        Ok(worker) => {
            // A keeper that was killed hears nothing; its shim ends the rest.
            let _ = (&channel).write_all(BEGUN.as_bytes());
            bury(worker, channel);
        }
        Err(problem) => say(channel, &Word::Problem(problem)),
    }
    ExitCode::SUCCESS
}

/// The channel, which nobody else is to hold: its end says that the word was said.
fn take_channel() -> io::Result<File> {
    let channel = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(channel.into())
}

/// Starts the worker and returns its process id, as it is here.
fn begin(dir: &Path) -> Result<u32, Problem> {
    // Else a worker of the same user could look into this process.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| Problem::Host(error.to_string()))?;
    let enclosure = Enclosure::read_from(dir).map_err(Problem::Host)?;
    // Before it lies where only reading is allowed. What this process is itself was charged to
    // the agent.
    enclosure.enter_groups().map_err(Problem::Host)?;
    leave_signals_to_the_worker().map_err(|error| Problem::Host(error.to_string()))?;
    if let Some(wanted) = &enclosure.view {
        view::take(wanted).map_err(Problem::Host)?;
    }
    // Of a directory that is hidden now.
    std::env::set_current_dir("/").map_err(|error| Problem::Host(error.to_string()))?;
    let rights = Rights::try_from(enclosure.rights).unwrap_or(Rights::Few);
    rights::keep(rights, enclosure.user).map_err(Problem::Host)?;
    let mut command = command(&enclosure)?;
    let child = command.process_group(0).spawn();
    child.map(|child| child.id()).map_err(|error| not_executed(&enclosure, &error))
}

/// The worker's command.
pub fn command(enclosure: &Enclosure) -> Result<Command, Problem> {
    let dir = &enclosure.working_dir;
    let elsewhere = |reason: String| {
        Problem::Start(format!("cannot enter working directory `{dir}`: {reason}"))
    };
    let own = enclosure.view.iter().flat_map(|view| &view.own);
    let in_own = own.clone().any(|shown| Path::new(dir).starts_with(&shown.target));
    let beside = if in_own { " in the /tmp of its own that a confined worker has" } else { "" };
    let found = std::fs::metadata(dir)
        .map_err(|error| elsewhere(format!("{}{beside}", in_words(&error))))?;
    if !found.is_dir() {
        return Err(elsewhere("not a directory".to_owned()));
    }
    let [program, arguments @ ..] = &*enclosure.command else {
        return Err(Problem::Start("there is no command".to_owned()));
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(enclosure.environment.iter().map(|variable| (&variable.name, &variable.value)))
        .current_dir(dir)
        .stdin(Stdio::null());
    Ok(command)
}

/// What it means that a command could not be executed.
pub fn not_executed(enclosure: &Enclosure, error: &io::Error) -> Problem {
    let program = enclosure.command.first().map_or("", String::as_str);
    Problem::Start(format!("cannot execute `{program}`: {}", in_words(error)))
}

/// The system's own words, in small letters and without the number behind them.
fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// Takes the status of everybody who ends here, until nobody is left.
fn bury(worker: u32, channel: File) {
    let mut channel = Some(channel);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => {
                let is_worker = u32::try_from(pid.as_raw_nonzero().get()) == Ok(worker);
                if let Some(channel) = channel.take_if(|_| is_worker) {
                    let status = ExitStatus::from_raw(status.as_raw());
                    say(channel, &Word::Ended(status));
                }
            }
            Ok(None) | Err(Errno::INTR) => {}
            // ECHILD: the namespace is empty.
            Err(_) => return,
        }
    }
}

/// The last word, and the end of the conversation.
fn say(mut channel: File, word: &Word) {
    // A keeper that was killed hears nothing, and nothing is to be done about it.
    let _ = channel.write_all(word.text().as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_as_it_is_said() {
        let status = ExitStatus::from_raw(9);
        let read = Word::read(&Word::Ended(status).text());
        assert!(matches!(read, Some(Word::Ended(found)) if found == status), "{read:?}");
        let problem = Problem::Start("no such\nfile".to_owned());
        let read = Word::read(&Word::Problem(problem.clone()).text());
        assert!(matches!(read, Some(Word::Problem(found)) if found == problem));
        assert!(Word::read("").is_none());
        assert!(Word::read("ended\nx").is_none());
    }
}
