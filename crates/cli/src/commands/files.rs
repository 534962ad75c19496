//! `berth files JOB [PATH]`: a directory or file of a task, as it is on its node.

use berth_proto::v1::{FileKind, FilesRequest};
use clap::Args;

use crate::error::{CliError, Exit};
use crate::output::entries_answer;
use crate::session::Session;
use crate::values;

#[derive(Debug, Args)]
pub struct FilesArgs {
    /// Id, name, or prefix of an id
    #[arg(value_name = "JOB", value_parser = values::reference)]
    pub job: String,

    /// Below the task's directory; that itself unless given. A directory is listed, a file is
    /// printed
    #[arg(value_name = "PATH", default_value = "")]
    pub path: String,

    /// The task, where the job has several
    #[arg(long, value_name = "TASK")]
    pub task: Option<String>,

    /// The instance
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub index: u32,

    /// The attempt; the newest unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempt: Option<u32>,
}

pub(crate) async fn run(args: FilesArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let request = FilesRequest {
        job: Some(session.job(&args.job)),
        task: args.task.unwrap_or_default(),
        index: args.index,
        attempt: args.attempt.unwrap_or(0),
        path: args.path,
    };
    let mut files = session.client.files(request).await?;
    let mut is_directory = false;
    let mut entries = Vec::new();
    let told = loop {
        match files.next().await {
            Ok(Some(reply)) => {
                is_directory |= reply.subject.is_some_and(|it| it.kind() == FileKind::Directory);
                entries.extend(reply.entries);
                if !reply.data.is_empty() {
                    session.console.data(&reply.data)?;
                }
            }
            Ok(None) => break Ok(Exit::Done),
            Err(error) => break Err(error.into()),
        }
    };
    // What was told is shown, whatever is missing.
    if is_directory {
        session.print(&entries_answer(&entries))?;
    }
    told
}
