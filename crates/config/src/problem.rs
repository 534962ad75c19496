//! One complaint about the configuration.

use std::fmt;

use crate::source::Source;

/// Something wrong (or, among the warnings, odd) and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The place, as [`Source`] prints it, or a file's path.
    pub place: String,
    /// What is wrong, with the value seen and what is allowed.
    pub message: String,
    /// A next step, where there is one.
    pub hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(place: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { place: place.to_string(), message: message.into(), hint: None }
    }

    pub(crate) fn at(source: &Source, message: impl Into<String>) -> Self {
        Self::new(source, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// `place: message`, and the hint on an indented line of its own.
impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.place, self.message)?;
        match &self.hint {
            Some(hint) => write!(formatter, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}
