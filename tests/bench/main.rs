//! Measures a cluster of three schedulers against its peers on this machine, so
//! that what is said of its speed can be repeated by one command, `tests/bench/run`.
//! It installs and builds nothing: that command does.
#![forbid(unsafe_code)]

mod arguments;
mod berth;
mod disk;
mod etcd;
mod guard;
mod hyperqueue;
mod jobs;
mod limits;
mod load;
mod ports;
mod processors;
mod report;
mod rows;
mod series;
mod stamp;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Arguments, Task};

fn main() -> ExitCode {
    // The worker of the start row is this program: nothing may run before its
    // clock is read.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == stamp::WORD) {
        return stamp::run(words.next());
    }
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        match arguments.task {
            Task::Run(options) => rows::run(options).await,
            Task::ServeHealth { port } => limits::serve_health(port).await,
        }
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
