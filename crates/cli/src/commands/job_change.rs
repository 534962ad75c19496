//! `berth job stop|restart|hold|release|purge JOB`: one call each.

use berth_proto::v1::{ChangeJobRequest, Job};
use clap::Args;
use serde_json::json;

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece, job_json};
use crate::session::Session;
use crate::values;

#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Id, name, or prefix of an id
    #[arg(value_name = "JOB", value_parser = values::reference)]
    pub job: String,

    /// Only if the job stands at this version
    #[arg(long, value_name = "N")]
    pub if_version: Option<u32>,
}

impl ChangeArgs {
    fn request(&self, session: &Session<'_, '_>) -> ChangeJobRequest {
        ChangeJobRequest { job: Some(session.job(&self.job)), if_version: self.if_version }
    }
}

pub(crate) async fn stop(
    args: ChangeArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let job = session.client.stop_job(args.request(session)).await?;
    print_changed(&job, "is being stopped", session)
}

pub(crate) async fn restart(
    args: ChangeArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let job = session.client.restart_job(args.request(session)).await?;
    print_changed(&job, "is being restarted", session)
}

pub(crate) async fn hold(
    args: ChangeArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let job = session.client.hold_job(args.request(session)).await?;
    print_changed(&job, "is held", session)
}

pub(crate) async fn release(
    args: ChangeArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let job = session.client.release_job(args.request(session)).await?;
    print_changed(&job, "is released", session)
}

pub(crate) async fn purge(
    args: ChangeArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let reply = session.client.purge_job(args.request(session)).await?;
    let answer = Answer {
        json: json!({ "id": reply.job_id }),
        pieces: vec![Piece::Text(format!("job {} is purged", reply.job_id))],
        ids: vec![reply.job_id.to_string()],
    };
    session.print(&answer)?;
    Ok(Exit::Done)
}

/// Prints a job after a change to it.
pub(crate) fn print_changed(
    job: &Job,
    what: &str,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let text = format!("job {} ({}) {what}, version {}", job.id, job.name, job.version);
    let answer = Answer {
        json: job_json(job, &[]),
        pieces: vec![Piece::Text(text)],
        ids: vec![job.id.to_string()],
    };
    session.print(&answer)?;
    Ok(Exit::Done)
}
