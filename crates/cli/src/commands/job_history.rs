//! `berth job history JOB`: the versions of a job that are kept.

use berth_proto::v1::{HistoryRequest, JobVersion};
use clap::Args;
use serde_json::{Value, json};

use crate::error::{CliError, Exit};
use crate::output::{Answer, Piece, Table, rfc3339, spec_json};
use crate::session::Session;
use crate::values;

#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Id, name, or prefix of an id
    #[arg(value_name = "JOB", value_parser = values::reference)]
    pub job: String,
}

pub(crate) async fn run(
    args: HistoryArgs,
    session: &mut Session<'_, '_>,
) -> Result<Exit, CliError> {
    let request = HistoryRequest { job: Some(session.job(&args.job)) };
    let reply = session.client.history(request).await?;
    let mut table = Table::new(&["VERSION", "CURRENT", "SUBMITTED"], &["SPEC"]);
    for version in &reply.versions {
        table.row(vec![
            version.version.to_string(),
            if version.current { "yes" } else { "" }.to_owned(),
            rfc3339(version.submitted_at_ms),
            spec(version).to_string(),
        ]);
    }
    let answer = Answer {
        json: reply.versions.iter().map(version_json).collect(),
        pieces: vec![Piece::Table(table)],
        ids: reply.versions.iter().map(|version| version.version.to_string()).collect(),
    };
    session.print(&answer)?;
    Ok(Exit::Done)
}

fn version_json(version: &JobVersion) -> Value {
    json!({
        "version": version.version,
        "current": version.current,
        "submitted_at": rfc3339(version.submitted_at_ms),
        "spec": spec(version),
    })
}

fn spec(version: &JobVersion) -> Value {
    match version.spec.clone().map(berth_wire::spec::job_spec_from_proto) {
        Some(Ok(spec)) => spec_json(&spec),
        // One that only a newer version can read.
        Some(Err(_)) | None => Value::Null,
    }
}
