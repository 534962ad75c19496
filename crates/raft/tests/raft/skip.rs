//! The one place where a test says that it cannot run here.

#[expect(clippy::print_stdout, reason = "a skip must be seen")]
/// Says so, or fails when the need is listed in `BERTH_TESTS_REQUIRE`.
pub fn skipped(test: &str, need: &str, reason: &str) {
    let required = std::env::var("BERTH_TESTS_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|item| item.trim() == need),
        "{test} is required here but cannot run: {reason}"
    );
    println!("skipped: {test}: {reason}");
}

/// Whether the test may mount file systems; says so if not.
pub fn may_mount(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skipped(test, "root", "needs root to mount a file system");
    }
    is_root
}
