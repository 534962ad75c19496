//! `berth job wait JOB`: until it runs, has succeeded, or has ended.

use clap::Args;

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece, job_json};
use crate::session::Session;
use crate::values;
use crate::wait::{self, Target};

#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Id, name, or prefix of an id
    #[arg(value_name = "JOB", value_parser = values::reference)]
    pub job: String,

    /// What to wait for; `stopped` is any end
    #[arg(long = "for", value_name = "STATE", default_value = "succeeded")]
    pub target: Target,
}

pub(crate) async fn run(args: WaitArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let job = wait::until(session, &args.job, args.target).await?;
    let answer = Answer {
        json: job_json(&job, &[]),
        pieces: vec![Piece::Text(format!("job {} ({}) {}", job.id, job.name, job.state))],
        ids: vec![job.id.to_string()],
    };
    session.print(&answer)?;
    Ok(Exit::Done)
}
