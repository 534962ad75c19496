//! `berth plan FILE`: what submitting the file would do now.

use berth_proto::v1::{ImaginedNodes, PlanRequest};
use clap::Args;

use super::run::{FileArgs, read};
use crate::error::{CliError, Exit};
use crate::output::plan_answer;
use crate::session::Session;
use crate::values;

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub file: FileArgs,

    /// Plan as if there were more nodes, such as nodes=+2x8xH100-80GB for two with eight GPUs each
    #[arg(long, value_name = "CHANGE", value_parser = values::imagined_nodes)]
    pub what_if: Vec<ImaginedNodes>,
}

pub(crate) async fn run(args: PlanArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let spec = read(&args.file, session)?;
    let spec = Some(berth_wire::spec::job_spec_to_proto(&spec));
    let request = PlanRequest { spec, imagined: args.what_if };
    let reply = session.client.plan(request).await?;
    session.print(&plan_answer(&reply))?;
    Ok(if reply.waiting == 0 { Exit::Done } else { Exit::WouldWait })
}
