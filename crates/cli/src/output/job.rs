//! Jobs.

use berth_proto::v1::{Allocation, Job, JobKind, TaskStatus};
use serde_json::{Value, json};

use super::{Answer, Piece, Table, ago, allocation_json, rfc3339, rfc3339_or_null};

pub(crate) fn kind_name(kind: i32) -> &'static str {
    match JobKind::try_from(kind) {
        Ok(JobKind::Batch) => "batch",
        Ok(JobKind::Service) => "service",
        Ok(JobKind::Daemon) => "daemon",
        // Of a newer scheduler.
        Ok(JobKind::Unspecified) | Err(_) => "unknown",
    }
}

pub(crate) fn job_json(job: &Job, allocations: &[Allocation]) -> Value {
    let tasks: Vec<Value> = job.tasks.iter().map(task_json).collect();
    let allocations: Vec<Value> = allocations.iter().map(allocation_json).collect();
    json!({
        "id": job.id,
        "name": job.name,
        "namespace": job.namespace,
        "kind": kind_name(job.kind),
        "state": job.state,
        "reason": job.reason,
        "version": job.version,
        "priority": job.priority,
        "held": job.held,
        "key": job.key,
        "submitted_at": rfc3339(job.submitted_at_ms),
        "started_at": rfc3339_or_null(job.started_at_ms),
        "finished_at": rfc3339_or_null(job.finished_at_ms),
        "tasks": tasks,
        "allocations": allocations,
    })
}

fn task_json(task: &TaskStatus) -> Value {
    let failures: Vec<Value> = task
        .failures
        .iter()
        .map(|failure| {
            json!({
                "allocation_id": failure.allocation_id,
                "node": failure.node,
                "reason": failure.reason,
                "exit_code": failure.exit_code,
                "signal": failure.signal,
                "stderr_tail": failure.stderr_tail,
                "finished_at": rfc3339(failure.finished_at_ms),
            })
        })
        .collect();
    json!({
        "name": task.name,
        "count": task.count,
        "pending": task.pending,
        "live": task.live,
        "running": task.running,
        "ready": task.ready,
        "succeeded": task.succeeded,
        "failed": task.failed,
        "cancelled": task.cancelled,
        "timed_out": task.timed_out,
        "lost": task.lost,
        "failures": failures,
    })
}

pub(crate) fn job_table(jobs: &[Job], now_ms: u64) -> Table {
    let mut table = Table::new(
        &["ID", "NAME", "KIND", "STATE", "RUNNING", "DONE", "FAILED", "AGE"],
        &["NAMESPACE", "VERSION", "PRIORITY", "SUBMITTED", "FINISHED", "REASON"],
    );
    for job in jobs {
        let sum = |part: fn(&TaskStatus) -> u64| job.tasks.iter().map(part).sum::<u64>();
        let count = sum(|task| u64::from(task.count));
        let failed = sum(|task| task.failed + task.timed_out + task.lost);
        let state = if job.held { format!("{} (held)", job.state) } else { job.state.clone() };
        table.row(vec![
            job.id.to_string(),
            job.name.clone(),
            kind_name(job.kind).to_owned(),
            state,
            format!("{}/{count}", sum(|task| task.running)),
            sum(|task| task.succeeded).to_string(),
            failed.to_string(),
            ago(now_ms, job.submitted_at_ms),
            job.namespace.clone(),
            job.version.to_string(),
            job.priority.to_string(),
            rfc3339(job.submitted_at_ms),
            job.finished_at_ms.map(rfc3339).unwrap_or_default(),
            job.reason.clone(),
        ]);
    }
    table
}

/// A list of jobs. Their allocations are not loaded, and so an empty list each.
pub(crate) fn jobs_answer(jobs: &[Job], now_ms: u64) -> Answer {
    Answer {
        json: jobs.iter().map(|job| job_json(job, &[])).collect(),
        pieces: vec![Piece::Table(job_table(jobs, now_ms))],
        ids: jobs.iter().map(|job| job.id.to_string()).collect(),
    }
}
