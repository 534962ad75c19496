//! `berth job explain JOB`: why it waits, or why it is where it is.

use berth_proto::v1::ExplainRequest;
use clap::Args;

use crate::error::{CliError, Exit};
use crate::output::explain_answer;
use crate::session::{Session, StaleArgs, consistency};
use crate::values;

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Id, name, or prefix of an id
    #[arg(value_name = "JOB", value_parser = values::reference)]
    pub job: String,

    #[command(flatten)]
    pub stale: StaleArgs,
}

pub(crate) async fn run(
    args: ExplainArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let request =
        ExplainRequest { job: Some(session.job(&args.job)), consistency: consistency(args.stale) };
    let reply = session.client.explain(request).await?;
    session.print(&explain_answer(&reply))?;
    Ok(Exit::Done)
}
