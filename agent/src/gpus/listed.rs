//! Accelerators that are not NVIDIA's: a command of whoever runs the host prints them as JSON. It is
//! run by the prober, in a process group of its own, and is not waited for without end. What it
//! prints is believed as a whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::said::{GpuLook, Look};
use crate::process_group::GroupKill;

/// A command that lists devices: program and arguments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lister {
    pub command: Vec<String>,
    /// It is killed if it has not ended by then.
    pub deadline: Duration,
}

/// Sixty-four devices with everything that may be said of them are not a tenth of this.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// As many as a node may have.
const DEVICES_MAX: usize = berth_model::DEVICES_MAX;
/// The longest uuid and model, as a node may have them.
const NAME_BYTES_MAX: usize = 128;
/// Nodes and variables of one device.
const EACH_MAX: usize = 32;
/// Of a variable, and of the path of a node.
const VALUE_BYTES_MAX: usize = 1024;
/// Between two looks whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// What a device may not set: it would not be the device's.
const RESERVED: [&str; 4] = ["BERTH_", "LD_", "PATH", "HOME"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    devices: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    uuid: String,
    model: String,
    memory_total_bytes: u64,
    memory_used_bytes: Option<u64>,
    utilization: Option<u32>,
    temperature_celsius: Option<u32>,
    healthy: Option<bool>,
    reason: Option<String>,
    #[serde(default)]
    nodes: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
}

/// Has the command list the devices.
///
/// # Errors
/// Why nothing is known of them, in words.
pub fn look(lister: &Lister) -> Result<Look, String> {
    let name = lister.command.first().map_or("", String::as_str);
    let text = run(lister).map_err(|problem| format!("`{name}` {problem}"))?;
    understood(&text).map_err(|problem| format!("what `{name}` prints is no list: {problem}"))
}

/// How many devices the command lists; waits for it.
///
/// # Errors
/// Why nothing is known of them, in words.
pub fn devices_listed(lister: &Lister) -> Result<usize, String> {
    look(lister).map(|look| look.gpus.len())
}

/// What it prints.
fn run(lister: &Lister) -> Result<Vec<u8>, String> {
    let Some((program, arguments)) = lister.command.split_first() else {
        return Err("is no command".to_owned());
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child =
        command.process_group(0).spawn().map_err(|error| format!("cannot be run: {error}"))?;
    let (tell, told) = mpsc::sync_channel(1);
    if let Some(output) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = output.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut bytes);
            // Nobody waits any more for what comes too late.
            let _ = tell.send(read.map(|_| bytes));
        });
    }
    let at = Instant::now() + lister.deadline;
    let ended = until_ended(&mut child, at);
    // Whatever it has left goes with it, and so does what holds its output open.
    drop(GroupKill::of(Some(child.id())));
    let late = || format!("does not end within {} ms", lister.deadline.as_millis());
    let Some(status) = ended else {
        let _ = child.wait();
        return Err(late());
    };
    let left = at.saturating_duration_since(Instant::now()).max(LOOK_EVERY);
    let bytes = told.recv_timeout(left).map_err(|_| late())?;
    let bytes = bytes.map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > OUTPUT_BYTES_MAX {
        return Err(format!("prints more than {OUTPUT_BYTES_MAX} bytes"));
    }
    if !status.success() {
        return Err(format!("ended with {status}"));
    }
    Ok(bytes)
}

/// How it ended; `None` if it has not by then.
fn until_ended(child: &mut Child, at: Instant) -> Option<std::process::ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < at => std::thread::sleep(LOOK_EVERY),
            Ok(None) | Err(_) => return None,
        }
    }
}

/// What a list says.
fn understood(text: &[u8]) -> Result<Look, String> {
    let List { devices } = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if devices.len() > DEVICES_MAX {
        return Err(format!("expected at most {DEVICES_MAX} devices, found {}", devices.len()));
    }
    let mut uuids = BTreeSet::new();
    for row in &devices {
        check(row).map_err(|problem| format!("device `{}`: {problem}", row.uuid))?;
        if !uuids.insert(&row.uuid) {
            return Err(format!("two devices have the uuid `{}`", row.uuid));
        }
    }
    let gpus = (0..).zip(devices).map(|(index, row)| gpu(index, row)).collect();
    Ok(Look { driver: "a command".to_owned(), gpus, ..Look::default() })
}

fn check(row: &Row) -> Result<(), String> {
    for (what, text) in [("uuid", &row.uuid), ("model", &row.model)] {
        if text.is_empty() || text.len() > NAME_BYTES_MAX || text.contains(char::is_control) {
            return Err(format!("expected a {what} of 1 to {NAME_BYTES_MAX} characters"));
        }
    }
    if row.uuid.contains(',') {
        return Err("expected a uuid without commas".to_owned());
    }
    if row.memory_total_bytes == 0 {
        return Err("expected memory_total_bytes above 0".to_owned());
    }
    if row.nodes.len() > EACH_MAX || row.environment.len() > EACH_MAX {
        return Err(format!("expected at most {EACH_MAX} nodes and {EACH_MAX} variables"));
    }
    let is_node = |node: &String| {
        node.starts_with("/dev/") && node.len() <= VALUE_BYTES_MAX && is_plain(node)
    };
    if let Some(node) = row.nodes.iter().find(|node| !is_node(node)) {
        return Err(format!("expected a path below /dev, found `{node}`"));
    }
    for (name, value) in &row.environment {
        let starts = !name.starts_with(|first: char| first.is_ascii_digit());
        let is_name = starts && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let is_free = !RESERVED.iter().any(|reserved| name.starts_with(reserved));
        if name.is_empty() || !is_name || !is_free {
            return Err(format!("`{name}` is no variable that a device may set"));
        }
        if value.len() > VALUE_BYTES_MAX || value.contains('\0') {
            return Err(format!("the value of `{name}` cannot be"));
        }
    }
    Ok(())
}

/// Without a way out of its directory.
fn is_plain(path: &str) -> bool {
    !path.split('/').skip(1).any(|part| part.is_empty() || part == ".." || part == ".")
        && !path.contains(char::is_control)
}

fn gpu(index: u32, row: Row) -> GpuLook {
    let unwell = (row.healthy == Some(false))
        .then(|| row.reason.unwrap_or_else(|| "it is said not to be healthy".to_owned()));
    GpuLook {
        index,
        uuid: row.uuid,
        name: row.model,
        memory_total_bytes: row.memory_total_bytes,
        memory_used_bytes: row.memory_used_bytes,
        utilization_percent: row.utilization,
        temperature_celsius: row.temperature_celsius,
        is_listed: true,
        unwell,
        nodes: row.nodes,
        environment: row.environment,
        ..GpuLook::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"uuid": "GPU-x", "model": "MI300X", "memory_total_bytes": 9"#;

    fn list(rows: &[&str]) -> String {
        format!("{{\"devices\": [{}]}}", rows.join(","))
    }

    #[test]
    fn a_list_is_believed_as_a_whole_or_not_at_all() {
        let more = r#", "healthy": false, "reason": "hot", "utilization": 7,
            "nodes": ["/dev/dri/renderD128"], "environment": {"ROCR_VISIBLE_DEVICES": "0"}}"#;
        let look = understood(list(&[&format!("{ONE}{more}")]).as_bytes()).unwrap();
        let gpu = &look.gpus[0];
        assert_eq!((gpu.unwell.as_deref(), gpu.utilization_percent), (Some("hot"), Some(7)));
        assert_eq!(gpu.environment["ROCR_VISIBLE_DEVICES"], "0");
        assert_eq!(understood(br#"{"devices": []}"#).unwrap().gpus, []);
        let plain = format!("{ONE}}}");
        let with = |text: &str| list(&[&plain, &format!("{}, {text}}}", ONE.replace("-x", "-y"))]);
        for (text, problem) in [
            ("oops".to_owned(), "expected value"),
            ("{}".to_owned(), "missing field `devices`"),
            (list(&[&plain, &plain]), "two devices have the uuid `GPU-x`"),
            (with(r#""colour": 1"#), "unknown field `colour`"),
            (with(r#""nodes": ["/etc/shadow"]"#), "`GPU-y`: expected a path below /dev"),
            (with(r#""nodes": ["/dev/../etc/shadow"]"#), "expected a path below /dev"),
            (with(r#""environment": {"LD_PRELOAD": "x"}"#), "`LD_PRELOAD` is no variable"),
            (with(r#""environment": {"A=B": "x"}"#), "`A=B` is no variable"),
            (list(&[&plain.replace('9', "0")]), "expected memory_total_bytes above 0"),
            (list(&[&plain.replace("GPU-x", "")]), "expected a uuid of 1 to 128"),
        ] {
            let found = understood(text.as_bytes()).unwrap_err();
            assert!(found.contains(problem), "{text}: {found}");
        }
        let rows: Vec<String> =
            (0..65).map(|n| format!("{}}}", ONE.replace("-x", &n.to_string()))).collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        assert!(understood(list(&rows).as_bytes()).unwrap_err().contains("found 65"));
    }

    #[test]
    fn a_command_is_not_waited_for_without_end_and_says_what_it_lacks() {
        let asked = |script: &str, deadline| {
            let command = ["sh", "-c", script].map(str::to_owned).to_vec();
            let looked = look(&Lister { command, deadline });
            looked.map(|look| look.gpus.len())
        };
        let (long, short) = (Duration::from_secs(60), Duration::from_millis(100));
        assert_eq!(asked(&format!("echo '{}'", list(&[&format!("{ONE}}}")])), long), Ok(1));
        let begun = Instant::now();
        for (script, deadline, problem) in [
            ("sleep 600", short, "`sh` does not end within 100 ms"),
            ("exit 3", long, "`sh` ended with exit status: 3"),
            ("echo oops", long, "what `sh` prints is no list: expected value"),
            // By the signal that comes of it.
            ("exec head -c 1500000 /dev/zero", long, "`sh` prints more than 1048576 bytes"),
            // What it leaves is ended with it.
            ("sleep 600 & echo oops", long, "what `sh` prints is no list: expected value"),
        ] {
            let found = asked(script, deadline).unwrap_err();
            assert!(found.starts_with(problem), "{script}: {found}");
        }
        assert!(begun.elapsed() < long, "{:?}", begun.elapsed());
        let nothing = Lister { command: vec!["/nowhere/lister".to_owned()], deadline: long };
        assert!(look(&nothing).unwrap_err().starts_with("`/nowhere/lister` cannot be run: "));
    }
}
