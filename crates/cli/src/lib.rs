//! The client commands of `berth`. stdout is data, stderr is everything else,
//! and the exit status means something. No command decides what the cluster
//! decides; none starts a daemon.
//!
//! [`ClientCommand`] is a clap subcommand to be flattened into the binary's own,
//! [`GlobalArgs`] its options, [`run`] does what they say.
#![forbid(unsafe_code)]

mod access;
mod captures;
mod command;
mod commands;
mod console;
mod error;
mod globals;
mod host;
mod interrupt;
mod lists;
mod output;
mod requests;
mod session;
mod terminal;
mod usage;
mod values;
mod wait;

use std::future::Future;
use std::process::ExitCode;

pub use command::ClientCommand;
pub use commands::snapshot::{Offline, RestoreArgs, RestoreReport};
pub use console::Console;
pub use globals::{DEFAULT_CONFIG_FILE, Format, GlobalArgs};
pub use host::Host;
pub use usage::report as report_usage;

use interrupt::Interrupt;
use session::Session;

/// Does what `command` says and tells how it went. `root` is the whole command
/// line, for `completions`; `offline` works on data directories.
#[must_use]
pub fn run(
    command: ClientCommand,
    globals: &GlobalArgs,
    root: clap::Command,
    offline: Offline,
) -> ExitCode {
    // Connections on a thread of their own: whoever reads what is printed may take their time, and
    // the cluster is to be answered meanwhile.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let mut console = Console::of_process();
    let status = match runtime {
        Ok(runtime) => runtime.block_on(run_on(
            &mut console,
            &Host::of_process(offline),
            command,
            globals,
            root,
            async { drop(tokio::signal::ctrl_c().await) },
        )),
        Err(error) => {
            console.error_line(&format!("error: cannot start: {error}"));
            1
        }
    };
    ExitCode::from(status)
}

/// As [`run`], with the surroundings given. `interrupted` ends the command.
pub async fn run_on(
    console: &mut Console<'_>,
    host: &Host,
    command: ClientCommand,
    globals: &GlobalArgs,
    root: clap::Command,
    interrupted: impl Future<Output = ()>,
) -> u8 {
    let interrupt = Interrupt::default();
    let format = globals.output_on_error(host);
    let outcome = match Session::start(console, host, globals, &interrupt) {
        Ok(mut session) => {
            tokio::select! {
                outcome = command.run(&mut session, root) => outcome,
                () = interrupted => Err(interrupt.into_error()),
            }
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(exit) => exit.status(),
        Err(error) => {
            error.print(console, format);
            error.exit_status()
        }
    }
}
