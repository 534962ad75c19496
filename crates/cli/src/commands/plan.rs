//! `berth plan FILE`: what submitting the file would do now.

use berth_proto::v1::PlanRequest;
use clap::Args;

use super::run::{FileArgs, read};
use crate::error::{CliError, Exit};
use crate::output::plan_answer;
use crate::session::Session;

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub file: FileArgs,
}

pub(crate) async fn run(args: PlanArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let spec = read(&args.file, session)?;
    let request = PlanRequest { spec: Some(berth_wire::spec::job_spec_to_proto(&spec)) };
    let reply = session.client.plan(request).await?;
    session.print(&plan_answer(&reply))?;
    Ok(if reply.waiting == 0 { Exit::Done } else { Exit::WouldWait })
}
