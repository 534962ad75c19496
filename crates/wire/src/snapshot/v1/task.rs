//! Rows of tasks: sets as ranges, retries by columns, so that an array of a
//! million instances is a record like any other.

use std::collections::{BTreeMap, VecDeque};

use berth_model::{Attempt, JobId, NodeId, RangeSet, StateMs, TaskIndex, WallMs};
use berth_proto::log::v1;
use berth_state::{FailureDetail, Retry, TaskRow};

use crate::frozen::values::{allocation_to_proto, read_allocation, read_task};
use crate::problem::{Cause, Field, Problems};

pub(super) fn to_proto(job: JobId, index: TaskIndex, row: &TaskRow) -> v1::TaskRow {
    v1::TaskRow {
        job: job.0,
        task: u32::from(index.0),
        pending: ranges_to_proto(&row.pending),
        succeeded: ranges_to_proto(&row.succeeded),
        failed: ranges_to_proto(&row.failed),
        cancelled: ranges_to_proto(&row.cancelled),
        timed_out: ranges_to_proto(&row.timed_out),
        lost: ranges_to_proto(&row.lost),
        retries: retries_to_proto(&row.retries),
        failures: row.failures.iter().map(failure_to_proto).collect(),
        live: row.live,
    }
}

/// An empty set is an absent message, so that there is one encoding.
fn ranges_to_proto(set: &RangeSet) -> Option<v1::Ranges> {
    let mut spans = Vec::new();
    let mut before = 0;
    for (first, last) in set.ranges() {
        spans.extend([first - before, last - first]);
        before = last;
    }
    (!spans.is_empty()).then_some(v1::Ranges { spans })
}

fn retries_to_proto(retries: &BTreeMap<u32, Retry>) -> Option<v1::Retries> {
    if retries.is_empty() {
        return None;
    }
    let mut columns = v1::Retries::default();
    let (mut before, mut not_before) = (0, 0);
    for (instance, retry) in retries {
        columns.instances.push(instance - before);
        columns.attempts.push(retry.attempt.0);
        columns.failures.push(retry.failures);
        let step = retry.not_before.0.wrapping_sub(not_before);
        columns.not_before_state_ms.push(step.cast_signed());
        (before, not_before) = (*instance, retry.not_before.0);
    }
    Some(columns)
}

fn failure_to_proto(failure: &FailureDetail) -> v1::Failure {
    v1::Failure {
        allocation: Some(allocation_to_proto(failure.allocation)),
        node: failure.node.0,
        reason: failure.reason.clone(),
        exit_code: failure.exit_code,
        signal: failure.signal,
        stderr_tail: failure.stderr_tail.clone(),
        finished_wall_ms: failure.finished_at.0,
    }
}

pub(super) fn read(
    at: Field<'_>,
    proto: v1::TaskRow,
    problems: &mut Problems,
) -> Option<(JobId, TaskIndex, TaskRow)> {
    let index = read_task(at.named("task"), proto.task, problems)?;
    let mut failures = VecDeque::with_capacity(proto.failures.len());
    for (position, failure) in proto.failures.into_iter().enumerate() {
        let failures_at = at.named("failures");
        failures.push_back(read_failure(failures_at.item(position), failure, problems)?);
    }
    let row = TaskRow {
        pending: read_ranges(at.named("pending"), proto.pending, problems)?,
        succeeded: read_ranges(at.named("succeeded"), proto.succeeded, problems)?,
        failed: read_ranges(at.named("failed"), proto.failed, problems)?,
        cancelled: read_ranges(at.named("cancelled"), proto.cancelled, problems)?,
        timed_out: read_ranges(at.named("timed_out"), proto.timed_out, problems)?,
        lost: read_ranges(at.named("lost"), proto.lost, problems)?,
        retries: read_retries(at.named("retries"), proto.retries, problems)?,
        failures,
        live: proto.live,
    };
    Some((JobId(proto.job), index, row))
}

fn read_ranges(
    at: Field<'_>,
    proto: Option<v1::Ranges>,
    problems: &mut Problems,
) -> Option<RangeSet> {
    let mut set = RangeSet::new();
    let mut before: Option<u32> = None;
    for pair in proto.unwrap_or_default().spans.chunks(2) {
        let range = match pair {
            [gap, length] => {
                // Ranges do not touch: that would be one range.
                let apart = before.is_none() || *gap >= 2;
                let first = before.unwrap_or(0).checked_add(*gap).filter(|_| apart);
                first.and_then(|first| Some((first, first.checked_add(*length)?)))
            }
            _ => None,
        };
        let Some((first, last)) = range else {
            problems.add(at, Cause::Contradiction("are not ranges in ascending order"));
            return None;
        };
        set.insert_range(first, last);
        before = Some(last);
    }
    Some(set)
}

fn read_retries(
    at: Field<'_>,
    proto: Option<v1::Retries>,
    problems: &mut Problems,
) -> Option<BTreeMap<u32, Retry>> {
    let columns = proto.unwrap_or_default();
    let count = columns.instances.len();
    let lengths =
        [columns.attempts.len(), columns.failures.len(), columns.not_before_state_ms.len()];
    if lengths != [count; 3] {
        problems.add(at, Cause::Contradiction("the columns differ in length"));
        return None;
    }
    let mut retries = BTreeMap::new();
    let mut instance: u32 = 0;
    let mut not_before: u64 = 0;
    for (position, gap) in columns.instances.iter().enumerate() {
        let next = instance.checked_add(*gap).filter(|_| position == 0 || *gap > 0);
        let Some(next) = next else {
            problems.add(at, Cause::Contradiction("the instances do not ascend"));
            return None;
        };
        instance = next;
        not_before = not_before.wrapping_add_signed(columns.not_before_state_ms[position]);
        let retry = Retry {
            attempt: Attempt(columns.attempts[position]),
            failures: columns.failures[position],
            not_before: StateMs(not_before),
        };
        retries.insert(instance, retry);
    }
    Some(retries)
}

fn read_failure(
    at: Field<'_>,
    proto: v1::Failure,
    problems: &mut Problems,
) -> Option<FailureDetail> {
    Some(FailureDetail {
        allocation: read_allocation(at.named("allocation"), proto.allocation, problems)?,
        node: NodeId(proto.node),
        reason: proto.reason,
        exit_code: proto.exit_code,
        signal: proto.signal,
        stderr_tail: proto.stderr_tail,
        finished_at: WallMs(proto.finished_wall_ms),
    })
}
