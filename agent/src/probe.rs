//! One health probe. It never takes longer than its timeout and never reads
//! more than a status line.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use berth_model::{HealthProbe, Name, PortClaim};
use berth_supervise::ProbeOutcome;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::confinement::{CANNOT_JOIN, CANNOT_RUN, Guest, guest_program};
use crate::environment::{Environment, substitute};
use crate::options::Program;
use crate::process_group::GroupKill;

/// The longest status line that is read.
const STATUS_LINE_BYTES_MAX: usize = 1024;

/// What a probe needs to know.
#[derive(Clone)]
pub struct ProbeTarget {
    pub probe: HealthProbe,
    pub timeout: Duration,
    pub ports: Vec<PortClaim>,
    /// For commands: as the worker itself has them.
    pub environment: Environment,
    pub task_dir: PathBuf,
    /// For commands: what holds the worker holds them. `None` where nothing does; none is run
    /// where nobody can tell.
    pub guest: Result<Option<Guest>, String>,
}

/// Probes once. The text says why it failed.
pub async fn probe(target: &ProbeTarget) -> (ProbeOutcome, String) {
    let checked = timeout(target.timeout, check(target)).await;
    match checked {
        Ok(Ok(())) => (ProbeOutcome::Passed, String::new()),
        Ok(Err(problem)) => (ProbeOutcome::Failed, problem),
        Err(_) => {
            let ms = target.timeout.as_millis();
            (ProbeOutcome::Failed, format!("no answer within {ms} ms"))
        }
    }
}

async fn check(target: &ProbeTarget) -> Result<(), String> {
    match &target.probe {
        HealthProbe::Http { path, port } => {
            let stream = connect(target, port).await?;
            http_get(stream, path).await
        }
        HealthProbe::Tcp { port } => connect(target, port).await.map(drop),
        HealthProbe::Command { command } => run(target, command).await,
    }
}

async fn connect(target: &ProbeTarget, name: &Name) -> Result<TcpStream, String> {
    let claim = target.ports.iter().find(|claim| claim.name == *name);
    let port = claim.ok_or_else(|| format!("it has no port `{name}`"))?.port;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect(address).await.map_err(|error| format!("connect to {address}: {error}"))
}

/// GET with as little HTTP as a health check needs: one request, the status
/// line, and the connection is closed.
async fn http_get(mut stream: TcpStream, path: &str) -> Result<(), String> {
    let target_fits = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    if !target_fits {
        return Err(format!("{path:?} cannot be asked for over HTTP"));
    }
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: berth-agent\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    );
    let failed = |error: io::Error| format!("http: {error}");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut line = Vec::new();
    while !line.contains(&b'\n') {
        let mut buffer = [0; 256];
        let length = stream.read(&mut buffer).await.map_err(failed)?;
        if length == 0 || line.len() + length > STATUS_LINE_BYTES_MAX {
            return Err("http: the answer has no status line".to_owned());
        }
        line.extend_from_slice(&buffer[..length]);
    }
    match status(&line) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("http status {status}")),
        None => Err("http: the answer has no status line".to_owned()),
    }
}

/// The status code of a response that begins with `line`.
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.0 ").or_else(|| line.strip_prefix(b"HTTP/1.1 "))?;
    let (code, rest) = rest.split_first_chunk::<3>()?;
    let ends = matches!(rest.first(), Some(b' ' | b'\r' | b'\n'));
    let is_code = code.iter().all(u8::is_ascii_digit) && ends;
    is_code.then(|| std::str::from_utf8(code).ok()?.parse().ok())?
}

/// Runs a command as the worker would; it is killed with its group's leader
/// when the probe is given up. No variable of the job's reaches a process that may more than
/// the worker.
async fn run(target: &ProbeTarget, words: &[String]) -> Result<(), String> {
    let words: Vec<String> =
        words.iter().map(|word| substitute(word, &target.environment)).collect();
    let Some(program) = words.first() else {
        return Err("the command is empty".to_owned());
    };
    let guest = target.guest.as_ref().map_err(Clone::clone)?;
    let mut command;
    match guest {
        Some(guest) => {
            let Program { exe, arguments } = guest_program();
            command = Command::new(exe);
            command.args(arguments).env_clear().envs(guest.marks());
            command.stdin(Stdio::piped());
        }
        None => {
            command = Command::new(program);
            command.args(&words[1..]).env_clear().envs(&target.environment);
            command.current_dir(&target.task_dir).stdin(Stdio::null()).process_group(0);
        }
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("run `{program}`: {error}"))?;
    let group = GroupKill::of(child.id());
    if let (Some(guest), Some(mut input)) = (guest, child.stdin.take()) {
        let told = input.write_all(&guest.running(words.clone()).encode()).await;
        told.map_err(|error| format!("run `{program}`: {error}"))?;
    }
    let status = child.wait().await.map_err(|error| format!("wait for `{program}`: {error}"))?;
    group.forget();
    if guest.is_some() && status.code() == Some(i32::from(CANNOT_JOIN)) {
        return Err(format!("`{program}` cannot be run beside the worker"));
    }
    if status.code() == Some(i32::from(CANNOT_RUN)) {
        return Err(format!("`{program}` is not found, or cannot be run"));
    }
    if status.success() { Ok(()) } else { Err(format!("`{program}` ended with {status}")) }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn target(probe: HealthProbe, port: u16) -> ProbeTarget {
        ProbeTarget {
            probe,
            timeout: Duration::from_millis(500),
            ports: vec![PortClaim { name: "http".parse().unwrap(), port }],
            environment: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
            task_dir: std::env::temp_dir(),
            guest: Ok(None),
        }
    }

    async fn answers(answer: &'static str) -> (ProbeOutcome, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let probe_of =
            HealthProbe::Http { path: "/health".to_owned(), port: "http".parse().unwrap() };
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /health HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let target = target(probe_of, port);
        let (outcome, ()) = tokio::join!(probe(&target), server);
        outcome
    }

    #[tokio::test]
    async fn an_http_status_decides() {
        use ProbeOutcome::{Failed, Passed};
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\n", Passed),
            ("HTTP/1.0 302 Found\r\n", Passed),
            ("HTTP/1.1 404 Not Found\r\n", Failed),
            ("HTTP/1.1 503\r\n", Failed),
            ("HTTP/1.1 2000 Odd\r\n", Failed),
            ("200 OK\r\n", Failed),
            ("", Failed),
        ] {
            let (outcome, problem) = answers(answer).await;
            assert_eq!(outcome, expected, "{answer:?}: {problem}");
        }
    }

    #[tokio::test]
    async fn nobody_listening_and_nobody_answering_are_failures() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tcp = HealthProbe::Tcp { port: "http".parse().unwrap() };
        assert_eq!(probe(&target(tcp.clone(), port)).await.0, ProbeOutcome::Passed);
        let silent = HealthProbe::Http { path: "/".to_owned(), port: "http".parse().unwrap() };
        let (outcome, problem) = probe(&target(silent, port)).await;
        assert_eq!((outcome, problem.as_str()), (ProbeOutcome::Failed, "no answer within 500 ms"));
        drop(listener);
        assert_eq!(probe(&target(tcp, port)).await.0, ProbeOutcome::Failed);
        let other = HealthProbe::Tcp { port: "admin".parse().unwrap() };
        assert_eq!(probe(&target(other, port)).await.1, "it has no port `admin`");
    }

    #[tokio::test]
    async fn a_command_passes_by_its_exit_code_and_is_killed_with_its_children() {
        let command = |script: &str| HealthProbe::Command {
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        };
        assert_eq!(probe(&target(command("exit 0"), 1)).await.0, ProbeOutcome::Passed);
        assert_eq!(probe(&target(command("exit 3"), 1)).await.0, ProbeOutcome::Failed);
        assert_eq!(
            probe(&target(command("test -z \"$CARGO_PKG_NAME\""), 1)).await.0,
            ProbeOutcome::Passed,
            "nothing of the agent's environment leaks in"
        );
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("held");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
        let script = format!("sleep 600 >'{}' & wait", fifo.display());
        let held = command(&script);
        let target = ProbeTarget { timeout: Duration::from_secs(1), ..target(held, 1) };
        let mut reader = tokio::net::unix::pipe::OpenOptions::new().open_receiver(&fifo).unwrap();
        assert_eq!(probe(&target).await.0, ProbeOutcome::Failed);
        // End of file: nobody holds the pipe any more, the child is gone too.
        let mut buffer = [0; 1];
        let read = timeout(Duration::from_secs(10), reader.read(&mut buffer)).await;
        assert_eq!(read.expect("the child outlived its probe").unwrap(), 0);
    }
}
