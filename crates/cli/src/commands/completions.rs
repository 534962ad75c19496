//! `berth completions SHELL`: a script for the shell to read.

use clap::Args;
use clap_complete::Shell;

use crate::error::{CliError, Exit};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

pub(crate) fn run(
    args: CompletionsArgs,
    session: &mut Session<'_, '_>,
    root: clap::Command,
) -> Result<Exit, CliError> {
    let mut root = root;
    let name = root.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut root, name, &mut script);
    session.console.data(&script)?;
    Ok(Exit::Done)
}
