//! What clients did and were told, and a clock-agnostic recorder of it.

use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::PoisonError;

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<R> {
    /// It answered.
    Returned {
        /// When, on the clock of [`Call::invoked_at`].
        at: u64,
        /// With what.
        outcome: R,
    },
    /// It did not, or with an error that leaves open whether it took effect. A call
    /// that certainly had no effect does not belong into a history.
    Unknown,
}

/// One operation of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call<O, R> {
    /// Who called; for the report only.
    pub client: u32,
    /// When, on one clock for all clients, in any unit. Two calls of which one
    /// returns at the very tick at which the other begins count as concurrent, so
    /// a coarse clock hides violations but invents none.
    pub invoked_at: u64,
    /// What was asked.
    pub operation: O,
    /// What became of it.
    pub answer: Answer<R>,
}

impl<O: Debug, R: Debug> Call<O, R> {
    pub(super) fn assert_in_order(&self) {
        if let Answer::Returned { at, .. } = self.answer {
            assert!(at >= self.invoked_at, "a call that returned before it began: {self:?}");
        }
    }

    /// One line for a report.
    pub(super) fn describe(&self) -> String {
        let (client, from, operation) = (self.client, self.invoked_at, &self.operation);
        match &self.answer {
            Answer::Returned { at, outcome } => {
                format!("{from:>8} ..{at:>8}  client {client}: {operation:?} -> {outcome:?}")
            }
            Answer::Unknown => {
                format!("{from:>8} ..       ?  client {client}: {operation:?} -> unknown")
            }
        }
    }
}

/// Collects the calls of several threads. A call that is begun and never
/// answered stays [`Answer::Unknown`].
#[derive(Debug)]
pub struct Recorder<O, R> {
    calls: Mutex<Vec<Call<O, R>>>,
}

impl<O, R> Default for Recorder<O, R> {
    fn default() -> Self {
        Self { calls: Mutex::new(Vec::new()) }
    }
}

impl<O, R> Recorder<O, R> {
    /// Records that `client` is about to call; the number names the call.
    pub fn begin(&self, client: u32, invoked_at: u64, operation: O) -> usize {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push(Call { client, invoked_at, operation, answer: Answer::Unknown });
        calls.len() - 1
    }

    /// Records the answer of the call that [`Recorder::begin`] numbered.
    ///
    /// # Panics
    /// There is no such call, or it has an answer.
    pub fn answer(&self, call_index: usize, at: u64, outcome: R) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let call = &mut calls[call_index];
        let is_open = matches!(call.answer, Answer::Unknown);
        assert!(is_open, "call {call_index} was answered twice");
        call.answer = Answer::Returned { at, outcome };
    }

    /// The history so far.
    pub fn into_history(self) -> Vec<Call<O, R>> {
        self.calls.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
