//! What becomes of a GPU that shows faults. Its work leaves it, it is mended, has to be
//! quiet for a while and to pass a test, and then it is as good as any other:
//!
//! ```text
//! healthy -> suspect -> healthy
//! healthy, suspect -> fenced -> mending -> soaking -> testing -> healthy
//!                                              fenced -> retired
//! ```
//!
//! It sees what a driver says and what this node's workers hold, and says what the GPU
//! may be used for and what is to be done to it. It never decides whether the cluster
//! follows: there, a brake stops a health check that is wrong everywhere at once.

mod faults;
mod health;
mod memory;
mod release;
mod sharers;
mod signs;
mod slow;
mod standing;

use std::collections::{BTreeSet, VecDeque};

use berth_model::{DurationMs, JobId, WallMs};

pub use faults::{FaultTable, Remedy};
pub use memory::{REPORT_WITHIN, Risen, Uncorrected};
pub use release::{Release, STUCK_AFTER, Stuck};
pub use sharers::{Blind, OVER_TOLERANCE, Overuse, Owner, Process, SharedGpu, over_share};
pub use signs::{Consent, Cut, Held, Presence, Recovery, Remap, Signs, Slowdown};
pub use slow::Slow;
pub use standing::{Deed, Fault, Mend, Repair, Standing, Tested};

/// Faults of applications count together for this long.
pub const APPLICATIONS_WINDOW: DurationMs = DurationMs::from_secs(24 * 3600);
/// So many different jobs whose application failed on one GPU make it a suspect.
pub const APPLICATIONS_MAX: usize = 3;
/// The second fault of one kind within this time is no accident (XID 109: what others
/// ignore, and NVIDIA's catalogue resets for).
pub const REPEAT_WINDOW: DurationMs = DurationMs::from_secs(10 * 60);
/// A suspect without another fault for this long is none any more.
pub const SUSPECT_FOR: DurationMs = DurationMs::from_secs(24 * 3600);
/// What is said of a suspect all the time begins its time anew no more often.
const SUSPECT_NOTED_EVERY: DurationMs = DurationMs::from_secs(3600);
/// Mended so often for one cause within [`RETIRE_WINDOW`], it is not mended again: somebody
/// has to look at it (gpud escalates to an inspection by the same rule).
pub const MENDS_MAX: usize = 2;
pub const RETIRE_WINDOW: DurationMs = DurationMs::from_secs(7 * 24 * 3600);
/// Mends that are remembered; more than the rule above ever looks at.
const MENDS_KEPT: usize = 16;
/// Free for so long, in two looks at least, it is free: what a driver says of a process that
/// ends, and of errors that come together, may be late.
pub const FREE_FOR: DurationMs = DurationMs::from_secs(2);
/// After a try to mend that failed.
pub const MEND_AGAIN_AFTER: DurationMs = DurationMs::from_secs(30 * 60);
/// Faults that are remembered; more than the rules above ever look at.
const FAULTS_MAX: usize = 64;
/// Evidence of one whose memory is not free.
const STUCK: &str = "its memory is in use";
/// Evidence of one that was mended and is not well all the same. How it shows differs from test to
/// test, and it is one cause.
const TEST_FAILED: &str = "its test failed";
/// Why one is not reset: it is a problem for whoever has cut it up.
const IN_PARTS: &str = "its parts would not outlive a reset: it is reset once they are taken away";
/// Evidence of one whose memory has errors that nobody reported. How many there are differs from
/// time to time, and it is one cause all the same.
const UNREPORTED: &str = "uncorrected errors of its memory without an XID";
/// The longest evidence that is kept, in bytes.
const EVIDENCE_BYTES_MAX: usize = 200;

/// What is known of one GPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gpu {
    pub standing: Standing,
    /// Why it is not healthy; empty if it is.
    pub evidence: String,
    /// Why its last reset failed.
    pub problem: Option<String>,
    /// Nothing is wrong enough to disturb anybody: once nobody uses it, it is reset.
    pub reset_when_free: bool,
    /// Nobody has used it since, nor any that a reset of it would disturb; not kept over restarts.
    pub alone_since: Option<WallMs>,
    /// The newest last.
    pub faults: VecDeque<Fault>,
    /// How it was mended, the newest last.
    pub mends: VecDeque<Mend>,
    pub slow: Option<Slow>,
    /// What it counts of errors of its memory; it never told so far.
    pub uncorrected: Option<Uncorrected>,
}

/// What does not change from look to look.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    pub table: &'a FaultTable,
    /// How long a mended GPU has to be quiet.
    pub soak: DurationMs,
    /// Of this run of the host.
    pub boot_id: &'a str,
}

impl Default for Gpu {
    fn default() -> Gpu {
        Gpu {
            standing: Standing::Healthy,
            evidence: String::new(),
            problem: None,
            reset_when_free: false,
            alone_since: None,
            faults: VecDeque::new(),
            mends: VecDeque::new(),
            slow: None,
            uncorrected: None,
        }
    }
}

impl Gpu {
    /// Takes in an error that the driver reports.
    pub fn happened(&mut self, rules: Rules<'_>, xid: u64, jobs: BTreeSet<JobId>, now: WallMs) {
        let lately = |fault: &Fault| fault.xid == xid && now.since(fault.at) < REPEAT_WINDOW;
        let is_repeated = self.faults.iter().any(lately);
        self.faults.retain(|fault| fault.xid != xid || fault.jobs != jobs);
        while self.faults.len() >= FAULTS_MAX {
            self.faults.pop_front();
        }
        self.faults.push_back(Fault { at: now, xid, jobs });
        let evidence = match xid {
            0 => "an error that it does not name".to_owned(),
            _ => format!("XID {xid}"),
        };
        match rules.table.remedy(xid) {
            // What the driver says that it needs, the next look shows.
            Remedy::Note | Remedy::Ask => {}
            Remedy::Application => self.blame_applications(rules.table, now),
            Remedy::Suspect => self.suspect(evidence, now),
            Remedy::ResetIfRepeated if is_repeated => {
                let evidence = format!("XID {xid} twice in ten minutes");
                self.fence(Repair::Reset, evidence);
            }
            Remedy::ResetIfRepeated => self.suspect(evidence, now),
            Remedy::Link => {
                self.suspect(format!("{evidence}: its way to other GPUs is broken"), now);
                self.reset_when_free = true;
            }
            Remedy::Reset => self.fence(Repair::Reset, evidence),
            Remedy::Reboot => self.fence(reboot(rules), evidence),
        }
    }

    /// Its memory is still in use long after its last worker.
    pub fn stuck(&mut self, detail: &str) {
        self.fence(Repair::Reset, format!("{STUCK} {detail}"));
    }

    /// Whether it is fenced for nothing but its memory.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        let reset = matches!(self.standing, Standing::Fenced { repair: Repair::Reset, .. });
        reset && self.evidence.starts_with(STUCK)
    }

    /// Its memory is free after all: nothing else was wrong with it.
    pub fn came_free(&mut self) {
        if self.is_stuck() {
            self.recover();
        }
    }

    /// Takes in what a look shows.
    pub fn looked(&mut self, rules: Rules<'_>, signs: Signs, now: WallMs) {
        match signs.recovery {
            None | Some(Recovery::Nothing) => {}
            Some(Recovery::Reset | Recovery::DrainAndReset) => {
                self.fence(Repair::Reset, "the driver asks for a reset".to_owned());
            }
            Some(Recovery::Reboot) => {
                self.fence(reboot(rules), "the driver asks for a reboot".to_owned());
            }
            Some(Recovery::DrainPeers) => {
                self.suspect("the driver asks for no work across GPUs".to_owned(), now);
            }
            Some(Recovery::Other(number)) => {
                self.suspect(format!("the driver asks for action {number}"), now);
            }
        }
        match signs.remap {
            None | Some(Remap::Done) => {}
            Some(Remap::Pending) => self.reset_when_free = true,
            Some(Remap::Failed) => self.retire("no spare rows of memory are left".to_owned()),
        }
        self.slow = slow::seen(self.slow.take(), signs.slowdown, now);
        self.count_memory_errors(rules, signs.uncorrected, now);
        let alone = signs.is_alone() && signs.presence == Presence::Answers;
        self.alone_since = self.alone_since.or(Some(now)).filter(|_| alone);
        if let Standing::Fenced { free_since, .. } = &mut self.standing {
            *free_since = free_since.or(Some(now)).filter(|_| alone);
        }
        match signs.presence {
            Presence::Answers => self.answered(rules, signs, now),
            Presence::Unknown => self.begin_soak_anew(now),
            Presence::Gone => self.gone(rules),
        }
    }

    /// The end of a reset.
    pub fn mended(&mut self, outcome: Result<(), String>, now: WallMs) {
        if self.standing != Standing::Mending {
            return;
        }
        match outcome {
            Ok(()) => self.soak(now),
            Err(problem) => {
                self.problem = Some(short(problem));
                self.standing = Standing::Fenced {
                    repair: Repair::Reset,
                    tried_at: Some(now),
                    free_since: None,
                    was_gone: false,
                };
            }
        }
    }

    /// The end of a test.
    pub fn tested(&mut self, outcome: Tested, now: WallMs) {
        if self.standing != Standing::Testing {
            return;
        }
        match outcome {
            Tested::Fine => self.recover(),
            // It proves nothing of the GPU.
            Tested::Undone(problem) => {
                self.problem = Some(short(problem));
                self.standing = Standing::Soaking { since: now };
            }
            Tested::Wrong(problem) => {
                self.standing = Standing::Healthy;
                self.fence(Repair::Reset, format!("{TEST_FAILED}: {problem}"));
            }
        }
    }

    /// What is to be done now; asked for again, it is done again.
    pub fn deed(&self) -> Option<Deed> {
        match self.standing {
            Standing::Mending => Some(Deed::Reset),
            Standing::Testing => Some(Deed::Test),
            Standing::Healthy
            | Standing::Suspect { .. }
            | Standing::Fenced { .. }
            | Standing::Soaking { .. }
            | Standing::Retired => None,
        }
    }

    /// It is there: it goes on on its way, if it may.
    fn answered(&mut self, rules: Rules<'_>, signs: Signs, now: WallMs) {
        let free = signs.held == Held::Free;
        self.tell_of_parts(signs.cut);
        match &self.standing {
            Standing::Healthy | Standing::Suspect { .. }
                // A job that begins anew is away for a moment only.
                if self.reset_when_free
                    && self.alone_since.is_some_and(|since| now.since(since) >= FREE_FOR)
                    && signs.cut == Cut::Whole =>
            {
                let evidence = match self.evidence.as_str() {
                    "" => "rows of its memory are exchanged at a reset".to_owned(),
                    evidence => evidence.to_owned(),
                };
                self.fence(Repair::Reset, evidence);
            }
            Standing::Suspect { since } if now.since(*since) >= SUSPECT_FOR => self.recover(),
            Standing::Fenced { repair: Repair::Reboot { boot_id }, .. }
                if boot_id != rules.boot_id =>
            {
                self.back(rules, signs.recovery, now);
            }
            Standing::Fenced { was_gone: true, .. } => self.back(rules, signs.recovery, now),
            Standing::Fenced {
                repair: Repair::Reset, tried_at, free_since: Some(since), ..
            } if signs.is_alone()
                && signs.cut == Cut::Whole
                && signs.consent == Consent::Given
                && now.since(*since) >= FREE_FOR =>
            {
                let is_due = tried_at.is_none_or(|at| now.since(at) >= MEND_AGAIN_AFTER);
                if !self.retired_by_repairs(now) && is_due {
                    self.standing = Standing::Mending;
                }
            }
            Standing::Soaking { since } if now.since(*since) >= rules.soak && free => {
                self.standing = Standing::Testing;
            }
            Standing::Healthy
            | Standing::Suspect { .. }
            | Standing::Fenced { .. }
            | Standing::Mending
            | Standing::Soaking { .. }
            | Standing::Testing
            | Standing::Retired => {}
        }
    }

    /// What it waited for has come, if the driver asks for nothing else.
    fn back(&mut self, rules: Rules<'_>, recovery: Option<Recovery>, now: WallMs) {
        match recovery {
            Some(Recovery::Reset | Recovery::DrainAndReset) => {
                self.standing = Standing::fenced(Repair::Reset);
            }
            Some(Recovery::Reboot) => self.standing = Standing::fenced(reboot(rules)),
            None | Some(Recovery::Nothing | Recovery::DrainPeers | Recovery::Other(_)) => {
                self.soak(now);
            }
        }
    }

    /// One that waits for its reset says so if that cannot be for its parts.
    fn tell_of_parts(&mut self, cut: Cut) {
        if !matches!(self.standing, Standing::Fenced { repair: Repair::Reset, .. }) {
            return;
        }
        match cut {
            Cut::InParts => self.problem = Some(IN_PARTS.to_owned()),
            Cut::Whole if self.problem.as_deref() == Some(IN_PARTS) => self.problem = None,
            Cut::Whole => {}
        }
    }

    fn gone(&mut self, rules: Rules<'_>) {
        self.fence(reboot(rules), "it has fallen off the bus".to_owned());
        if let Standing::Fenced { was_gone, .. } = &mut self.standing {
            *was_gone = true;
        }
    }

    /// The second witness of what the driver should have reported.
    fn count_memory_errors(&mut self, rules: Rules<'_>, counted: Option<u64>, now: WallMs) {
        let (known, unreported) = memory::seen(self.uncorrected, counted, &self.faults, now);
        self.uncorrected = known;
        let remedy = memory::remedy(rules.table.remedy(memory::WORTH_XID));
        let Some(remedy) = remedy.filter(|_| unreported) else { return };
        let evidence = UNREPORTED.to_owned();
        match remedy {
            Remedy::Note
            | Remedy::Ask
            | Remedy::Application
            | Remedy::Suspect
            | Remedy::ResetIfRepeated
            | Remedy::Link => self.suspect(evidence, now),
            Remedy::Reset => self.fence(Repair::Reset, evidence),
            Remedy::Reboot => self.fence(reboot(rules), evidence),
        }
    }

    fn begin_soak_anew(&mut self, now: WallMs) {
        if let Standing::Soaking { .. } = self.standing {
            self.standing = Standing::Soaking { since: now };
        }
    }

    fn blame_applications(&mut self, table: &FaultTable, now: WallMs) {
        let jobs: BTreeSet<JobId> = self
            .faults
            .iter()
            .filter(|fault| now.since(fault.at) < APPLICATIONS_WINDOW)
            .filter(|fault| table.remedy(fault.xid) == Remedy::Application)
            .flat_map(|fault| fault.jobs.iter().copied())
            .collect();
        if jobs.len() >= APPLICATIONS_MAX {
            self.suspect(format!("faults in {} different jobs in a day", jobs.len()), now);
        }
    }

    /// Its evidence, without what differs from time to time.
    fn cause(&self) -> String {
        let alike = [STUCK, TEST_FAILED].into_iter().find(|cause| self.evidence.starts_with(cause));
        alike.map_or_else(|| self.evidence.clone(), str::to_owned)
    }

    /// Retires it if it was mended too often; whether it did.
    fn retired_by_repairs(&mut self, now: WallMs) -> bool {
        let cause = self.cause();
        let alike = |mend: &&Mend| mend.cause == cause && now.since(mend.at) < RETIRE_WINDOW;
        let too_often = self.mends.iter().filter(alike).count() >= MENDS_MAX;
        if too_often {
            self.retire(format!("{}, after {MENDS_MAX} repairs", self.evidence));
        }
        too_often
    }

    /// Nothing is wrong with it any more.
    fn recover(&mut self) {
        self.standing = Standing::Healthy;
        self.evidence.clear();
        self.problem = None;
    }

    /// A suspect, unless it is worse already.
    fn suspect(&mut self, evidence: String, now: WallMs) {
        match self.standing {
            // What is said all the time is taken down now and then.
            Standing::Suspect { since }
                if self.evidence == evidence && now.since(since) < SUSPECT_NOTED_EVERY => {}
            Standing::Healthy | Standing::Suspect { .. } => {
                self.evidence = short(evidence);
                self.standing = Standing::Suspect { since: now };
            }
            // It has not been quiet.
            Standing::Soaking { .. } | Standing::Testing => {
                self.standing = Standing::Soaking { since: now };
            }
            Standing::Fenced { .. } | Standing::Mending | Standing::Retired => {}
        }
    }

    /// Fenced, unless it is, or worse.
    fn fence(&mut self, repair: Repair, evidence: String) {
        let is_worse = match &self.standing {
            Standing::Healthy
            | Standing::Suspect { .. }
            | Standing::Soaking { .. }
            | Standing::Testing => true,
            Standing::Fenced { repair: before, .. } => {
                let mends_more = *before == Repair::Reset && repair != Repair::Reset;
                // Any fault is more than memory that may come free.
                let says_more = self.evidence.starts_with(STUCK) && !evidence.starts_with(STUCK);
                mends_more || says_more
            }
            // What it says while it is reset belongs to the reset.
            Standing::Mending | Standing::Retired => false,
        };
        if is_worse {
            (self.evidence, self.problem) = (short(evidence), None);
            self.standing = Standing::fenced(repair);
        }
    }

    fn retire(&mut self, evidence: String) {
        if self.standing != Standing::Retired {
            self.evidence = short(evidence);
            self.standing = Standing::Retired;
        }
    }

    fn soak(&mut self, now: WallMs) {
        if self.retired_by_repairs(now) {
            return;
        }
        self.mends.retain(|mend| now.since(mend.at) < RETIRE_WINDOW);
        while self.mends.len() >= MENDS_KEPT {
            self.mends.pop_front();
        }
        self.mends.push_back(Mend { at: now, cause: self.cause() });
        self.problem = None;
        self.reset_when_free = false;
        self.standing = Standing::Soaking { since: now };
    }
}

fn reboot(rules: Rules<'_>) -> Repair {
    Repair::Reboot { boot_id: rules.boot_id.to_owned() }
}

/// Without its end, if it is too long.
fn short(mut evidence: String) -> String {
    evidence.truncate(evidence.floor_char_boundary(EVIDENCE_BYTES_MAX));
    evidence
}

#[cfg(test)]
mod tests;
