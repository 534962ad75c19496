//! The held allocation, from its start to its durable record. Its end is decided here and nowhere else: main process
//! ended, tree empty, output drained, record on disk, in this order.

mod ending;
mod lease;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitStatus, kill_process};

use super::logs::Logs;
use super::tree::{Children, Tree, reap_others};
use super::{cgroup, unix_ms};
use crate::lane::LaneJournal;
use crate::process::{Mark, Stat};
use crate::protocol::{AllocationState, Phase, StartRequest, StatsReply, SurvivingProcess};
use crate::record::{ExitRecord, write_exit_record};
use ending::{Ending, StopPlan};
use lease::{Lease, boot_ms};

/// Pause between attempts to write a record, on a full disk for example.
const RECORD_RETRY: Duration = Duration::from_secs(1);
/// Longest reason in an exit record in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// What the outside should hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Phase,
    Ended,
}

#[derive(Debug)]
pub(super) struct Allocation {
    /// Filled as things become known.
    record: ExitRecord,
    /// Empty for the lane journal.
    record_dir: PathBuf,
    stage: Stage,
    pid: u32,
    start_ticks: u64,
    /// Readable when the main process has ended; `None` once its status is taken.
    main: Option<OwnedFd>,
    tree: Tree,
    plan: StopPlan,
    lease: Lease,
    ending: Ending,
    logs: Logs,
    cgroup_dirs: Vec<PathBuf>,
    oom_kill_count_before: u64,
    children_cpu_ticks_before: u64,
}

#[derive(Debug)]
enum Stage {
    /// Something of the tree may live.
    Alive,
    /// All ended; the record is not durable yet.
    Recording {
        retry_at: Instant,
        error: String,
    },
    Ended,
}

impl Allocation {
    /// Starts the worker. If that fails the allocation is over at once, with the reason in its record.
    pub(super) fn start(request: &StartRequest, boot_id: &str, now: Instant) -> Self {
        let variables =
            request.env.iter().map(|variable| (variable.name.as_str(), variable.value.as_str()));
        let cgroup_dirs: Vec<PathBuf> = request.cgroup_dirs.iter().map(PathBuf::from).collect();
        let logs = Logs::new(
            &request.stdout_path,
            &request.stderr_path,
            request.logs.unwrap_or_default(),
            now,
        );
        // A lane's short workers are not worth a scan of all environments at each end; ECHILD is exact for them.
        let mark = Mark::of_environment(variables).filter(|_| !request.record_dir.is_empty());
        let mut allocation = Self {
            record: ExitRecord {
                boot_id: boot_id.to_owned(),
                started_at_unix_ms: unix_ms(),
                ..ExitRecord::of(&request.allocation_id)
            },
            record_dir: PathBuf::from(&request.record_dir),
            stage: Stage::Alive,
            pid: 0,
            start_ticks: 0,
            main: None,
            tree: Tree::new(mark, cgroup_dirs.clone()),
            plan: StopPlan::new(request.stop.unwrap_or_default()),
            lease: Lease::new(request.lease_ends_at_boot_ms),
            ending: Ending::NotAsked,
            logs,
            oom_kill_count_before: oom_kill_count(&cgroup_dirs),
            cgroup_dirs,
            children_cpu_ticks_before: children_cpu_ticks(),
        };
        match super::spawn::spawn(request) {
            Ok(spawned) => {
                allocation.pid = spawned.pid;
                allocation.start_ticks = spawned.start_ticks;
                allocation.main = Some(spawned.descriptor);
                allocation.logs.follow(spawned.stdout, spawned.stderr);
            }
            Err(reason) => allocation.fail(reason, now),
        }
        allocation
    }

    pub(super) fn id(&self) -> &str {
        &self.record.allocation_id
    }

    /// Something of the tree may live.
    pub(super) fn is_alive(&self) -> bool {
        matches!(self.stage, Stage::Alive)
    }

    /// Ended, and the record is on disk.
    pub(super) fn is_durable(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    pub(super) fn state(&self) -> AllocationState {
        let (phase, record_error) = match &self.stage {
            Stage::Alive => (self.living_phase(), String::new()),
            Stage::Recording { error, .. } => (Phase::Recording, error.clone()),
            Stage::Ended => (Phase::Ended, String::new()),
        };
        let surviving = self
            .ending
            .surviving()
            .iter()
            .map(|stat| SurvivingProcess { pid: stat.pid, state: stat.state.to_string() });
        AllocationState {
            allocation_id: self.id().to_owned(),
            phase: phase.into(),
            pid: self.pid,
            start_ticks: self.start_ticks,
            started_at_unix_ms: self.record.started_at_unix_ms,
            record: self.main.is_none().then(|| self.record.clone()),
            surviving: surviving.collect(),
            record_error,
            lease_ends_at_boot_ms: self.lease.ends_at_boot_ms().filter(|_| self.is_alive()),
        }
    }

    pub(super) fn stats(&self) -> StatsReply {
        let members =
            if self.is_alive() { self.tree.members().unwrap_or_default() } else { Vec::new() };
        let living_ticks: u64 =
            members.iter().map(|stat| stat.cpu_ticks + stat.children_cpu_ticks).sum();
        let ended_ticks = children_cpu_ticks().saturating_sub(self.children_cpu_ticks_before);
        let resident_pages: u64 = members.iter().map(|stat| stat.resident_pages).sum();
        let page_bytes = u64::try_from(rustix::param::page_size()).unwrap_or_default();
        StatsReply {
            allocation_id: self.id().to_owned(),
            cpu_time_us: if self.is_alive() {
                ticks_to_us(living_ticks + ended_ticks)
            } else {
                self.record.cpu_time_us
            },
            resident_bytes: resident_pages.saturating_mul(page_bytes),
            process_count: u32::try_from(members.len()).unwrap_or(u32::MAX),
            log_bytes_dropped: self.logs.dropped_bytes(),
        }
    }

    /// What to poll for reading.
    pub(super) fn descriptors(&self, now: Instant) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.main.iter().map(AsFd::as_fd).chain(self.logs.descriptors(now))
    }

    /// When [`Allocation::advance`] is needed even if nothing happens.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Alive => {
                let now = Instant::now();
                let logs = self.logs.next_deadline(now);
                let lease = self.lease.next_look(now, boot_ms());
                [logs, self.ending.next_deadline(), lease].into_iter().flatten().min()
            }
            Stage::Recording { retry_at, .. } => Some(*retry_at),
            Stage::Ended => None,
        }
    }

    /// Signals the main process; `Ok(false)` if it has ended.
    pub(super) fn signal_main(&self, signal: Signal) -> std::io::Result<bool> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        match pid.filter(|_| self.main.is_some()) {
            // As its parent, which has not taken its status, the shim owns the pid: it cannot be another's.
            Some(pid) => Ok(kill_process(pid, signal).map(|()| true)?),
            None => Ok(false),
        }
    }

    /// Signals every process of the tree; `Ok(false)` if none is left.
    pub(super) fn signal_tree(&self, signal: Signal) -> std::io::Result<bool> {
        if self.is_alive() {
            self.tree.signal(signal).map(|signalled_count| signalled_count > 0)
        } else {
            Ok(false)
        }
    }

    /// Begins to end the tree, or shortens the grace of an end already begun.
    pub(super) fn stop(&mut self, signal: Option<Signal>, grace: Option<Duration>, now: Instant) {
        if !self.is_alive() {
            return;
        }
        self.record.stop_requested = true;
        self.ending.stop(
            &self.tree,
            signal.unwrap_or(self.plan.signal),
            grace.unwrap_or(self.plan.grace),
            now,
        );
    }

    pub(super) fn renew_lease(&mut self, ends_at_boot_ms: u64) {
        self.lease.renew(ends_at_boot_ms);
    }

    /// A worker that is stopped already is not stopped for want of a lease, but its record says that it had none.
    fn fence(&mut self, now: Instant) -> Change {
        if !self.lease.is_over(boot_ms()) {
            return Change::None;
        }
        self.lease = Lease::new(None);
        // What its main process left behind has no say in how it ended.
        self.record.lease_ended = self.main.is_some();
        if self.record.stop_requested {
            return Change::None;
        }
        self.stop(None, None, now);
        Change::Phase
    }

    /// Moves everything on as far as it goes now.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        lane: &mut Option<LaneJournal>,
        scratch: &mut [u8],
    ) -> Change {
        match self.stage {
            Stage::Alive => {
                self.logs.pump(now, scratch);
                let fenced = self.fence(now);
                let change = self.advance_tree(now);
                if change == Change::Ended {
                    self.conclude(now, scratch);
                    self.record(now, lane);
                    return if self.is_durable() { Change::Ended } else { Change::Phase };
                }
                if change == Change::None { fenced } else { change }
            }
            Stage::Recording { retry_at, .. } if now >= retry_at => {
                self.record(now, lane);
                if self.is_durable() { Change::Ended } else { Change::None }
            }
            Stage::Recording { .. } | Stage::Ended => Change::None,
        }
    }

    /// Makes the record durable, or notes why it is not and when to try again.
    pub(super) fn record(&mut self, now: Instant, lane: &mut Option<LaneJournal>) {
        let written = match lane {
            Some(lane) if self.record_dir.as_os_str().is_empty() => lane.append(&mut self.record),
            Some(_) | None => write_exit_record(&self.record_dir, &self.record),
        };
        self.stage = match written {
            Ok(()) => Stage::Ended,
            Err(error) => {
                super::log_trouble(format_args!("cannot record the end of {}: {error}", self.id()));
                Stage::Recording { retry_at: now + RECORD_RETRY, error: super::describe(&error) }
            }
        };
    }

    fn living_phase(&self) -> Phase {
        if !self.ending.surviving().is_empty() {
            Phase::Unkillable
        } else if self.record.stop_requested {
            Phase::Stopping
        } else if self.main.is_none() {
            Phase::Clearing
        } else {
            Phase::Running
        }
    }

    /// `Change::Ended` once nothing of the tree is left.
    fn advance_tree(&mut self, now: Instant) -> Change {
        let main_was_alive = self.main.is_some();
        let children = self.reap();
        if self.main.is_none() && self.is_empty(children) {
            return Change::Ended;
        }
        let mut change = Change::None;
        if self.main.is_none() && main_was_alive {
            let leftover_count = self.tree.members().map_or(0, |members| members.len());
            self.record.leftover_count = u32::try_from(leftover_count).unwrap_or(u32::MAX);
            self.ending.main_ended(&self.tree, &self.plan, now);
            change = Change::Phase;
        }
        let pressed = self.ending.press(&self.tree, &self.plan, now);
        self.record.killed_after_grace |= self.ending.has_killed();
        if pressed == Change::None { change } else { pressed }
    }

    fn reap(&mut self) -> Children {
        let mut seen = None;
        if self.main.is_some()
            && let Ok(Some(ended)) = wait4::try_wait4_pid(self.pid)
        {
            let spent = ended.rusage.utime + ended.rusage.stime;
            self.record.cpu_time_us = u64::try_from(spent.as_micros()).unwrap_or(u64::MAX);
            self.record.resident_bytes_max = ended.rusage.maxrss;
            seen = Some((ended.status.code(), ended.status.signal()));
        }
        let main = self.main.as_ref().filter(|_| seen.is_none()).map(|_| self.pid);
        let children = reap_others(main, |status: WaitStatus| {
            seen = Some((status.exit_status(), status.terminating_signal()));
        });
        if let Some((exit_code, signal)) = seen {
            self.main = None;
            self.record.exit_code = exit_code;
            self.record.signal = signal;
            self.record.main_ended_at_unix_ms = unix_ms();
        }
        children
    }

    /// No child means no descendant, for the shim is their subreaper; strangers are asked for only then.
    fn is_empty(&self, children: Children) -> bool {
        match children {
            Children::Some => false,
            Children::None => self.tree.is_without_strangers().unwrap_or(false),
        }
    }

    /// Completes the record once the tree is empty.
    fn conclude(&mut self, now: Instant, scratch: &mut [u8]) {
        self.ending = Ending::NotAsked;
        self.logs.finish(scratch);
        self.record.stderr_tail = self.logs.take_stderr_tail();
        self.record.log_bytes_dropped = self.logs.dropped_bytes();
        self.record.finished_at_unix_ms = unix_ms();
        // Orphans are not in the main process's usage; the shim's own account has them, in whole clock ticks.
        let reaped_us =
            ticks_to_us(children_cpu_ticks().saturating_sub(self.children_cpu_ticks_before));
        self.record.cpu_time_us = self.record.cpu_time_us.max(reaped_us);
        self.record.oom_killed = oom_kill_count(&self.cgroup_dirs) > self.oom_kill_count_before;
        self.stage = Stage::Recording { retry_at: now, error: String::new() };
    }

    fn fail(&mut self, mut reason: String, now: Instant) {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        self.record.start_error = Some(reason);
        self.record.finished_at_unix_ms = unix_ms();
        self.record.main_ended_at_unix_ms = self.record.finished_at_unix_ms;
        self.stage = Stage::Recording { retry_at: now, error: String::new() };
    }
}

fn oom_kill_count(cgroup_dirs: &[PathBuf]) -> u64 {
    cgroup_dirs.iter().map(|dir| cgroup::oom_kill_count(dir)).sum()
}

/// Of this shim's reaped children, ever.
fn children_cpu_ticks() -> u64 {
    Stat::read(std::process::id()).map_or(0, |stat| stat.children_cpu_ticks)
}

fn ticks_to_us(ticks: u64) -> u64 {
    ticks.saturating_mul(1_000_000) / rustix::param::clock_ticks_per_second().max(1)
}
