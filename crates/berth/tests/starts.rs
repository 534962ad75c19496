//! What a daemon refuses to start on: each time one line that says what, where
//! and what would be right, an exit code, and nothing changed.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use berth::local::{TRIAL_SETTINGS, free_ports};
use berth_tests::skip::skipped;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use support::disk::Memory;
use support::secure::SecureScheduler;

/// A scheduler that is started, and what must come of it.
struct Start<'a> {
    arguments: Vec<String>,
    settings: Vec<(&'a str, &'a str)>,
    folder: PathBuf,
}

impl<'a> Start<'a> {
    /// On loopback, in this folder; more arguments override.
    fn new(folder: &Path, arguments: &[&str]) -> Start<'a> {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Start { arguments, settings: TRIAL_SETTINGS.to_vec(), folder: folder.to_owned() }
    }

    fn with(mut self, key: &'a str, value: &'a str) -> Start<'a> {
        self.settings.push((key, value));
        self
    }

    /// Ends by itself with this code, and says all of `parts`.
    async fn refused_with(self, code: i32, parts: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command.arg("scheduler").args(&self.arguments).current_dir(&self.folder);
        command.args(["--log-level", "off"]).env_clear().envs(self.settings).kill_on_drop(true);
        let ended = tokio::time::timeout(support::LIMIT, command.output()).await;
        let what = self.arguments.join(" ");
        let output = ended.unwrap_or_else(|_| panic!("{what}: it did start")).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{what}: {said}");
        for part in parts {
            assert!(said.contains(part), "{what}: `{part}` is not in: {said}");
        }
        assert!(!said.contains("panicked"), "{what}: {said}");
    }
}

const HERE: [&str; 4] = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
const FOUND: [&str; 7] =
    ["--data-dir", "data", "--bootstrap", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];

#[tokio::test]
async fn b64_b65_b71_settings_that_are_wrong_are_all_named_before_anything_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let refused = async |file: &str, text: &str, parts: &[&str]| {
        fs::write(folder.join(file), text).unwrap();
        let start = Start::new(folder, &[&["--config", file], &FOUND[..]].concat());
        start.refused_with(2, parts).await;
    };
    let missing = Start::new(folder, &[&["--config", "none.toml"], &FOUND[..]].concat());
    missing.refused_with(2, &["none.toml: there is no such file"]).await;
    refused("empty.toml", "", &["empty.toml: is empty"]).await;
    let unknown = "[server]\nprot = 1\n[scheduler]\nlistn = 'x'\n";
    let parts =
        ["unknown key `server`", "unknown key `scheduler.listn`", "mean `scheduler.listen`"];
    refused("unknown.toml", unknown, &parts).await;
    let twice = "[scheduler]\nlisten = '1.2.3.4:1'\nlisten = '1.2.3.4:2'\n";
    refused("twice.toml", twice, &["twice.toml:3", "`listen` is given twice", "2:1"]).await;
    let timers = "[scheduler.lease]\nheartbeat = '10s'\nsuspect_after = '5s'\n";
    let parts = ["heartbeat (10s) must be below", "suspect_after (5s)"];
    refused("timers.toml", timers, &parts).await;

    let start = Start::new(folder, &FOUND[..3]).with("BERTH_SCHEDULER__LISTEN", "nonsense");
    start.refused_with(2, &["BERTH_SCHEDULER__LISTEN", "`nonsense` has no port"]).await;
    // One that is misspelt is warned of by name, whatever else is wrong.
    let start = Start::new(folder, &FOUND[..2]).with("BERTH_SCHEDULER_LISTEN", "127.0.0.1:1");
    start
        .refused_with(1, &["BERTH_SCHEDULER_LISTEN", "did you mean BERTH_SCHEDULER__LISTEN"])
        .await;
    assert!(!folder.join("data").exists(), "nothing was made");
}

#[tokio::test]
async fn b66_b67_addresses_that_cannot_be_served_are_named_with_their_setting() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let own = format!("process {} (", std::process::id());
    let data = ["--data-dir", "data", "--bootstrap"];
    let start = |more: &[&str]| Start::new(folder, &[&data[..], more].concat());
    let parts = ["listen on", &address, &own, "--listen", "in use"];
    start(&["--listen", &address, "--http", "127.0.0.1:0"]).refused_with(1, &parts).await;
    let parts = ["listen on", &address, &own, "--http", "in use"];
    start(&["--listen", "127.0.0.1:0", "--http", &address]).refused_with(1, &parts).await;
    // An address of documentation, which no host has.
    let elsewhere = ["--listen", "192.0.2.1:7070", "--http", "127.0.0.1:0", "--plain-text"];
    let parts = ["192.0.2.1:7070", "--listen", "Cannot assign requested address"];
    start(&elsewhere).refused_with(1, &parts).await;
    // Every address of the host is none that others could use.
    let all = ["--listen", "0.0.0.0:0", "--http", "127.0.0.1:0", "--plain-text"];
    start(&all).refused_with(2, &["every address of this host", "--advertise"]).await;
    // Beyond loopback there is TLS, or plain text by name; not both.
    let both = ["--listen", "127.0.0.1:0", "--tls-dir", "tls", "--plain-text"];
    start(&both).refused_with(2, &["--tls-dir", "--plain-text"]).await;
    assert!(!folder.join("data").exists(), "nothing was made");
}

#[tokio::test]
async fn b74_b75_directories_that_hold_no_data_or_somebody_elses_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let start = |more: &[&str]| Start::new(folder, &[&HERE[..], more].concat());
    let parts = ["none holds no scheduler (was the disk unmounted?)", "--bootstrap or --join"];
    start(&["--data-dir", "none"]).refused_with(1, &parts).await;
    assert!(!folder.join("none").exists(), "nothing was made");
    fs::write(folder.join("file"), "").unwrap();
    start(&["--data-dir", "file", "--bootstrap"])
        .refused_with(1, &["file is not a directory"])
        .await;
    start(&["--data-dir", "file/below", "--bootstrap"]).refused_with(1, &["file/below"]).await;

    // A second process on the same directory.
    let ports = free_ports(1).unwrap();
    let address = format!("127.0.0.1:{}", ports[0]);
    let first = SecureScheduler::found(folder.join("data")).await;
    let known = first.grpc.clone();
    let more = ["--data-dir", "data", "--listen", &address, "--advertise", &known];
    let parts = ["data/raft is in use by pid", &first.child.pid.to_string(), "since", "stop that"];
    Start::new(folder, &[&more[..], &["--http", "127.0.0.1:0"]].concat())
        .refused_with(1, &parts)
        .await;
    drop(first);
}

#[tokio::test]
async fn b74_file_systems_that_cannot_keep_data_are_refused() {
    let test = "b74_file_systems_that_cannot_keep_data_are_refused";
    if !rustix::process::geteuid().is_root() {
        return skipped(test, "root", "mounting a file system takes root");
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let refused = async |options: &str, parts: &[&str]| {
        let _mounted = Memory::mount(folder.join("mounted"), options);
        let more = ["--data-dir", "mounted/data", "--bootstrap"];
        let mut start = Start::new(folder, &[&HERE[..], &more].concat());
        start.settings.clear();
        start.refused_with(1, parts).await;
    };
    refused("size=4m", &["mounted/data", "tmpfs", "scheduler.disk.allow_memory"]).await;
    refused("ro", &["mounted/data", "Read-only file system"]).await;
}

/// It starts, and says once what it cannot do.
#[tokio::test]
async fn b73_a_scheduler_that_may_open_few_files_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let script = "ulimit -n 256 && exec \"$0\" scheduler --log-level off \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_berth")]).args(FOUND);
    // Of anything else that is set it would say that it is no setting.
    command.current_dir(folder.path()).env_clear().envs(TRIAL_SETTINGS);
    command.stderr(Stdio::piped()).kill_on_drop(true);
    let mut scheduler = command.spawn().unwrap();
    let mut said = BufReader::new(scheduler.stderr.take().unwrap()).lines();
    let line = tokio::time::timeout(support::LIMIT, said.next_line()).await.unwrap().unwrap();
    assert!(line.unwrap().contains("may have 256 files and connections open"));
    let hint = said.next_line().await.unwrap().unwrap();
    assert!(hint.contains("LimitNOFILE"), "{hint}");
    assert!(scheduler.try_wait().unwrap().is_none(), "it goes on");
    scheduler.kill().await.unwrap();
}

#[tokio::test]
async fn b72_settings_are_read_again_and_what_waits_for_a_restart_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("berth.toml");
    fs::write(&file, "log.level = 'info'\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.arg("scheduler").args(FOUND).args(["--config", "berth.toml"]);
    command.current_dir(folder.path()).env_clear().envs(TRIAL_SETTINGS);
    command.stderr(Stdio::piped()).kill_on_drop(true);
    let mut scheduler = command.spawn().unwrap();
    let pid = scheduler.id().unwrap();
    let mut lines = BufReader::new(scheduler.stderr.take().unwrap()).lines();
    let mut said = async |parts: &[&str]| loop {
        let line = tokio::time::timeout(support::LIMIT, lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{parts:?} was not said"));
        let line = line.unwrap().expect("it goes on");
        if parts.iter().all(|part| line.contains(part)) {
            return;
        }
    };
    said(&["leading"]).await;
    let reread = |text: &str| {
        fs::write(&file, text).unwrap();
        support::processes::send(pid, rustix::process::Signal::HUP);
    };
    reread("log.level = 'info'\nscheduler.listn = 'x'\n");
    said(&["WARN", "settings not read again", "berth.toml:2", "mean `scheduler.listen`"]).await;
    reread("log.level = 'warn'\nscheduler.submits_per_second = 7\nagent.pool = 'b'\n");
    said(&["WARN", "needs a restart", "scheduler.submits_per_second", "wanted=\"7\""]).await;
    // The level is another one now: this is said, and what is only of interest is not.
    reread("log.level = 'debug'\n");
    said(&["INFO", "setting changed", "log.level", "from=\"warn\"", "to=\"debug\""]).await;
    reread("log.level = 'debug'\n");
    said(&["INFO", "nothing differs"]).await;
    assert!(scheduler.try_wait().unwrap().is_none(), "it goes on");
    scheduler.kill().await.unwrap();
}

#[tokio::test]
async fn b68_credentials_that_do_not_fit_are_named_by_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut first = SecureScheduler::found(folder.join("first")).await;
    let mut second = SecureScheduler::found(folder.join("second")).await;
    let (grpc, http) = (first.grpc.clone(), first.http.clone());
    // Until they are gone their directories are in use.
    first.child.kill().await.unwrap();
    second.child.kill().await.unwrap();
    let key = folder.join("first/tls/key.pem");
    let other = folder.join("second/tls/key.pem");
    let kept = fs::read(&key).unwrap();
    let own = ["--data-dir", "first", "--listen", &grpc, "--http", &http];

    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    Start::new(folder, &own).refused_with(2, &["first/tls/key.pem", "chmod 600"]).await;
    fs::write(&key, fs::read(&other).unwrap()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    Start::new(folder, &own).refused_with(2, &["first/tls", "key"]).await;
    fs::write(&key, "no key at all").unwrap();
    Start::new(folder, &own).refused_with(2, &["first/tls/key.pem"]).await;
    fs::write(&key, kept).unwrap();
    // The certificate of another cluster, with its own key.
    let more = ["--data-dir", "first", "--tls-dir", "second/tls", "--listen", &grpc];
    let start = Start::new(folder, &[&more[..], &["--http", &http]].concat());
    start.refused_with(2, &["second/tls"]).await;
}
