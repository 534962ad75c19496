//! Small histories, good and bad, as they are told in the literature.

use super::*;

fn write(value: u64) -> RegisterAction {
    RegisterAction::Write { key: "k".to_owned(), value }
}

fn read() -> RegisterAction {
    RegisterAction::Read { key: "k".to_owned() }
}

fn seen(value: u64) -> RegisterAnswer {
    RegisterAnswer::Value(Some(value))
}

const WRITTEN: RegisterAnswer = RegisterAnswer::Written;
const EMPTY: RegisterAnswer = RegisterAnswer::Value(None);

#[test]
fn good_register_histories_pass() {
    let histories = [
        vec![],
        vec![call(1, (0, 1), read(), EMPTY)],
        vec![call(1, (0, 1), write(1), WRITTEN), call(2, (2, 3), read(), seen(1))],
        // Concurrent with the write, a read may see either.
        vec![call(1, (0, 9), write(1), WRITTEN), call(2, (1, 2), read(), EMPTY)],
        vec![call(1, (0, 9), write(1), WRITTEN), call(2, (1, 2), read(), seen(1))],
        // Two writes that overlap, read in either order.
        vec![
            call(1, (0, 9), write(1), WRITTEN),
            call(2, (0, 9), write(2), WRITTEN),
            call(3, (1, 2), read(), seen(2)),
            call(3, (3, 4), read(), seen(1)),
        ],
        // A lost write that took effect late, and one that never did.
        vec![
            lost(1, 0, write(1)),
            call(2, (5, 6), read(), EMPTY),
            call(2, (7, 8), read(), seen(1)),
        ],
        vec![lost(1, 0, write(1)), call(2, (5, 6), read(), EMPTY)],
        // Touching at a tick counts as overlapping.
        vec![call(1, (0, 5), write(1), WRITTEN), call(2, (5, 6), read(), EMPTY)],
    ];
    for history in histories {
        check(&Register, &history, BUDGET).assert_linearizable();
    }
}

#[test]
fn bad_register_histories_fail() {
    let stale_read = vec![
        call(1, (0, 1), write(1), WRITTEN),
        call(1, (2, 3), write(2), WRITTEN),
        call(2, (4, 5), read(), seen(1)),
    ];
    let from_nowhere = vec![call(1, (0, 1), read(), seen(7))];
    let lost_write = vec![call(1, (0, 1), write(1), WRITTEN), call(2, (2, 3), read(), EMPTY)];
    // Both reads overlap the write, but one follows the other.
    let going_back = vec![
        call(1, (0, 9), write(1), WRITTEN),
        call(2, (1, 2), read(), seen(1)),
        call(3, (3, 4), read(), EMPTY),
    ];
    let seen_then_unseen = vec![
        lost(1, 0, write(1)),
        call(2, (1, 2), read(), seen(1)),
        call(3, (3, 4), read(), EMPTY),
    ];
    let before_it_began = vec![call(2, (0, 1), read(), seen(1)), lost(1, 2, write(1))];
    for (history, culprit) in [
        (stale_read, 2),
        (from_nowhere, 0),
        (lost_write, 1),
        (going_back, 2),
        (seen_then_unseen, 2),
        (before_it_began, 0),
    ] {
        let found = violation(&Register, &history);
        assert_eq!(found.culprit, history[culprit].describe());
    }
}

fn exchange(expected: Option<u64>, new: u64) -> CasAction {
    CasAction::CompareAndSet { key: "k".to_owned(), expected, new }
}

#[test]
fn compare_and_set_histories() {
    let read = || CasAction::Read { key: "k".to_owned() };
    let good = [
        call(1, (0, 5), exchange(None, 1), CasAnswer::Written),
        call(2, (0, 5), exchange(None, 2), CasAnswer::Refused),
        call(3, (6, 7), read(), CasAnswer::Value(Some(1))),
        lost(4, 6, exchange(Some(1), 4)),
        call(3, (8, 9), read(), CasAnswer::Value(Some(4))),
    ];
    check(&CasCell, &good, BUDGET).assert_linearizable();

    let lost_update = [
        call(1, (0, 5), exchange(None, 1), CasAnswer::Written),
        call(2, (0, 5), exchange(None, 2), CasAnswer::Written),
    ];
    violation(&CasCell, &lost_update);
    let refused_without_cause = [call(1, (0, 5), exchange(None, 1), CasAnswer::Refused)];
    violation(&CasCell, &refused_without_cause);
}

fn submit(key: &str, digest: u64) -> SubmitAction {
    SubmitAction::Submit { key: key.to_owned(), digest }
}

fn look(key: &str) -> SubmitAction {
    SubmitAction::Read { key: key.to_owned() }
}

fn accepted(job_id: u64) -> SubmitAnswer {
    SubmitAnswer::Accepted { job_id }
}

#[test]
fn good_submits_pass() {
    let history = [
        lost(1, 0, submit("a", 7)),
        call(1, (5, 9), submit("a", 7), accepted(1)),
        call(2, (3, 12), submit("a", 8), SubmitAnswer::Conflict),
        call(2, (13, 14), look("a"), SubmitAnswer::Found(Some(1))),
        call(3, (0, 1), look("b"), SubmitAnswer::Found(None)),
        call(3, (2, 3), submit("b", 7), accepted(2)),
        call(3, (4, 5), submit("b", 7), accepted(2)),
    ];
    check(&Submits, &history, BUDGET).assert_linearizable();
    assert_eq!(shared_ids(&history), Vec::new());
}

#[test]
fn bad_submits_fail() {
    let found = |job_id| SubmitAnswer::Found(job_id);
    let double_id = vec![
        call(1, (0, 1), submit("a", 7), accepted(1)),
        call(1, (2, 3), submit("a", 7), accepted(2)),
    ];
    let double_id_after_lost_answer = vec![
        lost(1, 0, submit("a", 7)),
        call(2, (1, 2), look("a"), found(Some(1))),
        call(1, (3, 4), submit("a", 7), accepted(2)),
    ];
    let acknowledged_and_gone =
        vec![call(1, (0, 1), submit("a", 7), accepted(1)), call(1, (2, 3), look("a"), found(None))];
    let two_contents = vec![
        call(1, (0, 5), submit("a", 7), accepted(1)),
        call(2, (0, 5), submit("a", 8), accepted(1)),
    ];
    let conflict_with_nothing = vec![call(1, (0, 5), submit("a", 7), SubmitAnswer::Conflict)];
    let seen_then_unseen = vec![
        lost(1, 0, submit("a", 7)),
        call(2, (1, 2), look("a"), found(Some(1))),
        call(2, (3, 4), look("a"), found(None)),
    ];
    for history in [
        double_id,
        double_id_after_lost_answer,
        acknowledged_and_gone,
        two_contents,
        conflict_with_nothing,
        seen_then_unseen,
    ] {
        assert_eq!(violation(&Submits, &history).key, "a");
    }
}

#[test]
fn one_id_for_two_keys_is_told_apart_from_the_check_by_key() {
    let history = [
        call(1, (0, 1), submit("a", 7), accepted(1)),
        call(2, (0, 1), submit("b", 7), accepted(1)),
        call(2, (2, 3), look("b"), SubmitAnswer::Found(Some(1))),
    ];
    check(&Submits, &history, BUDGET).assert_linearizable();
    let shared = shared_ids(&history);
    assert_eq!(shared.len(), 1);
    assert_eq!((shared[0].first_key.as_str(), shared[0].second_key.as_str()), ("a", "b"));
}

#[test]
fn the_smallest_failing_key_is_reported_and_readable() {
    let mut history = vec![
        call(1, (0, 1), submit("z", 7), accepted(1)),
        call(1, (2, 3), submit("z", 7), accepted(2)),
    ];
    for at in 0..20 {
        history.push(call(1, (at * 2, at * 2 + 1), submit("b", 7), accepted(100 + at)));
    }
    let found = violation(&Submits, &history);
    assert_eq!(found.key, "z");
    let text = found.to_string();
    for part in [
        "key \"z\" with 2 calls is not linearizable",
        "no order explains this answer:",
        "client 1: Submit { key: \"z\", digest: 7 } -> Accepted { job_id: 2 }",
        "state Job { digest: 7, job_id: Some(1) }",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let long = violation(&Submits, &history[2..]);
    assert_eq!((long.call_count, long.begun_count), (20, 2));
}

#[test]
fn without_budget_nothing_is_decided() {
    let history = [call(1, (0, 1), write(1), WRITTEN), call(2, (2, 3), read(), seen(1))];
    let verdict = check(&Register, &history, Budget { steps_max: 0 });
    assert!(matches!(verdict, Verdict::Undecided { call_count: 2, .. }), "{verdict:?}");
}

#[test]
#[should_panic(expected = "an undecided history is a failure")]
fn an_undecided_history_is_a_failure() {
    let history = [call(1, (0, 1), write(1), WRITTEN), call(2, (2, 3), read(), seen(1))];
    check(&Register, &history, Budget { steps_max: 0 }).assert_linearizable();
}

#[test]
#[should_panic(expected = "returned before it began")]
fn a_broken_recording_is_no_history() {
    let history = [call(1, (5, 1), write(1), WRITTEN)];
    check(&Register, &history, BUDGET).assert_linearizable();
}
