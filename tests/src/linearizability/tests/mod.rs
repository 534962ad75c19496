//! Histories whose verdict is known, and comparison with a search by brute force.

mod brute_force;
mod known;
mod large;

use super::*;

const BUDGET: Budget = Budget { steps_max: 1_000_000 };

/// A call that answered.
fn call<O, R>(client: u32, times: (u64, u64), operation: O, outcome: R) -> Call<O, R> {
    let answer = Answer::Returned { at: times.1, outcome };
    Call { client, invoked_at: times.0, operation, answer }
}

/// A call without an answer.
fn lost<O, R>(client: u32, invoked_at: u64, operation: O) -> Call<O, R> {
    Call { client, invoked_at, operation, answer: Answer::Unknown }
}

fn violation<M: Model>(model: &M, history: &[CallOf<M>]) -> Violation<M::Key> {
    match check(model, history, BUDGET) {
        Verdict::Violation(violation) => *violation,
        other @ (Verdict::Linearizable { .. } | Verdict::Undecided { .. }) => {
            panic!("expected a violation, got {other:?}")
        }
    }
}
