//! `berth sim jobs`: a list of jobs waits for a pool of GPUs in virtual time, served in the order
//! of one policy or another.

use std::path::{Path, PathBuf};

use berth_config::units::format_duration;
use berth_model::DurationMs;
use berth_sim::jobs::{
    self, Figures, JobsError, JobsOptions, JobsReport, QueuePart, QueuePolicy, TraceJob,
};
use clap::Args;
use serde_json::{Value, json};

use super::{each_on_a_thread, write_plot};
use crate::error::{CliError, Exit};
use crate::lists::read_jobs;
use crate::output::{Answer, Curve, Curves, Piece, Table, curves};
use crate::session::Session;
use crate::values::{queue_part, queue_policy, restart_cost_ms};

/// The largest pool: more than any cluster has.
const GPUS_MAX: i64 = 10_000_000;

#[derive(Debug, Args)]
pub struct JobsArgs {
    /// The jobs: CSV with submit_s, duration_s, num_gpus, and user, vc or model if known
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// The GPUs of the pool
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=GPUS_MAX))]
    gpus: u32,
    /// In which order jobs are served, or several to compare
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = queue_policy, default_value = "berth")]
    policy: Vec<QueuePolicy>,
    /// What a job that was preempted takes to start again, holding its GPUs
    #[arg(long, value_name = "DURATION", value_parser = restart_cost_ms, default_value = "30s")]
    restart_cost: u64,
    /// Parts that the policy berth is to leave out, to see what they buy
    #[arg(long, value_name = "PART", value_delimiter = ',', value_parser = queue_part)]
    without: Vec<QueuePart>,
    /// Where to draw how many jobs wait for how long: SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// What became of the list under a policy.
struct Outcome {
    policy: QueuePolicy,
    report: JobsReport,
}

pub(crate) fn run(args: &JobsArgs, session: &mut Session<'_, '_>) -> Result<Exit, CliError> {
    let rows = read_jobs(&args.trace, args.gpus)?;
    let (lines, list): (Vec<u64>, Vec<TraceJob>) = rows.into_iter().unzip();
    let outcomes = compare(args, &list).map_err(|error| refused(&args.trace, &lines, &error))?;
    session.print(&answer(args, &list, &outcomes))?;
    write_plot(args.plot.as_deref(), || draw(&list, &outcomes))?;
    Ok(Exit::Done)
}

/// Every policy that was named, once, each on a thread of its own.
fn compare(args: &JobsArgs, list: &[TraceJob]) -> Result<Vec<Outcome>, JobsError> {
    let mut policies: Vec<QueuePolicy> = Vec::new();
    for policy in &args.policy {
        if !policies.contains(policy) {
            policies.push(*policy);
        }
    }
    let one = |policy: QueuePolicy| {
        let options = JobsOptions {
            gpus: args.gpus,
            policy,
            without: args.without.iter().copied().collect(),
            restart: DurationMs(args.restart_cost),
        };
        jobs::run(list, &options).map(|report| Outcome { policy, report })
    };
    each_on_a_thread(&policies, one).into_iter().collect()
}

/// Says the line where the error knows the job.
fn refused(trace: &Path, lines: &[u64], error: &JobsError) -> CliError {
    let trace = trace.display();
    match error {
        JobsError::TooLarge { job_index, .. }
        | JobsError::Empty { job_index }
        | JobsError::TooLate { job_index } => {
            let line = lines.get(*job_index).copied().unwrap_or(0);
            CliError::bad_input(format!("{trace}:{line}: {error}"))
        }
        JobsError::Stalled { .. } | JobsError::TooMany { .. } => {
            CliError::failed(format!("{trace}: {error}"))
        }
    }
}

fn answer(args: &JobsArgs, list: &[TraceJob], outcomes: &[Outcome]) -> Answer {
    let restart = match args.restart_cost {
        0 => "nothing".to_owned(),
        restart_ms => format_duration(restart_ms),
    };
    let text = format!(
        "{} jobs on {} GPUs, {restart} to start again; times in hours",
        list.len(),
        args.gpus,
    );
    let mut table = Table::new(
        &[
            "POLICY",
            "QUEUED",
            "P50",
            "P90",
            "P99",
            "COMPLETED",
            "P50",
            "P90",
            "P99",
            "PREEMPTED",
            "USED %",
        ],
        &["QUEUED MAX", "MAKESPAN", "GPU H WORKED", "RESTARTING", "PER JOB"],
    );
    for outcome in outcomes {
        table.row(row(outcome));
    }
    let json = json!({
        "trace": args.trace.display().to_string(),
        "jobs": list.len(),
        "gpus": args.gpus,
        "restart_cost_ms": args.restart_cost,
        "without": args.without.iter().map(|part| part.name()).collect::<Vec<&str>>(),
        "policies": outcomes.iter().map(outcome_json).collect::<Vec<Value>>(),
    });
    Answer { json, pieces: vec![Piece::Text(text), Piece::Table(table)], ids: Vec::new() }
}

fn row(Outcome { policy, report }: &Outcome) -> Vec<String> {
    let hours = |ms: u64| format!("{:.3}", ms as f64 / 3.6e6);
    let four = |figures: &Figures| {
        [figures.mean_ms, figures.p50_ms, figures.p90_ms, figures.p99_ms].map(hours)
    };
    let mut row = vec![policy.name().to_owned()];
    row.extend(four(&report.queueing));
    row.extend(four(&report.completion));
    row.push(report.preemptions.to_string());
    row.push(format!("{:.1}", utilisation_percent(report)));
    row.extend([report.queueing.max_ms, report.makespan_ms].map(hours));
    row.push(format!("{:.1}", gpu_hours(report.gpu_ms_worked)));
    row.push(format!("{:.1}", gpu_hours(report.gpu_ms_restarting)));
    row.push(format!("{:.2}", gpu_hours(report.gpu_ms_held) / report.outcomes.len() as f64));
    row
}

fn outcome_json(Outcome { policy, report }: &Outcome) -> Value {
    let figures = |figures: &Figures| {
        json!({
            "mean": figures.mean_ms,
            "p50": figures.p50_ms,
            "p90": figures.p90_ms,
            "p99": figures.p99_ms,
            "max": figures.max_ms,
        })
    };
    json!({
        "policy": policy.name(),
        "queueing_ms": figures(&report.queueing),
        "completion_ms": figures(&report.completion),
        "makespan_ms": report.makespan_ms,
        "preemptions": report.preemptions,
        "gpus_used_max": report.gpus_used_max,
        "utilisation_percent": utilisation_percent(report),
        "gpu_hours": {
            "worked": gpu_hours(report.gpu_ms_worked),
            "restarting": gpu_hours(report.gpu_ms_restarting),
            "per_job": gpu_hours(report.gpu_ms_held) / report.outcomes.len() as f64,
        },
    })
}

fn gpu_hours(gpu_ms: u128) -> f64 {
    gpu_ms as f64 / 3.6e6
}

/// Of the GPUs that there were from the first submit to the last end, the part that was held.
fn utilisation_percent(report: &JobsReport) -> f64 {
    report.gpu_ms_held as f64 * 100.0 / (report.gpu_ms_there as f64).max(1.0)
}

/// How many jobs wait for longer than so long, a curve for each policy.
fn draw(list: &[TraceJob], outcomes: &[Outcome]) -> String {
    let curve = |Outcome { policy, report }: &Outcome| {
        let waits = list.iter().zip(&report.outcomes).map(|(job, outcome)| {
            outcome.ended.since(job.submitted).0.saturating_sub(job.duration.0) as f64 / 1000.0
        });
        let mean = report.queueing.mean_ms as f64 / 3.6e6;
        Curve { name: format!("{} {mean:.3} h", policy.name()), values: waits.collect() }
    };
    curves(&Curves {
        title: "Jobs that are queued for longer than so long; the mean of all".to_owned(),
        curves: outcomes.iter().map(curve).collect(),
    })
}
