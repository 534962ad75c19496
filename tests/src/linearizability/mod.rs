//! Decides whether the answers that clients got could have come from one copy of
//! the data, used by one client at a time. It knows nothing of Berth: a [`Model`]
//! says what the one copy would do.
//!
//! The search is that of Wing and Gong ("Testing and Verifying Concurrent
//! Objects", 1993) with Lowe's memory of configurations already tried ("Testing
//! for linearizability", 2017). Histories fall apart by key, which is sound since
//! linearizability is local (Herlihy and Wing, 1990). Some prunings are added,
//! each argued where it is made, in `search`.
//!
//! A call without an answer may take effect at any time after it began, or never.
//! The work is bounded: a search that exhausts its budget is [`Verdict::Undecided`],
//! which a caller has to treat as a failure.

mod bitset;
mod history;
mod model;
mod models;
mod report;
mod search;
#[cfg(test)]
mod tests;

pub use history::{Answer, Call, Recorder};
pub use model::Model;
pub use models::{
    CasAction, CasAnswer, CasCell, Register, RegisterAction, RegisterAnswer, SharedId,
    SubmitAction, SubmitAnswer, Submits, shared_ids,
};
pub use report::{Verdict, Violation};

use std::collections::BTreeMap;

use search::{Ending, Search};

/// A call of the operations of `M`.
pub type CallOf<M> = Call<<M as Model>::Operation, <M as Model>::Outcome>;

/// How much work one key may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The most calls of [`Model::step`]. A million takes half a
    /// second in a release build and some seconds in a debug build.
    pub steps_max: u64,
}

/// Checks `history`, in any order of its calls.
///
/// Among several keys that fail, the one with the fewest calls is reported. A
/// violation goes before a key that could not be decided.
///
/// # Panics
/// A call that returned before it began: the recording itself is broken.
pub fn check<M: Model>(model: &M, history: &[CallOf<M>], budget: Budget) -> Verdict<M::Key> {
    let mut by_key: BTreeMap<M::Key, Vec<&CallOf<M>>> = BTreeMap::new();
    for call in history {
        call.assert_in_order();
        by_key.entry(model.key_of(&call.operation)).or_default().push(call);
    }
    let mut keys: Vec<_> = by_key.into_iter().collect();
    keys.sort_by_key(|(_, calls)| calls.len());

    let mut steps = 0;
    let mut undecided = None;
    for (key, calls) in keys {
        let result = Search::new(model, &calls).run(budget.steps_max);
        steps += result.steps;
        match result.ending {
            Ending::Found => {}
            Ending::Exhausted => {
                undecided.get_or_insert((key, calls.len()));
            }
            Ending::Impossible => {
                let violation = report::explain(model, key, &calls, &result);
                return Verdict::Violation(Box::new(violation));
            }
        }
    }
    match undecided {
        Some((key, call_count)) => Verdict::Undecided { key, call_count, steps },
        None => Verdict::Linearizable { steps },
    }
}
