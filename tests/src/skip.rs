//! The one place where a test says that it cannot run here. It refuses to let
//! a skip pass where the run was told that the capability is there.

use std::env;
use std::io::Write;

/// Names the capabilities that a run must have, with commas between them, such
/// as `root,netns`: a test that skips for want of one of them fails.
pub const REQUIRE: &str = "BERTH_TESTS_REQUIRE";

/// Says that `test` cannot run for want of `need`, one word such as `root`,
/// `netns` or `docker`. The line begins with `skipped:`, which is what the
/// gate counts.
///
/// # Panics
/// If `BERTH_TESTS_REQUIRE` lists `need`: then this is no machine without it.
pub fn skipped(test: &str, need: &str, reason: &str) {
    let required = env::var(REQUIRE).unwrap_or_default();
    let line = line(&required, test, need, reason);
    // The macros' output is kept back when a test passes, as a skipped one does.
    // A closed stderr is no reason to fail.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

fn line(required: &str, test: &str, need: &str, reason: &str) -> String {
    let must_run = required.split(',').any(|item| item.trim() == need);
    assert!(!must_run, "{test} needs {need}, which is required here, and cannot run: {reason}");
    format!("skipped: {test}: needs {need}: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_fails_where_its_need_is_required() {
        for (required, need, fails) in [
            ("", "root", false),
            ("root", "root", true),
            ("docker, root", "root", true),
            ("docker,netns", "root", false),
            ("rooted", "root", false),
        ] {
            let made = std::panic::catch_unwind(|| line(required, "t", need, "why"));
            assert_eq!(made.is_err(), fails, "required {required:?}, need {need}");
            if let Ok(line) = made {
                assert_eq!(line, "skipped: t: needs root: why");
            }
        }
    }
}
