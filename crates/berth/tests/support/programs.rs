//! Builds of the program beside the one under test.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The program of a build that knows one cluster version more. Cargo builds it
/// from this source, where it is not up to date; its own messages say where it
/// is, so that no older file is ever taken for it.
pub fn next() -> PathBuf {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--package", "berth", "--bin", "berth-next"]);
    command.args(["--features", "next-version", "--message-format", "json-render-diagnostics"]);
    // What cargo says of the package under test is not true of others, and would
    // make it build again what looks at it.
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&key);
        }
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit());
    let output = command.output().unwrap();
    assert!(output.status.success(), "berth-next was not built");
    let messages = String::from_utf8(output.stdout).unwrap();
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        let is_it = message["target"]["name"] == "berth-next";
        message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
    });
    executables.next_back().unwrap()
}
