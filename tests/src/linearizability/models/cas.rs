//! A value that is also exchanged on a condition.

use super::Value;
use crate::linearizability::Model;

/// A cell under each key, empty at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CasCell;

/// What is asked of a cell, with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CasAction {
    /// Reads.
    Read {
        /// The cell's key.
        key: String,
    },
    /// Writes a value over whatever is there.
    Write {
        /// The cell's key.
        key: String,
        /// What is written.
        value: u64,
    },
    /// Writes `new` if `expected` is there.
    CompareAndSet {
        /// The cell's key.
        key: String,
        /// What must be there; `None` for nothing.
        expected: Value,
        /// What is then written.
        new: u64,
    },
}

/// What a cell answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CasAnswer {
    /// What was read; `None` before the first write.
    Value(Value),
    /// The write, or the exchange, took effect.
    Written,
    /// Something else was there, and nothing changed.
    Refused,
}

impl Model for CasCell {
    type Key = String;
    type State = Value;
    type Operation = CasAction;
    type Outcome = CasAnswer;

    fn key_of(&self, operation: &CasAction) -> String {
        match operation {
            CasAction::Read { key }
            | CasAction::Write { key, .. }
            | CasAction::CompareAndSet { key, .. } => key.clone(),
        }
    }

    fn initial(&self) -> Value {
        None
    }

    fn step(
        &self,
        state: &Value,
        operation: &CasAction,
        outcome: Option<&CasAnswer>,
    ) -> Option<Value> {
        let (answer, next) = match operation {
            CasAction::Read { .. } => (CasAnswer::Value(*state), *state),
            CasAction::Write { value, .. } => (CasAnswer::Written, Some(*value)),
            CasAction::CompareAndSet { expected, new, .. } if expected == state => {
                (CasAnswer::Written, Some(*new))
            }
            CasAction::CompareAndSet { .. } => (CasAnswer::Refused, *state),
        };
        outcome.is_none_or(|outcome| *outcome == answer).then_some(next)
    }

    fn only_observes(&self, _: &Value, _: &CasAction, outcome: &CasAnswer) -> bool {
        match outcome {
            CasAnswer::Value(_) | CasAnswer::Refused => true,
            CasAnswer::Written => false,
        }
    }
}
