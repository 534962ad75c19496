//! `berth job list`, `berth ps`: jobs, newest first.

use berth_proto::v1::ListJobsRequest;
use clap::Args;

use crate::error::{CliError, Exit};
use crate::output::jobs_answer;
use crate::session::{Session, StaleArgs, consistency};

/// What a scheduler sends at once.
const PAGE: u32 = 1_000;

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only jobs in these states
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = ["queued", "running", "succeeded", "failed", "cancelled", "timed_out"])]
    pub state: Vec<String>,

    /// Jobs of every namespace
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,

    /// At most this many jobs
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub limit: u32,

    #[command(flatten)]
    pub stale: StaleArgs,
}

pub(crate) async fn run(args: ListArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let namespace = if args.all_namespaces { String::new() } else { session.namespace.to_string() };
    let mut request = ListJobsRequest {
        namespace,
        states: args.state,
        consistency: consistency(args.stale),
        page_size: 0,
        before_id: 0,
    };
    let limit = args.limit as usize;
    let mut jobs = Vec::new();
    let mut stale_ms = None;
    let has_more = loop {
        let left = u32::try_from(limit - jobs.len()).unwrap_or(PAGE);
        request.page_size = left.min(PAGE);
        let page = session.client.list_jobs(request.clone()).await?;
        jobs.extend(page.jobs);
        stale_ms = page.stale_ms.or(stale_ms);
        request.before_id = page.next_before_id;
        if page.next_before_id == 0 || jobs.len() >= limit {
            break page.next_before_id != 0;
        }
    };
    session.print(&jobs_answer(&jobs, session.host.now_ms))?;
    session.note_age(stale_ms);
    if has_more {
        session.note("note: there are more jobs; --limit shows more");
    }
    Ok(Exit::Done)
}
