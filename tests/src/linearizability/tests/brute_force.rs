//! The search against every order there is, on histories of up to seven calls.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

type History<M> = [CallOf<M>];

/// Whether some order of the answered calls and of some of the lost ones explains
/// every answer. Tries them all, save those whose beginning does not fit already.
fn has_order<M: Model>(model: &M, history: &History<M>) -> bool {
    let is_lost = |position: &usize| matches!(history[*position].answer, Answer::Unknown);
    let lost: Vec<usize> = (0..history.len()).filter(is_lost).collect();
    let answered: Vec<usize> = (0..history.len()).filter(|position| !is_lost(position)).collect();
    (0..1_usize << lost.len()).any(|mask| {
        let used = lost.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0);
        let mut members = answered.clone();
        members.extend(used.map(|(_, position)| *position));
        any_permutation(&mut members, 0, &|order| explains(model, history, order))
    })
}

/// Whether some permutation is accepted, as are all its beginnings.
fn any_permutation(
    members: &mut [usize],
    fixed: usize,
    accepts: &dyn Fn(&[usize]) -> bool,
) -> bool {
    if !accepts(&members[..fixed]) {
        return false;
    }
    if fixed == members.len() {
        return true;
    }
    (fixed..members.len()).any(|other| {
        members.swap(fixed, other);
        let found = any_permutation(members, fixed + 1, accepts);
        members.swap(fixed, other);
        found
    })
}

fn explains<M: Model>(model: &M, history: &History<M>, order: &[usize]) -> bool {
    let in_time = order.iter().enumerate().all(|(place, later)| {
        order[..place].iter().all(|earlier| match history[*later].answer {
            Answer::Returned { at, .. } => at >= history[*earlier].invoked_at,
            Answer::Unknown => true,
        })
    });
    let mut state = Some(model.initial());
    for position in order {
        let call = &history[*position];
        let outcome = match &call.answer {
            Answer::Returned { outcome, .. } => Some(outcome),
            Answer::Unknown => None,
        };
        state = state.and_then(|state| model.step(&state, &call.operation, outcome));
    }
    in_time && state.is_some()
}

/// Compares the two on `cases` random histories and demands that both verdicts
/// were common among them, or nothing would have been compared.
fn compare<M: Model>(model: &M, calls: impl Strategy<Value = CallOf<M>>)
where
    M::Operation: Clone,
    M::Outcome: Clone,
{
    let (good_count, bad_count) = (Cell::new(0), Cell::new(0));
    let config = Config { cases: 1_500, failure_persistence: None, ..Config::default() };
    let histories = prop::collection::vec(calls, 0..=7);
    let outcome = TestRunner::new(config).run(&histories, |history| {
        let expected = has_order(model, &history);
        let counter = if expected { &good_count } else { &bad_count };
        counter.set(counter.get() + 1);
        match check(model, &history, BUDGET) {
            Verdict::Linearizable { .. } => prop_assert!(expected, "a violation was missed"),
            Verdict::Violation(violation) => prop_assert!(!expected, "{violation}"),
            Verdict::Undecided { .. } => prop_assert!(false, "seven calls are undecided"),
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(good_count.get() > 150, "only {} good histories", good_count.get());
    assert!(bad_count.get() > 150, "only {} bad histories", bad_count.get());
}

/// Times small enough to overlap and to touch often; one call in four is lost.
fn calls<O: Clone + std::fmt::Debug, R: Clone + std::fmt::Debug>(
    pairs: impl Strategy<Value = (O, R)>,
) -> impl Strategy<Value = Call<O, R>> {
    (pairs, 0_u64..12, 0_u64..6, 0_u8..4).prop_map(
        |((operation, outcome), invoked_at, length, fate)| {
            let answer = match fate {
                0 => Answer::Unknown,
                _ => Answer::Returned { at: invoked_at + length, outcome },
            };
            Call { client: 0, invoked_at, operation, answer }
        },
    )
}

fn value() -> impl Strategy<Value = Option<u64>> {
    prop::option::of(1_u64..3)
}

#[test]
fn registers_agree_with_brute_force() {
    let key = || "k".to_owned();
    let pairs = prop_oneof![
        (1_u64..3).prop_map(move |value| {
            (RegisterAction::Write { key: key(), value }, RegisterAnswer::Written)
        }),
        value().prop_map(move |seen| {
            (RegisterAction::Read { key: key() }, RegisterAnswer::Value(seen))
        }),
    ];
    compare(&Register, calls(pairs));
}

#[test]
fn exchanges_agree_with_brute_force() {
    let key = || "k".to_owned();
    let exchanged = prop_oneof![Just(CasAnswer::Written), Just(CasAnswer::Refused)];
    let pairs = prop_oneof![
        (1_u64..3).prop_map(move |value| {
            (CasAction::Write { key: key(), value }, CasAnswer::Written)
        }),
        value().prop_map(move |seen| (CasAction::Read { key: key() }, CasAnswer::Value(seen))),
        (value(), 1_u64..3, exchanged).prop_map(move |(expected, new, answer)| {
            (CasAction::CompareAndSet { key: key(), expected, new }, answer)
        }),
    ];
    compare(&CasCell, calls(pairs));
}

#[test]
fn submits_agree_with_brute_force() {
    let key = || "k".to_owned();
    let answer = prop_oneof![
        3 => (1_u64..3).prop_map(|job_id| SubmitAnswer::Accepted { job_id }),
        1 => Just(SubmitAnswer::Conflict),
    ];
    let pairs = prop_oneof![
        (1_u64..3, answer).prop_map(move |(digest, answer)| {
            (SubmitAction::Submit { key: key(), digest }, answer)
        }),
        value().prop_map(move |found| {
            (SubmitAction::Read { key: key() }, SubmitAnswer::Found(found))
        }),
    ];
    compare(&Submits, calls(pairs));
}
