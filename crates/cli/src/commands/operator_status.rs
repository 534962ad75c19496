//! `berth operator status`: leader, members and counts.

use berth_proto::v1::StatusRequest;
use clap::Args;

use crate::error::{CliError, Exit};
use crate::output::status_answer;
use crate::session::{Session, StaleArgs, consistency};

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub stale: StaleArgs,
}

pub(crate) async fn run(args: StatusArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let request = StatusRequest { consistency: consistency(args.stale) };
    let status = session.client.status(request).await?;
    session.print(&status_answer(&status))?;
    session.note_age(status.stale_ms);
    for warning in &status.warnings {
        session.note(&format!("warning: {warning}"));
    }
    Ok(Exit::Done)
}
