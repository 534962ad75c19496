//! How an allocation ended, and what is kept of it.

use std::collections::BTreeMap;
use std::path::Path;

use berth_model::{AllocationId, EndCause, EndReport, WallMs};
use berth_shim::lane::read_lane_records;
use berth_shim::record::CANNOT_ENTER_CGROUP;
use berth_shim::{ExitRecord, RecordError, read_exit_record};
use berth_supervise::{StopReason, Worker};
use tracing::{debug, info, warn};

use super::Node;
use crate::allocation_dir::{AllocationDir, set_aside};
use crate::clock;

/// Directories of forgotten allocations that are kept for their output.
const RETIRED_MAX: usize = 1_000;
/// Above this share of the disk in use, none is kept.
const DISK_USED_PERCENT_MAX: u64 = 80;

/// An end that no worker brought about.
pub fn without_worker(cause: EndCause, reason: String) -> EndReport {
    EndReport {
        cause,
        exit_code: None,
        signal: None,
        reason,
        stderr_tail: String::new(),
        started_at: None,
        finished_at: clock::wall(),
    }
}

/// An end as a shim recorded it.
pub fn from_record(record: &ExitRecord, stop_reason: Option<StopReason>) -> EndReport {
    let cause = match (&record.start_error, record.oom_killed, stop_reason) {
        (Some(error), _, _) if error.starts_with(CANNOT_ENTER_CGROUP) => EndCause::HostFault,
        (Some(_), _, _) => EndCause::CannotStart,
        (None, true, _) => EndCause::OutOfMemory,
        (None, false, Some(StopReason::Fenced)) => EndCause::Fenced,
        (None, false, _) if record.lease_ended => EndCause::Fenced,
        (None, false, _) if record.stop_requested => EndCause::Stopped,
        (None, false, _) => EndCause::Exited,
    };
    EndReport {
        cause,
        exit_code: record.exit_code,
        signal: record.signal,
        reason: record.start_error.clone().unwrap_or_default(),
        stderr_tail: String::from_utf8_lossy(&record.stderr_tail).into_owned(),
        started_at: (record.started_at_unix_ms > 0).then_some(WallMs(record.started_at_unix_ms)),
        finished_at: WallMs(record.finished_at_unix_ms),
    }
}

/// The end of `id` if one was recorded: in its own directory, else in the
/// journal of a shim. Reads files.
pub fn recorded(dir: &AllocationDir, shims: &Path, id: AllocationId) -> Option<EndReport> {
    recorded_beside(dir, id).or_else(|| Some(from_record(&lane_records(shims).remove(&id)?, None)))
}

/// The end of `id` if one was recorded in its own directory. A garbled record
/// is set aside and is an end that nobody saw.
pub fn recorded_beside(dir: &AllocationDir, id: AllocationId) -> Option<EndReport> {
    match read_exit_record(dir.path()) {
        Ok(record) if record.allocation_id == id.to_string() => Some(from_record(&record, None)),
        Err(RecordError::Garbled { path, problem }) => {
            let aside = set_aside(&path);
            let reason = format!("its exit record is garbled ({problem}): {}", aside.display());
            warn!(%id, reason, "exit record is set aside");
            Some(without_worker(EndCause::Unseen, reason))
        }
        Ok(_) | Err(RecordError::Missing { .. } | RecordError::Io { .. }) => None,
    }
}

/// The ends in the journals of all shims below `shims`, dead ones included.
pub fn lane_records(shims: &Path) -> BTreeMap<AllocationId, ExitRecord> {
    let dirs = std::fs::read_dir(shims).into_iter().flatten().flatten();
    let journals = dirs.filter_map(|shim| read_lane_records(&shim.path()).ok());
    journals
        .flatten()
        .filter_map(|record| Some((record.allocation_id.parse().ok()?, record)))
        .collect()
}

/// What a confined worker has left in its `/tmp` is of use to nobody.
fn remove_temporary(dir: AllocationDir) {
    if dir.temporary().exists() {
        // However much it is.
        tokio::task::spawn_blocking(move || {
            // It goes with its directory otherwise.
            let _ = std::fs::remove_dir_all(dir.temporary());
        });
    }
}

impl Node {
    /// Takes the end of an allocation; a second one is ignored.
    pub(super) fn ended(&mut self, id: AllocationId, end: EndReport) {
        if self.has_container(id) {
            self.clear_container(id, end);
        } else {
            let end = self.with_problem(id, end);
            self.ended_wholly(id, end);
        }
    }

    /// Nothing of it is left.
    pub(super) fn ended_wholly(&mut self, id: AllocationId, mut end: EndReport) {
        if self.workers.get(&id).is_none_or(|worker| worker.end.is_some()) {
            return;
        }
        if let Some(worker) = self.workers.get_mut(&id)
            && let Some(reason) = worker.over_limit.take()
            && worker.stop_reason.is_none()
        {
            end = EndReport { cause: EndCause::Exited, reason, ..end };
        }
        end = self.with_overuse(id, end);
        self.unbound(id, &mut end);
        remove_temporary(self.dir_of(id));
        let Some(worker) = self.workers.get_mut(&id) else { return };
        // One line for each of a million successes helps nobody.
        if end.exit_code == Some(0) {
            debug!(%id, "allocation succeeded");
        } else {
            info!(%id, cause = ?end.cause, summary = end.summary(), "allocation ended");
        }
        metrics::counter!("berth_agent_ends_total").increment(1);
        worker.end = Some(end);
        worker.ended.send_replace(true);
        self.checks.remove(&id);
        self.set_worker(id, Worker::Ended);
        self.leave_devices(id);
    }

    /// Everybody knows of the end: the shim is free for the next one.
    pub(super) fn release_shim_of(&mut self, id: AllocationId) {
        if let Some(shim) = self.workers.get_mut(&id).and_then(|worker| worker.shim.take()) {
            self.pool.release(shim);
        }
    }

    /// Keeps the directory of a forgotten allocation for a while, for its
    /// output, and removes the oldest in its place.
    pub(super) fn forget_dir_later(&mut self, id: AllocationId) {
        self.retired.push_back((id, self.journal.sequence()));
        let full = disk_is_full(&self.settings.dir.allocations());
        let kept_max = if full { 0 } else { RETIRED_MAX };
        while self.retired.len() > kept_max {
            // The row must be gone from the disk before the directory is: the
            // directory is what keeps a restarted agent from beginning anew.
            let Some((oldest, gone_at)) = self.retired.front().copied() else { return };
            if gone_at > self.durable_sequence {
                return;
            }
            self.retired.pop_front();
            let dir = self.dir_of(oldest);
            tokio::task::spawn_blocking(move || {
                if let Err(error) = std::fs::remove_dir_all(dir.path()) {
                    debug!(id = %oldest, %error, "allocation directory is left");
                }
            });
        }
    }
}

fn disk_is_full(path: &Path) -> bool {
    let Ok(disk) = rustix::fs::statvfs(path) else { return false };
    let used = disk.f_blocks.saturating_sub(disk.f_bfree);
    used_percent(used, disk.f_bavail) > DISK_USED_PERCENT_MAX
}

/// As `df` counts: of what is used and what may still be, without the blocks
/// that are held back for others.
fn used_percent(used: u64, available: u64) -> u64 {
    used.saturating_mul(100) / used.saturating_add(available).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_are_held_back_are_not_used() {
        // 252 blocks, 160 of them held back.
        assert_eq!(used_percent(60, 32), 65);
        assert_eq!(used_percent(0, 0), 0);
        assert_eq!(used_percent(10, 0), 100);
    }

    #[test]
    fn a_record_tells_why() {
        let record = ExitRecord { exit_code: Some(3), ..ExitRecord::of("1.0.0.1") };
        let signalled = ExitRecord { signal: Some(15), ..ExitRecord::of("1.0.0.1") };
        let stopped = ExitRecord { stop_requested: true, ..signalled.clone() };
        let lapsed = ExitRecord { lease_ended: true, ..stopped.clone() };
        let killed = ExitRecord { oom_killed: true, signal: Some(9), ..record.clone() };
        let never = ExitRecord {
            exit_code: None,
            start_error: Some("no such file".to_owned()),
            ..record.clone()
        };
        let unheld = ExitRecord {
            start_error: Some(format!("{CANNOT_ENTER_CGROUP} `/x`: gone")),
            ..never.clone()
        };
        for (record, stop_reason, expected) in [
            (&record, None, EndCause::Exited),
            (&signalled, None, EndCause::Exited),
            (&stopped, Some(StopReason::Desired), EndCause::Stopped),
            (&stopped, Some(StopReason::Fenced), EndCause::Fenced),
            // Ended by its shim, or by an agent that is gone.
            (&lapsed, None, EndCause::Fenced),
            (&killed, None, EndCause::OutOfMemory),
            (&never, None, EndCause::CannotStart),
            (&unheld, None, EndCause::HostFault),
        ] {
            assert_eq!(from_record(record, stop_reason).cause, expected, "{record:?}");
        }
        assert_eq!(from_record(&never, None).reason, "no such file");
    }
}
