//! Runs command lines as the binary does, with streams that are kept.

use std::ffi::OsString;
use std::future::{Future, pending};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use berth_cli::{
    ClientCommand, Console, GlobalArgs, Host, Offline, RestoreArgs, RestoreReport, report_usage,
    run_on,
};
use clap::{CommandFactory, Parser};

use crate::fake::data::NOW_MS;

/// The command line as the binary composes it.
#[derive(Debug, Parser)]
#[command(name = "berth", version)]
struct CommandLine {
    #[command(flatten)]
    globals: GlobalArgs,
    #[command(subcommand)]
    command: ClientCommand,
}

/// What a command line is typed into.
#[derive(Debug, Clone)]
pub struct Terminal {
    pub width: Option<u16>,
    pub unicode: bool,
    pub input: Vec<u8>,
    pub environment: Vec<(OsString, OsString)>,
    pub working_directory: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub status: u8,
    pub stdout: String,
    pub stderr: String,
}

impl Terminal {
    pub fn new(server: &str) -> Terminal {
        let path = ("PATH".into(), "/usr/bin:/bin".into());
        let secret = ("HF_TOKEN".into(), "hf_secret".into());
        Terminal {
            width: None,
            unicode: true,
            input: Vec::new(),
            environment: vec![path, secret, ("BERTH_SERVER".into(), server.into())],
            working_directory: "/home/ada".into(),
        }
    }

    pub async fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_until(arguments, pending()).await
    }

    /// As [`Terminal::run`]; `interrupted` is Ctrl-C.
    pub async fn run_until(
        &self,
        arguments: &[&str],
        interrupted: impl Future<Output = ()>,
    ) -> Outcome {
        let mut stdout = Vec::new();
        let (status, stderr) = self.run_into(&mut stdout, arguments, interrupted).await;
        Outcome { status, stdout: String::from_utf8(stdout).unwrap(), stderr }
    }

    /// As [`Terminal::run`] with stdout elsewhere.
    pub async fn run_into(
        &self,
        out: impl Write,
        arguments: &[&str],
        interrupted: impl Future<Output = ()>,
    ) -> (u8, String) {
        let mut stderr = Vec::new();
        let mut console = Console {
            input: Box::new(self.input.as_slice()),
            out: Box::new(out),
            error: Box::new(&mut stderr),
            width: self.width,
            error_is_terminal: false,
            unicode: self.unicode,
        };
        let host = Host {
            environment: self.environment.clone(),
            working_directory: Some(self.working_directory.clone()),
            now_ms: NOW_MS,
            offline: Offline { restore: restored, salvage },
        };
        let arguments: Vec<OsString> =
            std::iter::once("berth").chain(arguments.iter().copied()).map(OsString::from).collect();
        let status = match CommandLine::try_parse_from(&arguments) {
            Ok(line) => {
                let root = CommandLine::command();
                run_on(&mut console, &host, line.command, &line.globals, root, interrupted).await
            }
            Err(error) => report_usage(&mut console, &error, &arguments),
        };
        drop(console);
        (status, String::from_utf8(stderr).unwrap())
    }
}

/// Stands in for the binary, which knows how.
fn restored(args: &RestoreArgs) -> Result<RestoreReport, String> {
    if args.incarnation == Some(1) {
        return Err("the backup is of incarnation 1: the new one must be above it, not 1".into());
    }
    Ok(RestoreReport {
        cluster_id: "5f0c".into(),
        incarnation: args.incarnation.unwrap_or(2),
        scheduler_id: 1001,
        awaited: 2,
        saved_at_ms: NOW_MS - 600_000,
    })
}

fn salvage(data_dir: &Path, file: &Path) -> Result<String, String> {
    if data_dir != Path::new("/var/lib/berth") {
        return Err(format!("{} holds no scheduler", data_dir.display()));
    }
    std::fs::write(file, crate::fake::data::backup()).map_err(|error| error.to_string())?;
    Ok("its log ends at index 9 of term 2".to_owned())
}

/// A reader that has gone away.
pub struct ClosedPipe;

impl Write for ClosedPipe {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
