//! `[log]`

use crate::kind::{LEVEL, LOG_FORMAT};
use crate::reader::Reader;
use crate::source::Setting;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    pub(crate) const ALL: [Self; 2] = [Self::Text, Self::Json];

    /// The word used in files.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// `[log]`: what goes to standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A level, or several by target, as in `info,berth_raft=debug`.
    pub level: Setting<String>,
    /// The form of a line.
    pub format: Setting<LogFormat>,
}

impl Log {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            level: reader.setting("log.level", &LEVEL, "info".to_owned()),
            format: reader.setting("log.format", &LOG_FORMAT, LogFormat::Text),
        }
    }
}
