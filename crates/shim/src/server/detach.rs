//! How a shim cuts itself loose. Two stages of the same executable: the first marks all inherited descriptors
//! close-on-exec and starts the second, which becomes a session of its own; when the second is ready the first ends,
//! so that the shim's parent is init and not the agent, and the agent has nothing to reap.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, FlockOperation, Mode, flock, unlinkat};
use rustix::io::Errno;
use signal_hook::consts::signal;

use super::event_loop::Shim;
use crate::client::SOCKET_FILE;
use crate::lane::LaneJournal;
use crate::process::ProcessIdentity;

/// Set for the second stage only; workers get exactly the environment they are given, so it reaches none.
const STAGE_VARIABLE: &str = "BERTH_SHIM_STAGE";
/// To the allocator of the executable: take memory as it is used. Taken ahead it is in huge pages, ten MiB of them in
/// a process that needs two.
const COMMIT_VARIABLE: &str = "MIMALLOC_ARENA_EAGER_COMMIT";
const LOG_FILE: &str = "shim.log";
const READY: &[u8] = b"ready\n";

/// Entry of the hidden subcommand `shim --dir DIR`: starts a detached shim that serves `DIR/shim.sock` and returns
/// once it answers. The process must do nothing else before or after.
#[must_use]
pub fn run(dir: &Path) -> ExitCode {
    let outcome = match std::env::var_os(STAGE_VARIABLE) {
        None => launch(),
        Some(_) => set_up(dir).and_then(Shim::serve),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            super::log_trouble(format_args!("shim in {}: {error}", dir.display()));
            ExitCode::FAILURE
        }
    }
}

/// First stage. Runs the second with the same arguments and waits for its ready line.
fn launch() -> io::Result<()> {
    close_fds::set_fds_cloexec(3, &[]);
    let mut arguments = std::env::args_os();
    let own_name = arguments.next().unwrap_or_else(|| "berth".into());
    let mut server = Command::new("/proc/self/exe")
        .arg0(own_name)
        .args(arguments)
        .env_clear()
        .env(STAGE_VARIABLE, "serve")
        .env(COMMIT_VARIABLE, "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut ready = [0; READY.len()];
    let mut output = server.stdout.take().expect("stdout was asked to be piped");
    if output.read_exact(&mut ready).is_ok() && ready == READY {
        return Ok(());
    }
    let status = server.wait()?;
    Err(io::Error::other(format!("did not become ready: {status}")))
}

/// Second stage up to the ready line.
fn set_up(dir: &Path) -> io::Result<Shim> {
    rustix::process::setsid()?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let dir = File::open(dir).map_err(in_words("open its directory"))?;
    flock(&dir, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
        Errno::WOULDBLOCK => io::Error::other("another shim serves this directory"),
        other => in_words("lock its directory")(other.into()),
    })?;
    rustix::process::chdir("/")?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    rustix::thread::set_no_new_privs(true)?;
    let child_ended = handle_signals()?;
    let base = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    let listener = bind(&dir, &base).map_err(in_words("bind its socket"))?;
    // Made now, while nobody waits; if the disk is full a start tries again.
    let lane = LaneJournal::open(&base).ok();
    let identity = ProcessIdentity::of(std::process::id())?;
    let shim = Shim::new(dir, base.clone(), listener, child_ended, lane, identity)?;
    redirect_output(&base)?;
    Ok(shim)
}

fn in_words(action: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |error| {
        io::Error::new(error.kind(), format!("cannot {action}: {}", super::describe(&error)))
    }
}

/// Handlers for everything that an agent's parent, terminal or limit may send. Handlers, because what is ignored
/// stays ignored in a worker, while a handled signal is back to its default after exec.
fn handle_signals() -> io::Result<UnixStream> {
    let (child_ended, notify) = UnixStream::pair()?;
    child_ended.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(signal::SIGCHLD, notify)?;
    let unheard = Arc::new(AtomicBool::new(false));
    let survived = [
        signal::SIGTERM,
        signal::SIGINT,
        signal::SIGHUP,
        signal::SIGQUIT,
        signal::SIGUSR1,
        signal::SIGUSR2,
        signal::SIGALRM,
        signal::SIGXFSZ,
    ];
    for number in survived {
        signal_hook::flag::register(number, Arc::clone(&unheard))?;
    }
    Ok(child_ended)
}

/// Binds through the directory's descriptor: a socket's path has at most 107 bytes, a data directory may have more.
/// The lock is held, so a socket that is already there belongs to nobody.
fn bind(dir: &File, base: &Path) -> io::Result<UnixListener> {
    match unlinkat(dir, SOCKET_FILE, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let listener = UnixListener::bind(base.join(SOCKET_FILE))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Says that the socket answers and lets go of the starter's output in the same step.
fn redirect_output(base: &Path) -> io::Result<()> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(base.join(LOG_FILE));
    let nowhere = OpenOptions::new().write(true).open("/dev/null")?;
    match log {
        Ok(log) => rustix::stdio::dup2_stderr(&log)?,
        Err(_) => rustix::stdio::dup2_stderr(&nowhere)?,
    }
    // The starter may have died meanwhile; the shim then serves whoever finds it, or quits when idle.
    let _ = io::stdout().write_all(READY).and_then(|()| io::stdout().flush());
    rustix::stdio::dup2_stdout(&nowhere)?;
    Ok(())
}
