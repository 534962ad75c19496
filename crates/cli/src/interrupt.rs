//! What Ctrl-C would break off, so that its message can say what is left.

use std::sync::{Mutex, PoisonError};

use crate::error::CliError;

/// What the command is in the middle of. The lock guards this value alone.
#[derive(Debug, Default)]
pub(crate) struct Interrupt(Mutex<Doing>);

/// The part of a command that matters to somebody who breaks it off.
#[derive(Debug, Clone, Default)]
pub(crate) enum Doing {
    /// Nothing that lasts.
    #[default]
    Looking,
    /// A submit is on its way.
    Submitting { key: String },
    /// A command runs beside a worker, and ends with whoever runs it.
    Running,
    /// The job goes on without its watcher.
    Waiting { job_id: u64 },
}

impl Interrupt {
    pub(crate) fn set(&self, doing: Doing) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = doing;
    }

    pub(crate) fn into_error(self) -> CliError {
        CliError::Interrupted(self.0.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}
