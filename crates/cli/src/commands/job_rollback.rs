//! `berth job rollback JOB`: a new version that is like an earlier one.

use berth_proto::v1::RollbackJobRequest;
use clap::Args;

use super::job_change::print_changed;
use crate::error::{CliError, Exit};
use crate::session::Session;
use crate::values;

#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Id, name, or prefix of an id
    #[arg(value_name = "JOB", value_parser = values::reference)]
    pub job: String,

    /// The version to go back to; the one before the current unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub to: Option<u32>,

    /// Only if the job stands at this version
    #[arg(long, value_name = "N")]
    pub if_version: Option<u32>,
}

pub(crate) async fn run(
    args: RollbackArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let request = RollbackJobRequest {
        job: Some(session.job(&args.job)),
        if_version: args.if_version,
        to_version: args.to.unwrap_or(0),
    };
    let job = session.client.rollback_job(request).await?;
    print_changed(&job, "is rolled back", session)
}
