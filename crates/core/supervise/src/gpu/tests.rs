use berth_model::DeviceHealth;

use super::*;

const SOAK: DurationMs = DurationMs::from_secs(60);
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// A GPU, its host and the time.
struct Trial {
    gpu: Gpu,
    table: FaultTable,
    boot_id: &'static str,
    now: u64,
}

/// Nothing is wrong, and nobody uses it.
const FREE: Signs = Signs {
    presence: Presence::Answers,
    recovery: Some(Recovery::Nothing),
    remap: Some(Remap::Done),
    slowdown: None,
    uncorrected: Some(0),
    held: Held::Free,
    peers: Held::Free,
    consent: Consent::Given,
    cut: Cut::Whole,
};
const HELD: Signs = Signs { held: Held::Held, ..FREE };
const GONE: Signs = Signs { presence: Presence::Gone, recovery: None, remap: None, ..HELD };
const UNKNOWN: Signs = Signs { presence: Presence::Unknown, ..GONE };

impl Trial {
    fn new() -> Trial {
        let table = [
            (13, Remedy::Application),
            (48, Remedy::Reset),
            (63, Remedy::Note),
            (74, Remedy::Link),
            (79, Remedy::Reboot),
            (109, Remedy::ResetIfRepeated),
            (154, Remedy::Ask),
        ];
        let table = FaultTable(table.into());
        Trial { gpu: Gpu::default(), table, boot_id: "one", now: 1_000_000 }
    }

    fn xid(&mut self, xid: u64, jobs: &[u64]) -> &mut Trial {
        let rules = Rules { table: &self.table, soak: SOAK, boot_id: self.boot_id };
        let jobs = jobs.iter().copied().map(JobId).collect();
        self.gpu.happened(rules, xid, jobs, WallMs(self.now));
        self
    }

    /// A look after so many milliseconds.
    fn look(&mut self, after: u64, signs: Signs) -> &mut Trial {
        self.now += after;
        let rules = Rules { table: &self.table, soak: SOAK, boot_id: self.boot_id };
        self.gpu.looked(rules, signs, WallMs(self.now));
        self
    }

    /// Until it is free for long enough.
    fn free(&mut self) -> &mut Trial {
        self.look(0, FREE).look(FREE_FOR.0, FREE)
    }

    fn mended(&mut self, outcome: Result<(), &str>) -> &mut Trial {
        self.gpu.mended(outcome.map_err(str::to_owned), WallMs(self.now));
        self
    }

    fn tested(&mut self, outcome: Tested) -> &mut Trial {
        self.gpu.tested(outcome, WallMs(self.now));
        self
    }

    /// Mended, quiet, tested.
    fn mend(&mut self) -> &mut Trial {
        assert_eq!(self.gpu.deed(), Some(Deed::Reset));
        self.mended(Ok(())).look(MINUTE, FREE);
        assert_eq!(self.gpu.deed(), Some(Deed::Test));
        self.tested(Tested::Fine)
    }

    #[track_caller]
    fn is(&mut self, health: DeviceHealth, reason: &str) -> &mut Trial {
        let found = self.gpu.health();
        assert_eq!(found.0, health, "{}", found.1);
        assert!(found.1.contains(reason), "{}", found.1);
        assert_eq!(reason.is_empty(), found.1.is_empty(), "{}", found.1);
        self
    }
}

/// What a test may find.
fn wrong() -> Tested {
    Tested::Wrong("wrong bits".to_owned())
}

use DeviceHealth::{Cordoned, Fenced, Healthy, Suspect};

#[test]
fn a_fault_of_the_gpu_moves_its_work_and_it_comes_back_mended_quiet_and_tested() {
    let mut trial = Trial::new();
    trial.xid(48, &[1]).is(Fenced, "XID 48: it is to be reset");
    trial.look(1_000, HELD).is(Fenced, "XID 48");
    assert_eq!(trial.gpu.deed(), None, "somebody still uses it");
    let open = Signs { consent: Consent::Open, ..FREE };
    trial.look(1_000, open).look(FREE_FOR.0, open).look(1_000, open).is(Fenced, "XID 48");
    assert_eq!(trial.gpu.deed(), None, "the cluster may go on using it");
    trial.look(500, HELD).look(500, FREE).look(500, HELD).look(500, FREE).look(1_500, FREE);
    assert_eq!(trial.gpu.deed(), None, "not for long enough");
    trial.look(500, FREE).is(Fenced, "XID 48");
    assert_eq!(trial.gpu.deed(), Some(Deed::Reset));
    // What it says while it is reset belongs to the reset.
    trial.xid(48, &[]).mended(Ok(())).is(Cordoned, "quiet");
    trial.look(59_000, FREE).is(Cordoned, "quiet");
    trial.look(1_000, FREE).is(Cordoned, "quiet");
    assert_eq!(trial.gpu.deed(), Some(Deed::Test));
    trial.tested(Tested::Fine).is(Healthy, "");
}

#[test]
fn the_quiet_begins_anew_with_whatever_disturbs_it() {
    let mut trial = Trial::new();
    trial.xid(48, &[]).free().mended(Ok(()));
    trial.look(50_000, UNKNOWN).look(50_000, FREE).is(Cordoned, "quiet");
    trial.look(10_000, HELD);
    assert_eq!(trial.gpu.deed(), None);
    trial.look(1_000, FREE);
    assert_eq!(trial.gpu.deed(), Some(Deed::Test));
    // What nobody knows is no reason to mend it again.
    trial.xid(9_999, &[]).is(Cordoned, "quiet").look(59_999, FREE);
    assert_eq!(trial.gpu.deed(), None);
    trial.look(1, FREE).tested(Tested::Undone("no such program".to_owned()));
    trial.is(Cordoned, "quiet").look(MINUTE, FREE).tested(Tested::Fine).is(Healthy, "");
}

#[test]
fn what_the_test_finds_fences_it_again_and_the_third_time_it_is_retired() {
    let mut trial = Trial::new();
    trial.xid(48, &[]).free().mended(Ok(())).look(MINUTE, FREE);
    trial.tested(wrong()).is(Fenced, "its test failed: wrong bits");
    // It shows in another way each time.
    for problem in ["it does not return", "other bits"] {
        let wrong = Tested::Wrong(problem.to_owned());
        trial.free().mended(Ok(())).look(MINUTE, FREE).tested(wrong);
    }
    trial.free().is(Fenced, "other bits, after 2 repairs: it is to be exchanged");
    trial.look(0, FREE).xid(48, &[]).is(Fenced, "to be exchanged");
    // So is one that comes and goes.
    let mut flapping = Trial::new();
    for _ in 0..3 {
        flapping.look(0, GONE).look(0, FREE).look(MINUTE, FREE).tested(Tested::Fine);
    }
    flapping.is(Fenced, "after 2 repairs: it is to be exchanged");
    assert_eq!(trial.gpu.deed(), None);
    // Another cause, or the same a week later, is another matter.
    let mut trial = Trial::new();
    for (after, xid) in [(0, 48), (0, 48), (0, 109), (169 * HOUR, 48), (0, 48)] {
        trial.look(after, FREE).xid(xid, &[]).xid(xid, &[]).free();
        trial.mend().is(Healthy, "");
    }
}

#[test]
fn a_reset_that_fails_is_tried_again_later() {
    let mut trial = Trial::new();
    trial.xid(48, &[]).free().mended(Err("in use by 4711"));
    trial.is(Fenced, "XID 48; a reset failed: in use by 4711");
    trial.look(0, FREE).look(29 * MINUTE, FREE);
    assert_eq!(trial.gpu.deed(), None);
    trial.look(MINUTE, FREE).mend().is(Healthy, "");
}

#[test]
fn one_that_is_off_the_bus_waits_for_a_boot_or_for_whoever_brings_it_back() {
    let mut trial = Trial::new();
    trial.xid(79, &[]).is(Fenced, "XID 79: the host must be started again");
    trial.look(HOUR, FREE).look(HOUR, FREE).is(Fenced, "XID 79");
    trial.boot_id = "two";
    trial.look(0, UNKNOWN).is(Fenced, "XID 79");
    trial.look(0, FREE).is(Cordoned, "quiet");
    trial.look(MINUTE, FREE).tested(Tested::Fine).is(Healthy, "");

    let mut trial = Trial::new();
    trial.look(0, GONE).is(Fenced, "fallen off the bus: the host must be started again");
    trial.look(HOUR, UNKNOWN).is(Fenced, "fallen off the bus");
    trial.look(HOUR, FREE).look(MINUTE, FREE).tested(Tested::Fine).is(Healthy, "");
    trial.xid(48, &[]).xid(79, &[]).is(Fenced, "XID 79: the host must");
}

#[test]
fn f52_what_applications_do_is_not_the_gpus_fault() {
    let mut trial = Trial::new();
    trial.xid(13, &[2]);
    for _ in 0..100 {
        trial.xid(13, &[1]);
    }
    trial.look(0, HELD).is(Healthy, "");
    trial.now += 23 * HOUR;
    trial.xid(13, &[3]).is(Suspect, "3 different jobs");
    trial.look(24 * HOUR - 1, HELD).is(Suspect, "3 different jobs");
    trial.look(1, HELD).is(Healthy, "");
    trial.xid(13, &[1]).xid(13, &[2]).is(Healthy, "");
}

#[test]
fn suspects_become_none_by_themselves_and_fenced_by_a_repetition() {
    let mut trial = Trial::new();
    trial.xid(109, &[]).is(Suspect, "XID 109");
    trial.look(11 * MINUTE, HELD).xid(109, &[]).is(Suspect, "XID 109");
    trial.look(9 * MINUTE, HELD).xid(109, &[]).is(Fenced, "XID 109 twice");
    // One that nobody knows is told, and is nothing for ever.
    let mut trial = Trial::new();
    trial.xid(4_711, &[]).is(Suspect, "XID 4711").look(25 * HOUR, HELD).is(Healthy, "");
}

#[test]
fn what_can_wait_waits_until_nobody_uses_it() {
    let mut trial = Trial::new();
    trial.xid(63, &[]).is(Healthy, "");
    let pending = Signs { remap: Some(Remap::Pending), ..HELD };
    trial.look(0, pending).look(HOUR, pending).is(Healthy, "");
    // Somebody comes back after a moment.
    let free = Signs { held: Held::Free, ..pending };
    trial.look(0, free).look(FREE_FOR.0 - 1, free).look(1, pending).look(1, free);
    trial.look(FREE_FOR.0 - 1, free).is(Healthy, "").look(1, free).is(Fenced, "rows of its memory");
    trial.free().mend().look(HOUR, HELD).is(Healthy, "");

    trial.xid(74, &[]).look(0, HELD).is(Suspect, "XID 74: its way to other GPUs is broken");
    trial.free().is(Fenced, "XID 74").free().mend().is(Healthy, "");

    let failed = Signs { remap: Some(Remap::Failed), ..HELD };
    trial.look(0, failed).is(Fenced, "no spare rows of memory are left: it is to be exchanged");
}

#[test]
fn f54_what_the_driver_asks_for_is_done() {
    let asks = |recovery| Signs { recovery: Some(recovery), ..HELD };
    for (recovery, health, reason) in [
        (Recovery::Reset, Fenced, "the driver asks for a reset"),
        (Recovery::DrainAndReset, Fenced, "the driver asks for a reset"),
        (Recovery::Reboot, Fenced, "the driver asks for a reboot"),
        (Recovery::DrainPeers, Suspect, "no work across GPUs"),
        (Recovery::Other(9), Suspect, "the driver asks for action 9"),
        (Recovery::Nothing, Healthy, ""),
    ] {
        let mut trial = Trial::new();
        trial.xid(154, &[]).look(0, asks(recovery)).is(health, reason);
    }
}

#[test]
fn f60_one_that_is_slow_for_long_is_a_suspect_until_it_is_not() {
    let mut trial = Trial::new();
    let slow = |slowdown| Signs { slowdown: Some(slowdown), ..HELD };
    let hot = slow(Slowdown::Heat);
    for _ in 0..3 {
        trial.look(3_333, hot).is(Healthy, "");
    }
    trial.look(4_000, hot).is(Suspect, "slowed down by heat");
    trial.look(59_999, HELD).is(Suspect, "slowed down by heat");
    trial.look(1, HELD).is(Healthy, "");
    // For a moment now and then.
    for _ in 0..9 {
        trial.look(0, hot).look(1_000, hot).look(20_000, HELD).is(Healthy, "");
    }
    let weak = slow(Slowdown::Power);
    for _ in 0..151 {
        trial.look(2_000, hot).look(2_000, weak);
    }
    trial.is(Suspect, "slowed down by its power supply, for ten minutes and longer");
    trial.xid(48, &[]).is(Fenced, "XID 48");
}

#[test]
fn f58_memory_that_is_stuck_comes_free_or_is_reset_and_hides_no_fault() {
    let mut trial = Trial::new();
    let stuck = |trial: &mut Trial| trial.gpu.stuck("(9GiB), by 4711");
    stuck(&mut trial);
    trial.is(Fenced, "its memory is in use (9GiB), by 4711: it is to be reset");
    trial.free().mended(Err("not root")).is(Fenced, "a reset failed: not root");
    trial.gpu.came_free();
    trial.is(Healthy, "");
    stuck(&mut trial);
    trial.xid(48, &[]);
    trial.gpu.came_free();
    trial.is(Fenced, "XID 48").free().mend();
    for _ in 0..2 {
        stuck(&mut trial);
        trial.free().mend().is(Healthy, "");
    }
    trial.gpu.stuck("(3GiB), by nobody");
    trial.free().is(Fenced, "after 2 repairs");
}

#[test]
fn f51_memory_errors_that_nobody_reported_are_seen_by_their_count() {
    let counted = |uncorrected| Signs { uncorrected: Some(uncorrected), ..HELD };
    let mut trial = Trial::new();
    trial.look(0, counted(3)).look(9_000, counted(3)).is(Healthy, "");
    trial.look(1_000, counted(5)).is(Healthy, "").look(REPORT_WITHIN.0, counted(5));
    trial.is(Fenced, "uncorrected errors of its memory without an XID: it is to be reset");
    // What was reported is what the report asks for.
    let mut trial = Trial::new();
    trial.look(0, counted(3)).xid(63, &[]).look(1_000, counted(4));
    trial.look(9_000, counted(4)).is(Healthy, "");
    // A table that takes such reports for nothing takes the count for nothing.
    for (remedy, health) in [(Remedy::Note, Healthy), (Remedy::Suspect, Suspect)] {
        let mut trial = Trial::new();
        trial.table.0.insert(48, remedy);
        trial.look(0, counted(0)).look(1_000, counted(1)).look(9_000, counted(1));
        trial.is(health, if health == Healthy { "" } else { "uncorrected errors" });
    }
}

#[test]
fn nobody_is_disturbed_by_the_reset_of_a_gpu_that_it_is_linked_with() {
    let peers_at_work = Signs { peers: Held::Held, ..FREE };
    let mut trial = Trial::new();
    trial.xid(48, &[]).look(0, peers_at_work).look(HOUR, peers_at_work).is(Fenced, "to be reset");
    assert_eq!(trial.gpu.deed(), None);
    // They come and go: it has to be quiet for a while.
    trial.look(0, FREE).look(FREE_FOR.0 - 1, peers_at_work).look(1, FREE);
    assert_eq!(trial.gpu.deed(), None);
    trial.look(FREE_FOR.0, FREE);
    assert_eq!(trial.gpu.deed(), Some(Deed::Reset));
    // They do not keep it from its test.
    trial.mended(Ok(())).look(MINUTE, peers_at_work);
    assert_eq!(trial.gpu.deed(), Some(Deed::Test));

    // What can wait takes nothing out of use before they are gone.
    let pending = Signs { remap: Some(Remap::Pending), ..peers_at_work };
    let mut trial = Trial::new();
    trial.look(0, pending).look(HOUR, pending).is(Healthy, "");
    let alone = Signs { peers: Held::Free, ..pending };
    trial.look(1, alone).is(Healthy, "").look(FREE_FOR.0, alone).is(Fenced, "rows of its memory");
}

#[test]
fn one_that_is_cut_up_is_reset_when_its_parts_are_gone() {
    let in_parts = Signs { cut: Cut::InParts, ..FREE };
    let mut trial = Trial::new();
    trial.xid(48, &[]).look(0, in_parts).look(HOUR, in_parts);
    trial.is(Fenced, "XID 48: its parts would not outlive a reset");
    assert_eq!(trial.gpu.deed(), None);
    trial.look(0, FREE).is(Fenced, "XID 48: it is to be reset");
    assert_eq!(trial.gpu.deed(), Some(Deed::Reset));
    // What can wait does.
    let pending = Signs { remap: Some(Remap::Pending), ..in_parts };
    let mut trial = Trial::new();
    trial.look(0, pending).look(HOUR, pending).is(Healthy, "");
    trial.look(0, Signs { cut: Cut::Whole, ..pending }).is(Fenced, "rows of its memory");
}

#[test]
fn one_that_comes_back_and_asks_for_more_is_not_let_in() {
    let asks = |recovery| Signs { recovery: Some(recovery), ..FREE };
    // It fell off the bus, and came back by itself, or with another boot.
    for boot_id in ["one", "two"] {
        let mut trial = Trial::new();
        trial.look(0, GONE);
        trial.boot_id = boot_id;
        trial.look(0, asks(Recovery::Reset)).is(Fenced, "fallen off the bus: it is to be reset");
        trial.look(0, asks(Recovery::Reset)).look(FREE_FOR.0, asks(Recovery::Reset));
        assert_eq!(trial.gpu.deed(), Some(Deed::Reset), "{boot_id}");
        let mut trial = Trial::new();
        trial.look(0, GONE);
        trial.boot_id = boot_id;
        trial.look(0, asks(Recovery::Reboot)).is(Fenced, "the host must be started again");
        trial.look(0, FREE).is(Fenced, "the host must be started again");
        trial.boot_id = "three";
        trial.look(0, FREE).is(Cordoned, "mended");
    }
}
