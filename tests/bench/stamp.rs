//! The worker whose start is measured: it reads the clock first of all and
//! writes it to a file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The first argument of a worker.
pub const WORD: &str = "stamp";

/// Nanoseconds of the wall clock, which every process of this machine shares.
pub fn now_ns() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

/// Is the worker.
pub fn run(file: Option<OsString>) -> ExitCode {
    let now = now_ns();
    let Some(file) = file.map(PathBuf::from) else { return ExitCode::FAILURE };
    match std::fs::write(file, format!("{now}\n")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Waits for a worker's clock; `None` after `limit`.
pub async fn read(file: &Path, limit: Duration) -> Option<u128> {
    let waited = async {
        let mut pause = tokio::time::interval(Duration::from_millis(2));
        loop {
            pause.tick().await;
            let text = std::fs::read_to_string(file).unwrap_or_default();
            if let Some(number) = text.strip_suffix('\n').and_then(|text| text.parse().ok()) {
                return number;
            }
        }
    };
    tokio::time::timeout(limit, waited).await.ok()
}
