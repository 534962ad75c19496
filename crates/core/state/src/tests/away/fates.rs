//! Which of two attempts of an instance goes on, and what is said of it.

use berth_model::{Drain, EndCause, JobKind, OnReturn};

use super::{Case, RUNS, WARMS_UP, ended, spec};
use crate::{Command, EventKind, Purpose};

#[test]
fn f30_the_policy_decides_which_of_two_attempts_goes_on() {
    use OnReturn as P;
    let cases = [
        (P::KeepReplacement, Some(RUNS), RUNS, false, "has taken its place (keep-replacement)"),
        (P::KeepReplacement, None, RUNS, false, "has taken its place (keep-replacement)"),
        (P::KeepOriginal, Some(RUNS), RUNS, true, "(keep-original, not attempt 2)"),
        (P::KeepOriginal, Some(RUNS), WARMS_UP, true, "(keep-original, not attempt 2)"),
        (P::KeepLongestRunning, Some(RUNS), RUNS, true, "(keep-longest-running, not attempt 2)"),
        (P::KeepLongestRunning, None, WARMS_UP, true, "(keep-longest-running, not attempt 2)"),
        (P::KeepLongestRunning, Some(RUNS), WARMS_UP, false, "alone is ready"),
    ];
    for (on_return, rival_says, original_says, original_goes_on, why) in cases {
        let mut case = Case::new(&spec(JobKind::Service, on_return));
        let rival = case.replace();
        let rival_node = case.row(rival).unwrap().node;
        if let Some(observed) = rival_says {
            case.world.observe(rival, observed);
        }
        case.comes_back();
        assert_eq!(case.used_gpus(case.silent), 1, "its worker may be there");
        assert_eq!(case.says(original_says), 1);
        let of = format!("{on_return:?}, {why}");
        let (survivor, loser, node) = if original_goes_on {
            (case.original, rival, rival_node)
        } else {
            (rival, case.original, case.silent)
        };
        assert_eq!(case.live(), [survivor], "{of}");
        let leaving = case.leaving(node);
        assert_eq!(leaving.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [loser], "{of}");
        assert!(leaving[0].1.contains(why), "{of}: {leaving:?}");
        if original_goes_on {
            assert!(case.row(survivor).unwrap().reason.contains(why), "{of}");
            let returned = case.world.events.iter().any(|event| {
                matches!(&event.kind, EventKind::AllocationReturned { reason } if reason.contains(why))
            });
            assert!(returned, "{of}");
        }
        assert_eq!((case.used_gpus(case.silent), case.used_gpus(rival_node)), (1, 1), "{of}");
        let ended = ended(EndCause::Stopped);
        assert_eq!(case.world.observe_from(node, loser, ended), 1, "{of}");
        assert_eq!(case.used_gpus(node), 0, "{of}: free when its agent has said so");
        assert_eq!(case.live(), [survivor], "{of}");
        assert_eq!(case.world.job_state(survivor.job), "running", "{of}");
    }
}

#[test]
fn f30_without_a_replacement_the_original_goes_on_whatever_the_policy() {
    for kind in [JobKind::Batch, JobKind::Service] {
        for on_return in OnReturn::ALL {
            let mut case = Case::new(&spec(kind, on_return));
            case.comes_back();
            // The node has room for it, and is what was missing.
            let job = case.original.job;
            assert!(case.world.place(job, 0).is_err(), "its original may be heard of");
            let rival = (on_return == OnReturn::KeepReplacement).then(|| {
                case.world.now += 5_000;
                case.world.place(job, 0).unwrap()
            });
            assert_eq!(case.says(RUNS), 1);
            assert_eq!(case.live(), [case.original]);
            let next = if rival.is_some() { 3 } else { 2 };
            let task = case.world.state.tasks().values().next().unwrap();
            assert!(task.pending.is_empty());
            let original = case.original;
            case.world.observe(original, ended(EndCause::HostRebooted));
            assert_eq!(case.replace().attempt.0, next);
        }
    }
}

#[test]
fn f30_an_attempt_after_the_one_that_came_back_has_an_id_of_its_own() {
    let mut case = Case::new(&spec(JobKind::Service, OnReturn::KeepOriginal));
    let second = case.replace();
    case.comes_back();
    case.says(RUNS);
    // The second is still ending when the first is lost and replaced again.
    case.lose();
    let third = case.replace();
    assert_eq!((case.original.attempt.0, second.attempt.0, third.attempt.0), (1, 2, 3));
    case.comes_back();
    case.says(RUNS);
    assert_eq!(case.live(), [case.original]);
    let original = case.original;
    case.world.exit(original, 1);
    case.world.now += 60_000;
    let fourth = case.world.place(original.job, 0).unwrap();
    assert_eq!(fourth.attempt.0, 4);
}

/// The first attempt was lost with one node, the second with the other; then both are back.
#[test]
fn f30_the_original_is_the_attempt_that_was_begun_first() {
    let cases = [
        (OnReturn::KeepOriginal, 1),
        (OnReturn::KeepReplacement, 2),
        (OnReturn::KeepLongestRunning, 1),
    ];
    for (on_return, survivor) in cases {
        let mut case = Case::new(&spec(JobKind::Service, on_return));
        let second = case.replace();
        case.world.observe(second, RUNS);
        let node = case.row(second).unwrap().node;
        let session = case.world.state.nodes().get(&node).unwrap().session;
        case.world.one(Command::DisconnectNode { node, session }).unwrap();
        let (allocations, reason) = (vec![second], "node is silent".to_owned());
        let lost = Command::LoseAllocations { node, session, allocations, reason };
        case.world.one(lost).unwrap();
        case.comes_back();
        case.says(RUNS);
        assert_eq!(case.live(), [case.original], "nothing else is heard of");
        case.world.now += 1_000;
        case.world.register(1);
        assert_eq!(case.world.observe_from(node, second, RUNS), 1);
        let live: Vec<u32> = case.live().iter().map(|id| id.attempt.0).collect();
        assert_eq!(live, [survivor], "{on_return:?}");
    }
}

#[test]
fn f30_an_original_does_not_yield_to_an_attempt_on_a_silent_node() {
    for drained in [false, true] {
        let mut case = Case::new(&spec(JobKind::Service, OnReturn::KeepReplacement));
        let rival = case.replace();
        case.world.observe(rival, RUNS);
        let node = case.row(rival).unwrap().node;
        let session = case.world.state.nodes().get(&node).unwrap().session;
        case.world.one(Command::DisconnectNode { node, session }).unwrap();
        if drained {
            let (node, purpose) = (case.silent, Purpose::Draining(Drain { deadline: None }));
            case.world.one(Command::SetSchedulable { node, purpose }).unwrap();
        }
        case.comes_back();
        assert_eq!(case.says(RUNS), 1);
        assert_eq!(case.live(), [case.original], "{drained}");
        case.world.now += 1_000;
        case.world.register(1);
        assert_eq!(case.leaving(node).len(), 1, "{drained}");
    }
}

#[test]
fn f30_a_late_first_report_does_not_end_a_replacement_that_runs() {
    let mut case = Case::new(&spec(JobKind::Service, OnReturn::KeepReplacement));
    case.comes_back();
    case.world.now += 5_000;
    let rival = case.replace();
    case.world.observe(rival, RUNS);
    assert_eq!(case.says(RUNS), 1);
    assert_eq!(case.live(), [rival]);
}

#[test]
fn f30_why_one_is_back_is_not_why_it_fails_later() {
    let mut case = Case::new(&spec(JobKind::Service, OnReturn::KeepOriginal));
    case.comes_back();
    case.says(RUNS);
    let original = case.original;
    assert!(case.row(original).unwrap().reason.contains("its node is back"));
    case.world.exit(original, 3);
    let task = case.world.state.tasks().values().next().unwrap();
    let failure = task.failures.back().unwrap();
    assert!(!failure.reason.contains("its node is back"), "{}", failure.reason);
}
