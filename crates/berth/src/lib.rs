//! The one binary: every daemon, the local trial clusters and the client
//! commands under one name. A library too, so that tests start local clusters
//! of the binary that was just built.

#![forbid(unsafe_code)]

mod agent;
mod arguments;
mod demo;
mod dev;
mod dev_fault;
mod doctor;
mod gateway;
mod limits;
pub mod local;
mod mock_worker;
mod process;
mod reload;
mod scheduler;
mod settings;
mod stop;
mod storage;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

use berth_agent::BadPretence;
use berth_cli::GlobalArgs;
use berth_identity::folder::FolderError;
use clap::{CommandFactory as _, Parser as _};

use arguments::{Arguments, Daemon, DevArguments, DevCommand, StorageCommand, Task};

/// What the program does.
pub fn main() -> ExitCode {
    // A shim is started many times and must stay small: nothing else of this
    // program may run before it.
    if let Some(dir) = shim_directory() {
        return berth_shim::run(&dir);
    }
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("gpu-prober") => return berth_agent::probe(arguments),
        Some("gpu-self-test") => return berth_agent::self_test(arguments),
        Some("confined") => return berth_agent::confined(arguments),
        Some("container-runner") => return berth_agent::run_container(arguments),
        Some("artifact-fetcher") => return berth_agent::fetch_artifact(),
        Some(_) | None => {}
    }
    match Arguments::try_parse() {
        Ok(arguments) => match arguments.task {
            Task::Daemon(daemon) => run(*daemon, &arguments.globals),
            Task::Client(command) => {
                berth_cli::run(command, &arguments.globals, Arguments::command(), storage::OFFLINE)
            }
        },
        Err(error) => {
            let arguments: Vec<OsString> = std::env::args_os().collect();
            let mut console = berth_cli::Console::of_process();
            ExitCode::from(berth_cli::report_usage(&mut console, &error, &arguments))
        }
    }
}

/// The directory of `berth shim --dir DIR`; its arguments are this program's
/// own and are not for people.
fn shim_directory() -> Option<PathBuf> {
    let mut arguments = std::env::args_os().skip(1);
    let is_shim = arguments.next().as_deref() == Some(OsStr::new("shim"))
        && arguments.next().as_deref() == Some(OsStr::new("--dir"));
    arguments.next().filter(|_| is_shim).map(PathBuf::from)
}

fn run(daemon: Daemon, globals: &GlobalArgs) -> ExitCode {
    let config = globals.config.as_deref();
    berth_telemetry::abort_on_panic(berth_raft::device::sled::panic_is_guarded);
    let ended = match daemon {
        Daemon::Scheduler(arguments) => scheduler::run(&arguments, config),
        Daemon::Agent(arguments) => agent::run(&arguments, config),
        Daemon::Gateway(arguments) => gateway::run(&arguments, config),
        Daemon::Dev(DevArguments { command: Some(DevCommand::Fault(arguments)), .. }) => {
            dev_fault::run(&arguments)
        }
        Daemon::Dev(arguments) => dev::run(&arguments),
        Daemon::Doctor(arguments) => doctor::run(&arguments, globals),
        Daemon::Demo(arguments) => demo::run(&arguments),
        Daemon::MockWorker(arguments) => mock_worker::run(&arguments),
        Daemon::Storage(StorageCommand::Verify(arguments)) => storage::verify(&arguments),
        Daemon::Storage(StorageCommand::Export(arguments)) => storage::export(&arguments),
        Daemon::Storage(StorageCommand::Import(arguments)) => storage::import(&arguments),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            // Settings, and the files that they name.
            let bad_input = error.chain().any(|cause| {
                cause.is::<settings::BadSettings>()
                    || cause.is::<FolderError>()
                    || cause.is::<BadPretence>()
            });
            if bad_input { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
