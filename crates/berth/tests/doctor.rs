//! `berth doctor` on a host with a driver that works, one that does not, and none.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;
use std::process::Command;

use berth_nvml_sim::{SCRIPT_VARIABLE, library};
use serde_json::Value;

/// What it finds with this behind the driver's library, by what it looked at, and its exit
/// code.
fn doctor(folder: &Path, script: &str) -> (Value, i32) {
    let file = folder.join("script");
    fs::write(&file, script).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.args(["doctor", "-o", "json", "--docker-socket"]).arg(folder.join("docker.sock"));
    command.env("LD_LIBRARY_PATH", folder).env(SCRIPT_VARIABLE, &file);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    (found, output.status.code().unwrap())
}

fn of<'a>(found: &'a Value, what: &str) -> &'a Value {
    found.as_array().unwrap().iter().find(|one| one["what"] == what).unwrap()
}

#[test]
fn a_host_is_told_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("libnvidia-ml.so.1"), library()).unwrap();
    let gpu = "driver 570.86.15\ngpu 0 uuid GPU-a\ngpu 0 memory_total 9\ngpu 0 minor 77\n";
    let (found, _) = doctor(folder.path(), gpu);
    let driver = of(&found, "NVIDIA driver");
    assert_eq!(driver["verdict"], "fine", "{found:#}");
    assert!(driver["found"].as_str().unwrap().contains("version 570.86.15, 1 GPUs"), "{found:#}");
    // A driver of which nothing is in /dev.
    let nodes = of(&found, "device nodes");
    assert!(nodes["found"].as_str().unwrap().contains("/dev/nvidia77"), "{found:#}");
    assert!(nodes["mend"].as_str().unwrap().contains("nvidia-modprobe"), "{found:#}");
    assert_eq!(of(&found, "Docker")["verdict"], "absent", "{found:#}");

    let (found, code) = doctor(folder.path(), "init mismatch\n");
    let driver = of(&found, "NVIDIA driver");
    assert!(driver["found"].as_str().unwrap().contains("of two versions"), "{found:#}");
    let is_wrong = found.as_array().unwrap().iter().any(|one| one["verdict"] == "wrong");
    assert_eq!(code, i32::from(is_wrong), "{found:#}");

    // A command that lists devices of others, and one that does not.
    let listed = |command: &str| {
        let settings = folder.path().join("berth.toml");
        fs::write(&settings, format!("[agent.devices]\ncommand = {command}\n")).unwrap();
        let mut doctor = Command::new(env!("CARGO_BIN_EXE_berth"));
        doctor.args(["doctor", "-o", "json", "--config"]).arg(settings);
        let output = doctor.output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        of(&found, "devices command").clone()
    };
    let fine = listed("['echo', '{\"devices\": []}']");
    assert_eq!(
        (fine["verdict"].as_str(), fine["found"].as_str()),
        (Some("fine"), Some("lists 0 devices"))
    );
    let wrong = listed("['false']");
    assert_eq!(wrong["verdict"], "wrong");
    assert_eq!(wrong["found"], "`false` ended with exit status: 1");

    // A socket that nobody serves.
    fs::write(folder.path().join("docker.sock"), "").unwrap();
    let (found, code) = doctor(folder.path(), "init no-driver\n");
    let docker = of(&found, "Docker");
    assert_eq!((docker["verdict"].as_str(), code), (Some("wrong"), 1), "{found:#}");
    assert!(docker["mend"].as_str().unwrap().contains("systemctl start docker"), "{found:#}");
}
