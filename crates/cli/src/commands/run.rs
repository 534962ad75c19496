//! `berth run FILE`: submits a job file.

use std::path::{Path, PathBuf};

use berth_jobfile::{Input, Refused, Syntax};
use berth_model::JobSpec;
use clap::Args;

use super::submit::{Submission, send};
use crate::error::{CliError, Exit, Fault};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub file: FileArgs,

    #[command(flatten)]
    pub how: HowArgs,

    /// Only if the job stands at this version
    #[arg(long, value_name = "N")]
    pub if_version: Option<u32>,
}

/// A job file and what is put over it.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// Job file (.toml, .yaml or .json); `-` reads TOML from standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Put a value over the file's, such as task.memory=32GiB
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// How a job is submitted.
#[derive(Debug, Args)]
pub struct HowArgs {
    /// Submit once only: the same key gives the same job
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,

    /// Wait until the job has succeeded, or a service runs
    #[arg(long)]
    pub wait: bool,

    /// Refuse what no node could ever hold
    #[arg(long)]
    pub strict: bool,
}

pub(crate) async fn run(args: RunArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let spec = read(&args.file, session)?;
    send(Submission { spec, how: args.how, if_version: args.if_version }, session).await
}

/// Reads the job file that `args` name.
pub(crate) fn read(args: &FileArgs, session: &mut Session<'_, '_>) -> Result<JobSpec, CliError> {
    let (name, syntax, bytes) = read_file(&args.file, session)?;
    let input = Input {
        file_name: &name,
        syntax,
        bytes: &bytes,
        overrides: &args.overrides,
        namespace: session.namespace.clone(),
    };
    let spec = berth_jobfile::parse(&input).map_err(refused)?;
    if session.namespace_flag && spec.namespace != session.namespace {
        let message = format!(
            "{name} is for namespace `{}`, but --namespace says `{}`",
            spec.namespace, session.namespace
        );
        return Err(CliError::bad_input(message));
    }
    Ok(spec)
}

/// What a file is called in messages, how it is written, and what is in it.
pub(crate) fn read_file(
    file: &Path,
    session: &mut Session<'_, '_>,
) -> Result<(String, Syntax, Vec<u8>), CliError> {
    let (name, bytes) = if file == Path::new("-") {
        let read = berth_jobfile::read_stream(&mut session.console.input);
        ("standard input".to_owned(), read.map_err(|error| error.to_string()))
    } else {
        (file.display().to_string(), berth_jobfile::read_path(file))
    };
    Ok((name, Syntax::of_path(file), bytes.map_err(CliError::bad_input)?))
}

/// Everything that is wrong with a file.
pub(crate) fn refused(refused: Refused) -> CliError {
    let faults = refused.problems.into_iter().map(|problem| {
        let hint = problem.hint.clone();
        let field = Some(problem.path.clone()).filter(|path| !path.is_empty());
        let message = format!("{}: {}", problem.place, problem.message);
        let text = berth_jobfile::Problem { hint: None, ..problem }.to_string();
        Fault { text, message, field, hint }
    });
    CliError::BadInput(faults.collect())
}
