//! The demo computes its exit code from what the cluster and the workers left
//! behind: it succeeds, and it fails when one trace is missing.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::process::{Command, Output};

/// A demo that fails leaves its data where temporary files are.
fn demo(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.arg("demo").args(arguments).env("TMPDIR", folder.path()).output().unwrap()
}

#[test]
fn the_demo_holds_what_it_claims() {
    let output = demo(&[]);
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("killed the leader"), "{said}");
    assert!(said.contains("6 members on 3 nodes"), "{said}");
    assert!(said.contains("requests through the gateway were answered"), "{said}");
    assert!(!said.contains("FAIL"), "{said}");
}

#[test]
fn the_demo_fails_when_a_trace_is_missing() {
    let output = demo(&["--lose-a-trace"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("FAIL every instance left a trace"), "{said}");
}
