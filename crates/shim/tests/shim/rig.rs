//! One shim in a directory of its own, and a socket on which its workers report.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_shim::protocol::{
    AllocationState, EnvironmentVariable, Phase, RefusalCode, StartRequest, StopRequest,
    StopSettings,
};
use berth_shim::{Event, ExitRecord, Mark, ProcessIdentity, ShimError, ShimHandle, kill_all};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

/// The shim and its workers are this executable.
pub const EXE: &str = env!("CARGO_BIN_EXE_berth-shim-test");
/// Longer than anything here takes on a busy machine; a test that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const ID: &str = "7.main.0.1";

pub struct Rig {
    root: TempDir,
    pub shim: ShimHandle,
    reports: UnixListener,
}

/// A worker that has reported.
pub struct Reporter {
    pub pid: u32,
    stream: UnixStream,
}

impl Rig {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let reports = UnixListener::bind(root.path().join("reports")).unwrap();
        for name in ["task", "record"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        let shim = spawn(&root.path().join("shims/0")).unwrap();
        Self { root, shim, reports }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn mark(&self) -> Mark {
        let task_dir = Some(self.text("task"));
        Mark { allocation_id: ID.to_owned(), task_dir, cgroup_dirs: Vec::new() }
    }

    /// A start of `command` with a record file, both logs and the mark.
    pub fn request(&self, command: &[&str]) -> StartRequest {
        let variable =
            |name: &str, value: String| EnvironmentVariable { name: name.to_owned(), value };
        StartRequest {
            allocation_id: ID.to_owned(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            env: vec![
                variable("BERTH_ALLOC_ID", ID.to_owned()),
                variable("BERTH_TASK_DIR", self.text("task")),
            ],
            working_dir: self.text("task"),
            stdout_path: self.text("stdout"),
            stderr_path: self.text("stderr"),
            record_dir: self.text("record"),
            ..StartRequest::default()
        }
    }

    /// A start of one of the test executable's workers, `arguments` behind its socket.
    pub fn worker(&self, kind: &str, arguments: &[&str]) -> StartRequest {
        let reports = self.text("reports");
        self.request(&[&[EXE, kind, reports.as_str()], arguments].concat())
    }

    pub fn report(&self) -> Reporter {
        await_readable(&self.reports);
        let (mut stream, _) = self.reports.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        Reporter { pid: std::str::from_utf8(&line).unwrap().trim().parse().unwrap(), stream }
    }

    /// Runs `request` to its end.
    pub fn run(&mut self, request: StartRequest) -> ExitRecord {
        let id = request.allocation_id.clone();
        self.shim.start(request).unwrap();
        ended(&mut self.shim, &id)
    }

    pub fn reconnect(&mut self) {
        self.shim = ShimHandle::connect(&self.path("shims/0")).unwrap();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let hello = self.shim.hello().clone();
        let _ = self.shim.stop(StopRequest {
            allocation_id: ID.to_owned(),
            signal: None,
            grace_ms: Some(0),
        });
        let _ = kill_all(&self.mark(), PATIENCE);
        let identity = ProcessIdentity {
            pid: hello.pid,
            start_ticks: hello.start_ticks,
            boot_id: hello.boot_id,
        };
        let _ = identity.signal(rustix::process::Signal::KILL);
    }
}

impl Reporter {
    pub fn exit(&mut self, code: u8) {
        self.stream.write_all(&[code]).unwrap();
    }

    /// Blocks until the worker's end of the connection is closed, by its end and nothing else.
    pub fn await_end(mut self) {
        let mut rest = Vec::new();
        // A killed worker that had not read everything makes this a reset.
        let _ = self.stream.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }
}

pub fn spawn(dir: &Path) -> Result<ShimHandle, ShimError> {
    ShimHandle::spawn(Path::new(EXE), ["shim", dir.to_str().unwrap()], dir)
}

/// Waits for the end of `id` and returns its durable record.
pub fn ended(shim: &mut ShimHandle, id: &str) -> ExitRecord {
    let mut state = shim.attach(id).unwrap();
    while phase(&state) != Phase::Ended || state.allocation_id != id {
        state = match shim.next_event(Some(PATIENCE)).unwrap().expect("the allocation ends") {
            Event::Started(state) | Event::Changed(state) | Event::Ended(state) => state,
        };
    }
    state.record.unwrap()
}

/// Waits for the event that shows `wanted`.
pub fn await_phase(shim: &mut ShimHandle, wanted: Phase) -> AllocationState {
    loop {
        match shim.next_event(Some(PATIENCE)).unwrap().expect("the phase comes") {
            Event::Started(state) | Event::Changed(state) | Event::Ended(state)
                if phase(&state) == wanted =>
            {
                return state;
            }
            Event::Started(_) | Event::Changed(_) | Event::Ended(_) => {}
        }
    }
}

pub fn phase(state: &AllocationState) -> Phase {
    Phase::try_from(state.phase).unwrap()
}

pub fn stop(grace_ms: u64) -> StopRequest {
    StopRequest { allocation_id: ID.to_owned(), signal: None, grace_ms: Some(grace_ms) }
}

/// A leftover is killed after `leftover_grace_ms`, and found unkillable 50 ms later.
pub fn stop_settings(leftover_grace_ms: u64) -> StopSettings {
    StopSettings {
        leftover_grace_ms: Some(leftover_grace_ms),
        unkillable_after_ms: Some(50),
        ..StopSettings::default()
    }
}

pub fn refusal<T: std::fmt::Debug>(outcome: Result<T, ShimError>) -> RefusalCode {
    match outcome {
        Err(ShimError::Refused { code, .. }) => code,
        other => panic!("not refused: {other:?}"),
    }
}

pub fn await_readable(descriptor: impl AsFd) {
    let patience = Timespec::try_from(PATIENCE).unwrap();
    let mut polled = [PollFd::new(&descriptor, PollFlags::IN)];
    assert_eq!(poll(&mut polled, Some(&patience)).unwrap(), 1, "nothing came");
}

/// Blocks until the process has ended.
pub fn await_death(identity: &ProcessIdentity) {
    if let Some(descriptor) = identity.open().unwrap() {
        await_readable(descriptor);
    }
}

/// Says why a test cannot run here; an error where `BERTH_TESTS_REQUIRE` names the need.
pub fn skip(need: &str, reason: &str) {
    let required = std::env::var("BERTH_TESTS_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|required| required == need),
        "required but skipped: {reason}"
    );
    // The print macros are held back when a test passes, as a skipped one does.
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "skipped: {reason}");
}
