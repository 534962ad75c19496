//! What a command knows about the process it runs in.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::commands::snapshot::Offline;

/// The surroundings of a command, so that a test can give its own.
#[derive(Debug, Clone)]
pub struct Host {
    pub environment: Vec<(OsString, OsString)>,
    /// `None` where it cannot be told, as after its removal.
    pub working_directory: Option<PathBuf>,
    /// Milliseconds since 1970, to show how long ago something was.
    pub now_ms: u64,
    /// What is done to files of schedulers without a cluster.
    pub offline: Offline,
}

impl Host {
    #[must_use]
    pub fn of_process(offline: Offline) -> Host {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Host {
            environment: env::vars_os().collect(),
            working_directory: env::current_dir().ok(),
            now_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
            offline,
        }
    }

    /// The value of a variable, where it is text.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        let found = self.environment.iter().find(|(key, _)| key == name);
        found.and_then(|(_, value)| value.to_str())
    }
}
