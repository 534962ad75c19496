//! Where a value came from.

use std::fmt;
use std::path::PathBuf;

/// The layer, and the place in it, that a value was taken from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Built into this version.
    Default,
    /// A configuration file; lines and columns (in characters) count from 1.
    File {
        /// The path as it was opened.
        path: PathBuf,
        /// The line of the key.
        line: usize,
        /// The column of the key.
        column: usize,
    },
    /// An environment variable.
    Environment {
        /// The variable's whole name.
        variable: String,
    },
    /// A command line flag.
    Flag {
        /// The flag as typed, with its dashes.
        flag: String,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { path, line, column } => {
                write!(formatter, "{}:{line}:{column}", path.display())
            }
            Self::Environment { variable } => write!(formatter, "environment {variable}"),
            Self::Flag { flag } => write!(formatter, "flag {flag}"),
        }
    }
}

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value in force.
    pub value: T,
    /// The layer that gave it.
    pub source: Source,
}

impl<T> Setting<T> {
    /// Whether somebody chose this value, be it equal to the default.
    #[must_use]
    pub fn is_explicit(&self) -> bool {
        self.source != Source::Default
    }
}
