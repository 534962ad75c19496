//! The shim as an executable of its own, for this crate's tests and benchmark, and the workers that they need.
//!
//! `shim DIR` is the shim. Everything else is a worker: it connects to the test's socket, so that the test learns its
//! pid, can tell it to exit, and sees its end as an end of file.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["shim", dir] => return berth_shim::run(Path::new(dir)),
        ["hold", socket] => return hold(socket),
        ["hold-deaf", socket] => hear_no_signal().map(|()| hold(socket)),
        // Forks twice with a session of its own in between; the last one holds.
        ["detach", socket, kind] => run_self(&["session", socket, kind]).map(|()| hold(socket)),
        ["session", socket, kind] => new_session(socket, kind),
        // Becomes another program without an end.
        ["restless", _socket] => Err(Command::new("/proc/self/exe").args(&arguments).exec()),
        ["spew", stream, byte_count] => spew(stream, byte_count),
        ["descriptors"] => print_descriptors(),
        ["hog", byte_count] => hog(byte_count),
        unknown => Err(io::Error::other(format!("unknown: {unknown:?}"))),
    };
    outcome.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "{error}");
        ExitCode::from(99)
    })
}

/// Says its pid, then exits with the code that the test sends, or 98 when the test goes away.
fn hold(socket: &str) -> ExitCode {
    let mut code = [98];
    if let Ok(mut stream) = UnixStream::connect(socket) {
        let _ = writeln!(stream, "{}", std::process::id());
        let _ = stream.read_exact(&mut code);
    }
    ExitCode::from(code[0])
}

fn hear_no_signal() -> io::Result<()> {
    let unheard = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, unheard).map(|_| ())
}

fn run_self(arguments: &[&str]) -> io::Result<()> {
    Command::new("/proc/self/exe").args(arguments).status().map(|_| ())
}

fn new_session(socket: &str, kind: &str) -> io::Result<ExitCode> {
    rustix::process::setsid()?;
    Command::new("/proc/self/exe").args([kind, socket]).spawn()?;
    Ok(ExitCode::SUCCESS)
}

/// Numbered lines of 16 bytes, so that a missing or doubled one is seen.
fn spew(stream: &str, byte_count: &str) -> io::Result<ExitCode> {
    let line_count = byte_count.parse::<usize>().map_err(io::Error::other)? / 16;
    let lines: String = (0..line_count).map(|line| format!("{line:015}\n")).collect();
    match stream {
        "stdout" => io::stdout().write_all(lines.as_bytes())?,
        _ => io::stderr().write_all(lines.as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print_descriptors() -> io::Result<ExitCode> {
    let listing = fs::read_dir("/proc/self/fd")?;
    for entry in listing {
        let entry = entry?;
        let target = fs::read_link(entry.path()).unwrap_or_default();
        writeln!(io::stdout(), "{} {}", entry.file_name().display(), target.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn hog(byte_count: &str) -> io::Result<ExitCode> {
    let byte_count = byte_count.parse::<usize>().map_err(io::Error::other)?;
    let bytes: Vec<u8> =
        (0..byte_count).map(|index| u8::try_from(index % 251).unwrap_or_default()).collect();
    Ok(ExitCode::from(bytes[byte_count / 2]))
}
