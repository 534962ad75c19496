//! The one place where a test says that it cannot run here.

use std::io::Write as _;

/// Says so, or fails when the need is listed in `BERTH_TESTS_REQUIRE`.
pub fn skipped(test: &str, need: &str, reason: &str) {
    let required = std::env::var("BERTH_TESTS_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|item| item.trim() == need),
        "{test} is required here but cannot run: {reason}"
    );
    // The print macros are held back when a test passes, as a skipped one does.
    let _ = writeln!(std::io::stderr().lock(), "skipped: {test}: needs {need}: {reason}");
}

/// Whether the test may mount file systems; says so if not.
pub fn may_mount(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skipped(test, "root", "needs root to mount a file system");
    }
    is_root
}
