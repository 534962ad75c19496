//! What a whole process does: panic, and a standard error that nobody reads.
//! Run without arguments it starts itself again once per trial.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test with its own main, which clippy does not recognise as one"
)]

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use berth_telemetry::{LogFormat, Metrics, abort_on_panic, init_log};

/// The name that marks this process as one under trial.
const TRIAL_VARIABLE: &str = "TELEMETRY_TRIAL";

/// More than any trial needs; only a process that hangs gets here.
const PATIENCE: Duration = Duration::from_secs(120);

const ABORT_SIGNAL: i32 = 6;

fn main() -> ExitCode {
    match std::env::var(TRIAL_VARIABLE).as_deref() {
        Ok("panic-text") => panic_with_log(LogFormat::Text),
        Ok("panic-json") => panic_with_log(LogFormat::Json),
        Ok("panic-bare") => panic_without_log(),
        Ok("panic-blocked") => panic_while_blocked(),
        Ok("blocked") => log_while_blocked(),
        Ok("twice") => set_up_twice(),
        Ok(other) => panic!("unknown trial {other}"),
        Err(_) => run_all(),
    }
}

fn run_all() -> ExitCode {
    for (name, trial) in [
        ("panic_is_one_text_line", check_panic_text as fn()),
        ("panic_is_one_json_line", check_panic_json),
        ("panic_without_log_is_one_line", check_panic_bare),
        ("panic_aborts_though_nobody_reads", check_panic_blocked),
        ("nobody_reading_stalls_nobody", check_blocked),
        ("setting_up_twice_is_refused", check_twice),
    ] {
        println!("test {name} ...");
        trial();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

fn panic_with_log(format: LogFormat) -> ExitCode {
    let _log = init_log("info", format).unwrap();
    abort_on_panic(|| false);
    // In a thread, where an unhooked panic would leave the process alive.
    let ended = thread::Builder::new().name("doomed".to_owned()).spawn(|| panic!("two\nlines"));
    ended.unwrap().join().ok();
    ExitCode::SUCCESS
}

fn panic_without_log() -> ExitCode {
    abort_on_panic(|| false);
    thread::spawn(|| panic!("no log")).join().ok();
    ExitCode::SUCCESS
}

fn panic_while_blocked() -> ExitCode {
    let _log = init_log("info", LogFormat::Text).unwrap();
    abort_on_panic(|| false);
    for line_index in 0..100_000 {
        tracing::info!(line_index, "nobody reads this");
    }
    panic!("unheard")
}

/// Logs far more than pipe and queue hold, then reports on standard output.
fn log_while_blocked() -> ExitCode {
    let metrics = Metrics::install().unwrap();
    let _log = init_log("info", LogFormat::Text).unwrap();
    for line_index in 0..100_000 {
        tracing::info!(line_index, "nobody reads this");
    }
    println!("{}", metrics.render());
    ExitCode::SUCCESS
}

fn set_up_twice() -> ExitCode {
    let _first = init_log("info", LogFormat::Text).unwrap();
    assert!(init_log("info", LogFormat::Text).is_err());
    assert!(init_log("loud", LogFormat::Text).is_err());
    Metrics::install().unwrap();
    assert!(Metrics::install().is_err());
    ExitCode::SUCCESS
}

fn start(trial: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .env(TRIAL_VARIABLE, trial)
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs `work` in a thread and fails where it takes longer than anyone waits.
fn patiently<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(PATIENCE).expect("the process under trial ends in time")
}

/// The one line of a process that must abort.
fn aborted_line(trial: &'static str) -> String {
    let output = patiently(move || start(trial).wait_with_output().unwrap());
    assert_eq!(output.status.signal(), Some(ABORT_SIGNAL), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

fn check_panic_text() {
    let line = aborted_line("panic-text");
    for part in ["ERROR", "two\\nlines", "thread=doomed", "tests/process.rs:"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

fn check_panic_json() {
    let line = aborted_line("panic-json");
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(event["level"], "ERROR");
    assert_eq!(event["thread"], "doomed");
}

fn check_panic_bare() {
    let line = aborted_line("panic-bare");
    assert!(line.starts_with("internal error, process aborts: no log"), "{line}");
}

fn check_panic_blocked() {
    // Nobody reads the standard error of this child while it runs.
    let status = patiently(|| start("panic-blocked").wait().unwrap());
    assert_eq!(status.signal(), Some(ABORT_SIGNAL), "{status:?}");
}

fn check_blocked() {
    let (status, text) = patiently(|| {
        let mut child = start("blocked");
        let mut text = String::new();
        let mut output = child.stdout.take().unwrap();
        output.read_to_string(&mut text).unwrap();
        (child.wait().unwrap(), text)
    });
    assert!(status.success(), "{status:?}");
    let dropped = text
        .lines()
        .find_map(|line| line.strip_prefix("berth_log_lines_dropped_total "))
        .expect("the counter is rendered");
    let dropped: u64 = dropped.parse().unwrap();
    assert!((50_000..100_000).contains(&dropped), "{dropped}");
}

fn check_twice() {
    let output = patiently(|| start("twice").wait_with_output().unwrap());
    assert!(output.status.success(), "{output:?}");
}
