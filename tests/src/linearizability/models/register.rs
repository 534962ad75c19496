//! A value that is written and read.

use super::Value;
use crate::linearizability::Model;

/// A register under each key, empty at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register;

/// What is asked of a register, with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterAction {
    /// Reads.
    Read {
        /// The register's key.
        key: String,
    },
    /// Writes a value over whatever is there.
    Write {
        /// The register's key.
        key: String,
        /// What is written.
        value: u64,
    },
}

/// What a register answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegisterAnswer {
    /// What was read; `None` before the first write.
    Value(Value),
    /// The write took effect.
    Written,
}

impl Model for Register {
    type Key = String;
    type State = Value;
    type Operation = RegisterAction;
    type Outcome = RegisterAnswer;

    fn key_of(&self, operation: &RegisterAction) -> String {
        match operation {
            RegisterAction::Read { key } | RegisterAction::Write { key, .. } => key.clone(),
        }
    }

    fn initial(&self) -> Value {
        None
    }

    fn step(
        &self,
        state: &Value,
        operation: &RegisterAction,
        outcome: Option<&RegisterAnswer>,
    ) -> Option<Value> {
        match (operation, outcome) {
            (RegisterAction::Read { .. }, None) => Some(*state),
            (RegisterAction::Read { .. }, Some(RegisterAnswer::Value(seen))) => {
                (seen == state).then_some(*state)
            }
            (RegisterAction::Write { value, .. }, None | Some(RegisterAnswer::Written)) => {
                Some(Some(*value))
            }
            (RegisterAction::Read { .. }, Some(RegisterAnswer::Written))
            | (RegisterAction::Write { .. }, Some(RegisterAnswer::Value(_))) => None,
        }
    }

    fn only_observes(&self, _: &Value, operation: &RegisterAction, _: &RegisterAnswer) -> bool {
        match operation {
            RegisterAction::Read { .. } => true,
            RegisterAction::Write { .. } => false,
        }
    }
}
