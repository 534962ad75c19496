//! What came out, in words that lead to the cause.

use std::fmt;

use super::CallOf;
use super::history::Answer;
use super::model::Model;
use super::search::SearchResult;

/// The most calls that a report shows.
const SHOWN_CALLS_MAX: usize = 16;

/// What came out of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Verdict<K> {
    /// An order explains every answer.
    Linearizable {
        /// The work it took.
        steps: u64,
    },
    /// No order does.
    Violation(Box<Violation<K>>),
    /// The budget ran out. To a caller this is a failure: nothing was shown.
    Undecided {
        /// The smallest key that was given up.
        key: K,
        /// The number of its calls.
        call_count: usize,
        /// The work done on all keys.
        steps: u64,
    },
}

impl<K: fmt::Debug> Verdict<K> {
    /// # Panics
    /// Anything but [`Verdict::Linearizable`], with the report.
    #[track_caller]
    pub fn assert_linearizable(&self) {
        match self {
            Self::Linearizable { .. } => {}
            Self::Violation(violation) => panic!("{violation}"),
            Self::Undecided { key, call_count, steps } => panic!(
                "key {key:?} with {call_count} calls is undecided after {steps} steps; \
                 an undecided history is a failure"
            ),
        }
    }
}

/// Answers that no order explains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation<K> {
    /// The key with the fewest calls that fails.
    pub key: K,
    /// How many calls it has.
    pub call_count: usize,
    /// The answer that no order gets past: all calls that returned up to then cannot
    /// be explained together, all that returned before it can.
    pub culprit: String,
    /// How many calls had begun by then.
    pub begun_count: usize,
    /// The last of those, the culprit included, by time of invocation.
    pub excerpt: Vec<String>,
    /// The end of the longest order of calls that could be explained, with the
    /// states between them.
    pub longest: Vec<String>,
}

impl<K: fmt::Debug> fmt::Display for Violation<K> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "key {:?} with {} calls is not linearizable",
            self.key, self.call_count
        )?;
        writeln!(formatter, "no order explains this answer:\n  {}", self.culprit)?;
        let (shown, begun) = (self.excerpt.len(), self.begun_count);
        writeln!(formatter, "the last {shown} of {begun} calls begun by then:")?;
        for line in &self.excerpt {
            writeln!(formatter, "  {line}")?;
        }
        writeln!(formatter, "the longest order that could be explained ends:")?;
        for line in &self.longest {
            writeln!(formatter, "  {line}")?;
        }
        Ok(())
    }
}

/// Describes the failure of `calls` that `result` found.
pub(super) fn explain<M: Model>(
    model: &M,
    key: M::Key,
    calls: &[&CallOf<M>],
    result: &SearchResult,
) -> Violation<M::Key> {
    let wall = result.wall.expect("a history without answers is always explained");
    let until = match calls[wall].answer {
        Answer::Returned { at, .. } => at,
        Answer::Unknown => u64::MAX,
    };
    let mut begun: Vec<usize> =
        (0..calls.len()).filter(|position| calls[*position].invoked_at <= until).collect();
    begun.sort_by_key(|position| (calls[*position].invoked_at, *position));
    let begun_count = begun.len();
    let mut shown = begun.split_off(begun_count.saturating_sub(SHOWN_CALLS_MAX));
    if !shown.contains(&wall) {
        shown[0] = wall;
    }
    Violation {
        key,
        call_count: calls.len(),
        culprit: calls[wall].describe(),
        begun_count,
        excerpt: shown.iter().map(|position| calls[*position].describe()).collect(),
        longest: replay(model, calls, &result.longest),
    }
}

/// The last operations of `order` with the states they left.
fn replay<M: Model>(model: &M, calls: &[&CallOf<M>], order: &[usize]) -> Vec<String> {
    let mut state = model.initial();
    let mut lines = vec![format!("state {state:?}")];
    for position in order {
        let operation = &calls[*position].operation;
        let outcome = match &calls[*position].answer {
            Answer::Returned { outcome, .. } => Some(outcome),
            Answer::Unknown => None,
        };
        if let Some(next) = model.step(&state, operation, outcome) {
            state = next;
        }
        lines.push(match outcome {
            Some(outcome) => format!("{operation:?} -> {outcome:?}, state {state:?}"),
            None => format!("{operation:?} -> unknown, state {state:?}"),
        });
    }
    lines.split_off(lines.len().saturating_sub(SHOWN_CALLS_MAX))
}
