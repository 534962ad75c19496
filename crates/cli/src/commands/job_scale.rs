//! `berth job scale JOB COUNT`: how many instances a task has.

use berth_proto::v1::ScaleJobRequest;
use clap::Args;

use super::job_change::print_changed;
use crate::error::{CliError, Exit};
use crate::session::Session;
use crate::values;

#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// Id, name, or prefix of an id
    #[arg(value_name = "JOB", value_parser = values::reference)]
    pub job: String,

    /// Instances; 0 stops a service and keeps it
    #[arg(value_name = "COUNT", value_parser = values::replicas, allow_hyphen_values = true)]
    pub count: u32,

    /// The task, where the job has several
    #[arg(long, value_name = "TASK")]
    pub task: Option<String>,

    /// Only if the job stands at this version
    #[arg(long, value_name = "N")]
    pub if_version: Option<u32>,
}

pub(crate) async fn run(args: ScaleArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let request = ScaleJobRequest {
        job: Some(session.job(&args.job)),
        if_version: args.if_version,
        task: args.task.unwrap_or_default(),
        count: args.count,
    };
    let job = session.client.scale_job(request).await?;
    print_changed(&job, &format!("is scaled to {}", args.count), session)
}
