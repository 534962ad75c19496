//! The process that a shim starts in the place of a confined worker. It stays outside of the
//! worker's namespaces, where it ends as the worker's main process does: so that a shim is told
//! by exit code and signal as by any worker. It decides nothing.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};
use signal_hook::consts as signals;

use super::enclosure::{Enclosure, Rights};
use super::first::{self, BEGUN, Word};
use super::{inside, rights};
use crate::options::Program;
use crate::problem::Problem;
use crate::sys;

/// As `docker run` ends when there is no container to speak of.
const NO_WORKER: u8 = 125;

/// Those by which a worker may be asked to end: they are meant for it alone, which gets them
/// too.
const FOR_THE_WORKER: [i32; 8] = [
    signals::SIGHUP,
    signals::SIGINT,
    signals::SIGQUIT,
    signals::SIGUSR1,
    signals::SIGUSR2,
    signals::SIGALRM,
    signals::SIGTERM,
    signals::SIGPIPE,
];

/// Runs a worker within the enclosure that the directory of its allocation holds, and ends as it
/// does. The arguments are the agent's own affair: that directory.
pub fn keep(mut given: impl Iterator<Item = String>) -> ExitCode {
    let Some(dir) = given.next() else { return ExitCode::from(2) };
    let dir = Path::new(&dir);
    let kept = Enclosure::read_from(dir).map_err(Problem::Host).and_then(|enclosure| {
        if enclosure.view.is_some() {
            start_inside(dir, enclosure)
        } else {
            become_worker(enclosure, dir)
        }
    });
    match kept {
        Ok(end) => end_as(end),
        Err(problem) => {
            problem.leave_in(dir);
            ExitCode::from(NO_WORKER)
        }
    }
}

/// A signal that is meant for the worker does not end those that stand around it. The last of
/// them is in the cell; 0 is none.
pub(super) fn leave_signals_to_the_worker() -> io::Result<Arc<AtomicUsize>> {
    let last = Arc::new(AtomicUsize::new(0));
    for signal in FOR_THE_WORKER {
        let number = usize::try_from(signal).unwrap_or_default();
        signal_hook::flag::register_usize(signal, Arc::clone(&last), number)?;
    }
    Ok(last)
}

/// Without namespaces there is nobody to wait for: this process becomes the worker.
fn become_worker(enclosure: Enclosure, dir: &Path) -> Result<ExitStatus, Problem> {
    let place = Problem::place_in(dir)
        .map_err(|error| Problem::Host(format!("cannot write to {}: {error}", dir.display())))?;
    enclosure.clone().forget_the_job(dir);
    become_user_and_worker(&enclosure).leave_at(place);
    Ok(ExitStatus::from_raw(i32::from(NO_WORKER) << 8))
}

/// Returns only if it fails.
fn become_user_and_worker(enclosure: &Enclosure) -> Problem {
    let rights = Rights::try_from(enclosure.rights).unwrap_or(Rights::Few);
    let held = enclosure.enter_groups().and_then(|()| rights::keep(rights, enclosure.user));
    if let Err(problem) = held {
        return Problem::Host(problem);
    }
    match first::command(enclosure) {
        Ok(mut command) => first::not_executed(enclosure, &command.exec()),
        Err(problem) => problem,
    }
}

fn start_inside(dir: &Path, enclosure: Enclosure) -> Result<ExitStatus, Problem> {
    let host = |what: &str, error: io::Error| Problem::Host(format!("cannot {what}: {error}"));
    let asked_to_end =
        leave_signals_to_the_worker().map_err(|error| host("heed signals", error))?;
    sys::enter(sys::Own::Processes).map_err(|error| host("make a namespace", error))?;
    let (words, channel) = io::pipe().map_err(|error| host("make a pipe", error))?;
    let Program { exe, arguments } = Program::of_this_executable(super::MODE);
    let mut command = Command::new(exe);
    command.args(arguments).arg(super::FIRST).arg(dir).stdin(Stdio::from(channel));
    let mut child = command.spawn().map_err(|error| host("start in its namespaces", error))?;
    // It holds the end of the pipe that is to be closed with the last of its writers.
    drop(command);
    let (mut words, mut said) = (BufReader::new(words), String::new());
    let heard = words.read_line(&mut said);
    if heard.is_ok() && said == BEGUN {
        said.clear();
        enclosure.forget_the_job(dir);
        if let Some(signal) = Some(asked_to_end.load(Ordering::SeqCst)).filter(|one| *one > 0) {
            // Sent while there was nobody for it to reach.
            let _ = child.kill();
            return Ok(ExitStatus::from_raw(i32::try_from(signal).unwrap_or_default()));
        }
        // Not before: whoever joins it is to find all around it as it should be. One that
        // cannot be found is joined by nobody.
        let _ = inside::write(dir, child.id());
    }
    let heard = words.read_to_string(&mut said);
    let _ = fs::remove_file(dir.join(inside::FILE));
    match heard.ok().and_then(|_| Word::read(&said)) {
        Some(Word::Ended(status)) => Ok(status),
        Some(Word::Problem(problem)) => Err(problem),
        // It was killed, and with it all that it had started.
        None => child.wait().map_err(|error| host("wait for its first process", error)),
    }
}

/// Ends as the worker did.
fn end_as(end: ExitStatus) -> ExitCode {
    let Some(signal) = end.signal() else {
        return ExitCode::from(u8::try_from(end.code().unwrap_or(1)).unwrap_or(1));
    };
    // Its core, if anybody wants one, was written when it ended.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // Undoes what this process and its runtime do about it; SIGKILL takes none of that.
    let _ = signal_hook::low_level::emulate_default_handler(signal);
    if let Some(signal) = Signal::from_named_raw(signal) {
        let _ = kill_process(getpid(), signal);
    }
    // One that is not there to end anybody; as a shell would say it.
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
}
