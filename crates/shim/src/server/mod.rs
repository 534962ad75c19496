//! The shim process: one thread, one poll. It refuses every request that does not name what it holds, and it never
//! quits while anything of an allocation lives or is not recorded.

mod allocation;
mod cgroup;
mod connection;
mod detach;
mod event_loop;
mod limits;
mod logs;
mod requests;
mod spawn;
mod tree;

pub use detach::run;

use std::io::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 of the wall clock, for display only.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Lines in one shim's log; the same trouble every second must not fill a disk.
const LOG_LINES_MAX: u32 = 1000;

/// One line into the shim's log. A full disk must not end a shim, so failure is ignored (`eprintln!` would panic).
fn log_trouble(message: std::fmt::Arguments<'_>) {
    static LINE_COUNT: AtomicU32 = AtomicU32::new(0);
    if LINE_COUNT.fetch_add(1, Ordering::Relaxed) >= LOG_LINES_MAX {
        return;
    }
    let _ = writeln!(io::stderr(), "{} {message}", unix_ms());
}

/// An error as the end of a sentence: lower case, without the number.
fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}
