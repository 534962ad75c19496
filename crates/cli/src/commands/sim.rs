//! `berth sim …`: the cluster's own code over lists of work, on this machine alone.

mod decisions;
pub mod jobs;
pub mod place;
pub mod replay;
pub mod serve;

use std::path::Path;

use clap::Subcommand;

use crate::error::{CliError, Exit};
use crate::session::Session;

/// A command of the simulator.
#[derive(Debug, Subcommand)]
pub enum SimCommand {
    /// Place a list of tasks on a list of nodes, or compare policies over the openb traces
    Place(Box<place::PlaceArgs>),
    /// Queue a list of jobs for a pool of GPUs, and compare in which order they are served
    Jobs(jobs::JobsArgs),
    /// Serve the requests of a trace over a fleet of replicas, and compare how they are routed
    Serve(serve::ServeArgs),
    /// Make the decisions of a capture anew, and tell whether they are the same
    Replay(replay::ReplayArgs),
}

/// What `of` makes of each, on a thread for each, in their order.
fn each_on_a_thread<T: Copy + Send, R: Send>(list: &[T], of: impl Fn(T) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let of = &of;
        let run = |one: &T| {
            let one = *one;
            scope.spawn(move || of(one))
        };
        let threads: Vec<_> = list.iter().map(run).collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(made) => made,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    })
}

/// Writes a drawing where one was asked for.
fn write_plot(plot: Option<&Path>, draw: impl FnOnce() -> String) -> Result<(), CliError> {
    let Some(plot) = plot else { return Ok(()) };
    std::fs::write(plot, draw())
        .map_err(|error| CliError::bad_input(format!("cannot write {}: {error}", plot.display())))
}

impl SimCommand {
    pub(crate) fn run(self, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
        match self {
            SimCommand::Place(args) => place::run(&args, session),
            SimCommand::Jobs(args) => jobs::run(&args, session),
            SimCommand::Serve(args) => serve::run(&args, session),
            SimCommand::Replay(args) => replay::run(&args, session),
        }
    }
}
