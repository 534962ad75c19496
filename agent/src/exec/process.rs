//! A command among the processes of a worker.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use berth_proto::v1::exec_output::Output;
use berth_proto::v1::{ExecInput, ExecTerminal};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, Signal, pidfd_open};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;
use tonic::Streaming;

use super::descriptor::{Reader, Writer};
use super::terminal::{Among, Terminal, make, resize};
use super::{Caller, HANG_UP_GRACE, HUNG_UP, Heard, Outputs, PIECE_BYTES, heard, push};
use crate::confinement::{self, Guest, Input, shell_code};
use crate::options::Program;
use crate::process_group::GroupKill;

/// A confined worker is said to run when those run who start it, a few milliseconds before it
/// does: how long it is waited for, and how often it is looked for.
const BEGIN_LIMIT: Duration = Duration::from_secs(5);
const BEGIN_LOOK: Duration = Duration::from_millis(5);
/// What a command that has ended may have left behind in a pipe at most (`pipe-max-size`): those
/// that it started may go on writing for ever.
const LEFT_BYTES_MAX: usize = 1 << 20;
/// As typed by somebody who has nothing more to say.
const END_OF_INPUT: &[u8] = &[4];

/// Runs it, and says how it ended, as a shell does.
///
/// # Errors
/// It could not be begun, in words.
pub async fn run(
    guest: &Guest,
    dir: &Path,
    terminal: Option<ExecTerminal>,
    caller: &mut Caller,
) -> Result<u32, String> {
    if guest.inside.is_some() {
        let begun = async {
            while !confinement::can_be_joined(dir) {
                tokio::time::sleep(BEGIN_LOOK).await;
            }
        };
        let late = |_| "the worker has not begun, or has ended".to_owned();
        timeout(BEGIN_LIMIT, begun).await.map_err(late)?;
    }
    let begun = begin(guest, dir, terminal).await;
    let Running { mut child, group, over, input, sources } =
        begun.map_err(|error| format!("it cannot be run: {error}"))?;
    let at_terminal = matches!(input, Way::Terminal(_));
    caller.outputs.begun().await;
    let outputs = caller.outputs.clone();
    let ended = async {
        tokio::select! {
            () = readable(&over) => How::ByItself,
            () = pass_inputs(input, &mut caller.inputs) => How::HungUp,
            () = outputs.closed() => How::HungUp,
            never = pass_outputs(&sources, &outputs) => match never {},
        }
    };
    if let How::HungUp = ended.await {
        // A terminal that nobody is at any more says so itself.
        drop(sources);
        if !at_terminal {
            group.signal(Signal::HUP);
        }
        if timeout(HANG_UP_GRACE, readable(&over)).await.is_err() && at_terminal {
            kill_leader(&group);
        }
        // Its number is its own until somebody waits for it.
        drop(group);
        let _ = child.wait().await;
        return Err(HUNG_UP.to_owned());
    }
    for source in &sources {
        pass_what_is_left(source, &outputs).await;
    }
    // What it leaves behind goes with the worker.
    group.forget();
    let status = child.wait().await.map_err(|error| format!("it cannot be waited for: {error}"))?;
    Ok(shell_code(status).into())
}

/// Why a command is not run any longer.
enum How {
    ByItself,
    HungUp,
}

struct Running {
    child: Child,
    group: GroupKill,
    /// Readable when it has ended.
    over: pipe::Receiver,
    input: Way,
    /// One that is a terminal, or the two of pipes.
    sources: Vec<Source>,
}

/// Where it writes to.
struct Source {
    from: Reader,
    output: fn(Vec<u8>) -> Output,
}

/// Where it reads from.
enum Way {
    Pipe(ChildStdin),
    Terminal(Writer),
}

async fn begin(guest: &Guest, dir: &Path, terminal: Option<ExecTerminal>) -> io::Result<Running> {
    let Program { exe, arguments } = confinement::guest_program();
    let mut command = Command::new(exe);
    command.args(arguments).env_clear().envs(guest.marks());
    command.stdin(Stdio::piped()).kill_on_drop(true);
    let as_stdout: fn(Vec<u8>) -> Output = |data| Output::Stdout(data.into());
    let as_stderr: fn(Vec<u8>) -> Output = |data| Output::Stderr(data.into());
    let (sources, terminal) = match terminal {
        Some(terminal) => {
            let inside = guest.inside.is_some();
            let among = if inside { Among::TheWorkers(dir) } else { Among::TheHosts };
            let Terminal { near, far } = make(among, terminal.size, guest.enclosure.user)?;
            command.stdout(far.try_clone()?).stderr(far);
            let typed = Writer::new(near.try_clone()?)?;
            (vec![source(near, as_stdout)?], Some(typed))
        }
        None => {
            let (out, for_out) = pipe_with(PipeFlags::CLOEXEC)?;
            let (error, for_error) = pipe_with(PipeFlags::CLOEXEC)?;
            command.stdout(for_out).stderr(for_error);
            (vec![source(out, as_stdout)?, source(error, as_stderr)?], None)
        }
    };
    let mut child = command.spawn()?;
    // The far ends are the command's alone.
    drop(command);
    let group = GroupKill::of(child.id());
    let leader = group.leader().ok_or(io::ErrorKind::NotFound)?;
    let over = pidfd_open(leader, PidfdFlags::empty())?;
    // No pipe either, but waited for like one.
    let over = pipe::Receiver::from_owned_fd_unchecked(over)?;
    let mut input = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let kind = if terminal.is_some() { Input::Terminal } else { Input::Rest };
    let guest = Guest { input: kind.into(), ..guest.clone() };
    input.write_all(&guest.encode()).await?;
    let input = terminal.map_or(Way::Pipe(input), Way::Terminal);
    Ok(Running { child, group, over, input, sources })
}

fn source(from: OwnedFd, output: fn(Vec<u8>) -> Output) -> io::Result<Source> {
    Ok(Source { from: Reader::new(from)?, output })
}

/// Kills what the guest runs at a terminal, which is a group of its own: with the guest alone
/// only its leader would go.
fn kill_leader(guest: &GroupKill) {
    let Some(pid) = guest.leader() else { return };
    // One that is stopped buries nobody: their numbers stay theirs.
    guest.signal(Signal::STOP);
    let pid = pid.as_raw_nonzero();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    for child in children.unwrap_or_default().split_whitespace() {
        drop(GroupKill::of(child.parse().ok()));
    }
}

async fn readable(over: &pipe::Receiver) {
    // It fails when the runtime ends, which is an end as well.
    let _ = over.readable().await;
}

/// Until the caller hangs up.
async fn pass_inputs(way: Way, inputs: &mut Streaming<ExecInput>) {
    let mut way = Some(way);
    let (mut is_over, mut in_a_line) = (false, false);
    loop {
        // What nobody reads is heard all the same: after it comes the end.
        match (heard(inputs).await, &mut way) {
            (Heard::HungUp, _) => return,
            (Heard::Data(_) | Heard::End, _) if is_over => {}
            (Heard::Data(data), Some(Way::Pipe(pipe))) => {
                if pipe.write_all(&data).await.is_err() {
                    way = None;
                }
            }
            (Heard::Data(data), Some(Way::Terminal(terminal))) => {
                in_a_line = data.last().is_some_and(|last| !b"\r\n".contains(last));
                if terminal.write_all(&data).await.is_err() {
                    way = None;
                }
            }
            (Heard::End, Some(Way::Terminal(terminal))) => {
                is_over = true;
                // Within a line the first only says that this is all of it.
                let times = if in_a_line { 2 } else { 1 };
                let _ = terminal.write_all(&END_OF_INPUT.repeat(times)).await;
            }
            (Heard::End, Some(Way::Pipe(_))) => way = None,
            (Heard::Resized(size), Some(Way::Terminal(terminal))) => {
                let _ = resize(terminal, size);
            }
            (Heard::Resized(_), Some(Way::Pipe(_)))
            | (Heard::Data(_) | Heard::End | Heard::Resized(_), None) => {}
        }
    }
}

/// Passes on whatever is written, and never ends: what has ended may have left something.
async fn pass_outputs(sources: &[Source], outputs: &Outputs) -> std::convert::Infallible {
    let pass = |source| pass_output(source, outputs);
    match sources {
        [one] => pass(one).await,
        [one, other, ..] => {
            tokio::join!(pass(one), pass(other));
        }
        [] => {}
    }
    std::future::pending().await
}

async fn pass_output(source: &Source, outputs: &Outputs) {
    let mut buffer = vec![0; PIECE_BYTES];
    // Room first: what was read is then never lost on the way.
    while let Ok(room) = outputs.0.reserve().await {
        match source.from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => room.send(push((source.output)(buffer[..length].to_vec()))),
        }
    }
}

async fn pass_what_is_left(source: &Source, outputs: &Outputs) {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut left = LEFT_BYTES_MAX;
    while left > 0 {
        let length = source.from.read_left(&mut buffer);
        left = left.saturating_sub(length);
        if length == 0 || !outputs.say((source.output)(buffer[..length].to_vec())).await {
            return;
        }
    }
}
