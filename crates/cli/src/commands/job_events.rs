//! `berth job events JOB`: what happens to a job.

use clap::Args;

use super::cluster_events::{FollowArgs, print_events};
use crate::error::{CliError, Exit};
use crate::session::Session;
use crate::values;

#[derive(Debug, Args)]
pub struct JobEventsArgs {
    /// Id, name, or prefix of an id
    #[arg(value_name = "JOB", value_parser = values::reference)]
    pub job: String,

    #[command(flatten)]
    pub how: FollowArgs,
}

pub(crate) async fn run(
    args: JobEventsArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let job = session.job(&args.job);
    print_events(args.how, Some(job), session).await
}
