//! `berth job show JOB`: a job, its tasks and its allocations.

use berth_model::JobKind;
use berth_proto::v1::{Allocation, GetJobRequest, Job, ListAllocationsRequest};
use clap::Args;
use serde_json::Value;

use crate::error::{CliError, Exit};
use crate::output::{
    Answer, Piece, Table, allocation_table, gang_lines, isolation_line, job_json, job_table,
    rfc3339, spec_json,
};
use crate::session::{Session, StaleArgs, consistency};
use crate::values;

/// What a scheduler sends at once.
const PAGE: u32 = 1_000;

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Id, name, or prefix of an id
    #[arg(value_name = "JOB", value_parser = values::reference)]
    pub job: String,

    /// At most this many allocations
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub limit: u32,

    #[command(flatten)]
    pub stale: StaleArgs,
}

pub(crate) async fn run(args: ShowArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let request = GetJobRequest {
        job: Some(session.job(&args.job)),
        consistency: consistency(args.stale),
        with_spec: true,
    };
    let job = session.client.get_job(request).await?;
    let limit = args.limit as usize;
    let mut request = ListAllocationsRequest {
        job: Some(session.job(&job.id.to_string())),
        consistency: consistency(args.stale),
        page_size: 0,
        page_token: String::new(),
    };
    let mut allocations: Vec<Allocation> = Vec::new();
    let has_more = loop {
        let left = u32::try_from(limit - allocations.len()).unwrap_or(PAGE);
        if left == 0 {
            break true;
        }
        request.page_size = left.min(PAGE);
        let page = session.client.list_allocations(request.clone()).await?;
        allocations.extend(page.allocations.into_iter().take(left as usize));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break false;
        }
    };
    let answer = answer(&job, &allocations, session.host.now_ms);
    session.print(&answer)?;
    session.note_age(job.stale_ms);
    if has_more && limit > 0 {
        session.note("note: there are more allocations; --limit shows more");
    }
    Ok(Exit::Done)
}

fn answer(job: &Job, allocations: &[Allocation], now_ms: u64) -> Answer {
    let mut json = job_json(job, allocations);
    let spec = job.spec.clone().map(berth_wire::spec::job_spec_from_proto);
    // One that only a newer version can read is not shown.
    let spec = spec.and_then(Result::ok);
    json["spec"] = spec.as_ref().map_or(Value::Null, spec_json);
    let mut pieces = vec![Piece::Table(job_table(std::slice::from_ref(job), now_ms))];
    // A daemon is on every node that takes it.
    if let Some(spec) = spec.filter(|spec| spec.kind != JobKind::Daemon) {
        let (policy, origin) = (spec.policy.name(), spec.policy_origin.told());
        pieces.push(Piece::Text(format!("\npolicy: {policy} ({origin})")));
    }
    if !job.reason.is_empty() {
        pieces.push(Piece::Text(format!("\nreason: {}", job.reason)));
    }
    if job.tasks.iter().any(|task| !task.failures.is_empty()) {
        pieces.push(Piece::Text(String::new()));
        pieces.push(Piece::Table(failures(job)));
    }
    if !allocations.is_empty() {
        pieces.push(Piece::Text(String::new()));
        pieces.push(Piece::Table(allocation_table(allocations)));
        let isolation = isolation_line(allocations);
        pieces.extend(isolation.map(|line| Piece::Text(format!("\n{line}"))));
        let gangs = gang_lines(allocations).into_iter();
        pieces.extend(gangs.map(|line| Piece::Text(format!("\n{line}"))));
    }
    Answer { json, pieces, ids: vec![job.id.to_string()] }
}

fn failures(job: &Job) -> Table {
    let mut table = Table::new(&["FAILED", "NODE", "EXIT", "REASON"], &["AT", "STDERR"]);
    for failure in job.tasks.iter().flat_map(|task| &task.failures) {
        let exit = failure.exit_code.map(|code| code.to_string());
        let signal = || failure.signal.map(|signal| format!("signal {signal}"));
        table.row(vec![
            failure.allocation_id.clone(),
            failure.node.clone(),
            exit.or_else(signal).unwrap_or_default(),
            failure.reason.clone(),
            rfc3339(failure.finished_at_ms),
            failure.stderr_tail.lines().last().unwrap_or_default().to_owned(),
        ]);
    }
    table
}
