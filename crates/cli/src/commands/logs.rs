//! `berth logs JOB`: the output of one instance, byte for byte.

use berth_client::ClientError;
use berth_proto::v1::LogsRequest;
use clap::Args;

use crate::error::{CliError, Exit};
use crate::session::Session;
use crate::values;

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Id, name, or prefix of an id
    #[arg(value_name = "JOB", value_parser = values::reference)]
    pub job: String,

    /// Go on with what is written
    #[arg(long, short)]
    pub follow: bool,

    /// The task, where the job has several
    #[arg(long, value_name = "TASK")]
    pub task: Option<String>,

    /// The instance
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub index: u32,

    /// The attempt; the newest unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempt: Option<u32>,

    /// The standard error instead of the standard output
    #[arg(long)]
    pub stderr: bool,
}

pub(crate) async fn run(args: LogsArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let mut logs = session.client.logs(LogsRequest {
        job: Some(session.job(&args.job)),
        task: args.task.unwrap_or_default(),
        index: args.index,
        attempt: args.attempt.unwrap_or(0),
        stderr: args.stderr,
        follow: args.follow,
    });
    let mut has_shown = false;
    loop {
        match logs.next().await {
            Ok(Some(chunk)) => {
                if !chunk.data.is_empty() {
                    has_shown = true;
                    session.console.data(&chunk.data)?;
                }
                if !chunk.note.is_empty() {
                    session.note(&format!("note: {}", chunk.note));
                }
            }
            Ok(None) => return Ok(Exit::Done),
            // What there was has been shown: why there is no more is a remark.
            Err(ClientError::Refused(refusal)) if has_shown => {
                session.note(&format!("note: {}", refusal.message));
                return Ok(Exit::Done);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
