//! Where GPUs are mended and tested: by programs of the host's, of whoever runs it, or by the
//! agent's own. Each may hang in the driver, so that none is waited for without end, and nothing
//! else is begun in its place before it is gone.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use berth_supervise::gpu::{Cut, Tested};
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{info, warn};

use super::self_test::{self, CudaLibrary, Ended};
use super::simulated;
use crate::options::Program;
use crate::process_group::GroupKill;

/// A reset takes seconds, and a test of 200 GB of memory a minute; after this long neither
/// ends any more.
pub const DEADLINE: Duration = Duration::from_secs(5 * 60);
/// The longest problem that is told, in bytes.
const PROBLEM_BYTES_MAX: usize = 120;
/// Of what a process says the end is kept: the last line says what is wrong.
const SAID_BYTES_MAX: usize = 4 << 10;
/// Of the driver's own.
const NVIDIA_SMI: &str = "nvidia-smi";

/// How a GPU is reset.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resetting {
    /// By the driver's own program, which takes root.
    Usual,
    /// By this program, whose one argument is the uuid.
    Program(PathBuf),
    /// In the script of faults of pretended ones.
    Simulated(PathBuf),
}

/// A GPU that is to be reset while nobody looks at it.
pub struct Reset {
    pub uuid: String,
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// What the agent has to mend GPUs with.
#[derive(Clone, Debug)]
pub struct Workshop {
    /// To whoever looks at the GPUs.
    pub resets: mpsc::Sender<Reset>,
    /// Has the GPUs looked at now.
    pub look_now: Arc<Notify>,
    pub tester: Tester,
    /// How long a test may take.
    pub test_within: Duration,
}

/// What tests a mended GPU.
#[derive(Clone, Debug)]
pub enum Tester {
    /// Nothing: it only has to be quiet.
    Nothing,
    /// A program whose one argument is the uuid.
    Program(PathBuf),
    /// This executable itself, in a mode that calls this library.
    Itself(Program, CudaLibrary),
}

impl Workshop {
    /// Resets a GPU that nobody uses.
    ///
    /// # Errors
    /// Why it was not reset.
    pub async fn reset(&self, uuid: String) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let gone = || "nobody looks at GPUs any more".to_owned();
        self.resets.send(Reset { uuid, answer }).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Tests a GPU that nobody uses.
    pub async fn test(&self, uuid: &str, cut: Cut) -> Tested {
        match (&self.tester, cut) {
            (Tester::Nothing, _) => Tested::Fine,
            // No program can compute on the whole of it then. Whoever names one wants it to run.
            (Tester::Program(_), Cut::InParts) => {
                Tested::Undone("it is cut up (MIG), and is tested as a whole".to_owned())
            }
            (Tester::Program(program), Cut::Whole) => {
                let mut command = Command::new(program);
                command.arg(uuid);
                match run(command, self.test_within).await {
                    Ok(()) => Tested::Fine,
                    Err(Failure::Said(problem)) => Tested::Wrong(problem),
                    Err(Failure::NotRun(problem)) => Tested::Undone(problem),
                }
            }
            (Tester::Itself(..), Cut::InParts) => {
                info!(uuid, "GPU is not tested: it is cut up (MIG)");
                Tested::Fine
            }
            (Tester::Itself(program, library), Cut::Whole) => {
                let command = self_test::command(program, library, uuid);
                test_by_itself(command, uuid, self.test_within).await
            }
        }
    }
}

/// What the agent's own test says of a GPU.
async fn test_by_itself(command: Command, uuid: &str, within: Duration) -> Tested {
    let output = match finish(command, within).await {
        Finished::Ended(output) => output,
        Finished::NotBegun(error) => {
            return Tested::Undone(format!("its test cannot be begun: {error}"));
        }
        Finished::Hung(output) => {
            let call = last_line(&output.stdout);
            let problem = format!("{} does not return", call.as_deref().unwrap_or("its test"));
            // It wakes the driver, which is the same for every GPU; and before it nothing was.
            let is_of_gpu = call.is_some_and(|call| call != "cuInit");
            return if is_of_gpu { Tested::Wrong(problem) } else { Tested::Undone(problem) };
        }
    };
    let said = last_line(&output.stderr)
        .map_or_else(|| format!("its test ended with {}", output.status), shortened);
    match Ended::of(output.status.code()) {
        Ended::Fine => Tested::Fine,
        Ended::Wrong => Tested::Wrong(said),
        Ended::Undone => Tested::Undone(said),
        Ended::NoLibrary => {
            info!(uuid, reason = said, "GPU is not tested");
            Tested::Fine
        }
    }
}

impl Resetting {
    /// # Errors
    /// Why it was not reset.
    pub(super) async fn reset(&self, uuid: &str, index: u32) -> Result<(), String> {
        match self {
            Resetting::Usual => {
                let mut command = Command::new(NVIDIA_SMI);
                command.args(["--gpu-reset", &format!("--id={uuid}")]);
                run(command, DEADLINE).await.map_err(Failure::in_words)
            }
            Resetting::Program(program) => {
                let mut command = Command::new(program);
                command.arg(uuid);
                run(command, DEADLINE).await.map_err(Failure::in_words)
            }
            Resetting::Simulated(faults) => simulate(faults, index),
        }
    }
}

fn simulate(faults: &Path, index: u32) -> Result<(), String> {
    simulated::reset(faults, index).map_err(|error| format!("{}: {error}", faults.display()))
}

/// How a program did not succeed.
enum Failure {
    /// It could not be begun, or did not end.
    NotRun(String),
    /// It said so.
    Said(String),
}

impl Failure {
    fn in_words(self) -> String {
        match self {
            Failure::NotRun(problem) | Failure::Said(problem) => problem,
        }
    }
}

/// Runs a program of the host's to its end.
///
/// # Errors
/// It failed, and the last that it said.
async fn run(command: Command, within: Duration) -> Result<(), Failure> {
    let program = PathBuf::from(command.as_std().get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
    let output = match finish(command, within).await {
        Finished::Ended(output) => output,
        Finished::NotBegun(error) => {
            return Err(Failure::NotRun(format!("{name} cannot be run: {error}")));
        }
        Finished::Hung(_) => return Err(Failure::NotRun(format!("{name} does not end"))),
    };
    if output.status.success() {
        return Ok(());
    }
    let last = last_line(&output.stdout).or_else(|| last_line(&output.stderr));
    Err(Failure::Said(shortened(match last {
        Some(line) => format!("{name}: {line}"),
        None => format!("{name} ended with {}", output.status),
    })))
}

/// How a process ended.
enum Finished {
    Ended(Output),
    NotBegun(io::Error),
    /// It did not, and was killed; what it had said until then.
    Hung(Output),
}

/// Runs a process, and all that it starts, until it ends or its time is over. Returns no sooner
/// than it is gone: one that hangs in the driver cannot be ended, and a second one would hang
/// beside it.
async fn finish(mut command: Command, within: Duration) -> Finished {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.process_group(0).kill_on_drop(true).spawn() {
        Ok(child) => child,
        Err(error) => return Finished::NotBegun(error),
    };
    let group = GroupKill::of(child.id());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let ended = async {
        tokio::join!(keep_end(out, &mut stdout), keep_end(err, &mut stderr));
        child.wait().await
    };
    let ended = tokio::time::timeout(within, ended).await;
    let is_hung = ended.is_err();
    let status = match ended {
        Ok(status) => status,
        Err(_) => {
            warn!(pid = child.id(), "a process that resets or tests a GPU does not end");
            group.signal(Signal::KILL);
            child.wait().await
        }
    };
    group.forget();
    match status {
        Ok(status) if is_hung => Finished::Hung(Output { status, stdout, stderr }),
        Ok(status) => Finished::Ended(Output { status, stdout, stderr }),
        Err(error) => Finished::NotBegun(error),
    }
}

/// Reads to the end of what is said, and keeps the last of it.
async fn keep_end(said: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut said) = said else { return };
    // What cannot be read is as good as its end.
    while said.read_buf(kept).await.is_ok_and(|length| length > 0) {
        let too_long = kept.len().saturating_sub(SAID_BYTES_MAX);
        kept.drain(..too_long);
    }
}

/// The last line with anything on it.
fn last_line(said: &[u8]) -> Option<String> {
    let said = String::from_utf8_lossy(said);
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
    last.map(str::to_owned)
}

fn shortened(mut problem: String) -> String {
    problem.truncate(problem.floor_char_boundary(PROBLEM_BYTES_MAX));
    problem
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_program_of_the_host_says_why_it_did_not_work() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("mend");
        let content = "#!/bin/sh\n[ \"$1\" = GPU-a ] && exit 0\necho \"busy: $1\"\necho\nexit 3\n";
        fs::write(&program, content).unwrap();
        let resetting = Resetting::Program(program.clone());
        let error = resetting.reset("GPU-a", 0).await.unwrap_err();
        assert!(error.starts_with("mend cannot be run: Permission denied"), "{error}");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(resetting.reset("GPU-a", 0).await, Ok(()));
        assert_eq!(resetting.reset("GPU-b", 0).await, Err("mend: busy: GPU-b".to_owned()));
        let workshop = workshop(Tester::Program("/bin/false".into()), DEADLINE);
        let wrong = Tested::Wrong("false ended with exit status: 1".to_owned());
        assert_eq!(workshop.test("GPU-a", Cut::Whole).await, wrong);
        let in_parts = workshop.test("GPU-a", Cut::InParts).await;
        assert!(matches!(in_parts, Tested::Undone(_)), "{in_parts:?}");
        let nowhere = Tester::Program("/nowhere/tester".into());
        let gone = Workshop { tester: nowhere, ..workshop.clone() };
        let gone = gone.test("GPU-a", Cut::Whole).await;
        assert!(matches!(gone, Tested::Undone(_)), "it says nothing of the GPU: {gone:?}");
        assert!(workshop.reset("GPU-a".to_owned()).await.is_err(), "nobody is there");
    }

    fn workshop(tester: Tester, test_within: Duration) -> Workshop {
        let resets = mpsc::channel(1).0;
        Workshop { resets, look_now: Arc::default(), tester, test_within }
    }

    /// A shell in place of the process that tests.
    fn itself(script: &str) -> Tester {
        let arguments = vec!["-c".into(), script.into()];
        Tester::Itself(Program { exe: "/bin/sh".into(), arguments }, CudaLibrary::Usual)
    }

    #[tokio::test]
    async fn the_agents_own_test_says_more_than_that_it_failed() {
        let wrong = |said: &str| Tested::Wrong(said.to_owned());
        let undone = |said: &str| Tested::Undone(said.to_owned());
        for (script, expected) in [
            ("echo cuInit", Tested::Fine),
            ("echo details >&2; echo wrong bits >&2; exit 1", wrong("wrong bits")),
            ("echo no such GPU >&2; exit 3", undone("no such GPU")),
            ("exit 9", undone("its test ended with exit status: 9")),
            ("echo no libcuda >&2; exit 4", Tested::Fine),
            ("[ $CUDA_VISIBLE_DEVICES = GPU-a ] || exit 1", Tested::Fine),
        ] {
            let workshop = workshop(itself(script), DEADLINE);
            assert_eq!(workshop.test("GPU-a", Cut::Whole).await, expected, "{script}");
        }
        let workshop = workshop(itself("exit 1"), DEADLINE);
        let in_parts = workshop.test("GPU-a", Cut::InParts).await;
        assert_eq!(in_parts, Tested::Fine, "nothing can use the whole of it");
    }

    /// Until a process has ended; whether it has.
    fn is_gone_at_last(pid: i32) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        use rustix::process::{Pid, PidfdFlags, pidfd_open};
        let opened = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty());
        let Ok(process) = opened else { return true };
        let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience)).unwrap() > 0
    }

    #[tokio::test]
    async fn a_test_that_hangs_is_gone_before_anything_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        for (calls, expected) in [
            ("cuInit\ncuMemAlloc", Tested::Wrong("cuMemAlloc does not return".to_owned())),
            ("cuInit", Tested::Undone("cuInit does not return".to_owned())),
        ] {
            // Nothing hears a signal here but the kernel.
            let hang = format!("sleep 600 & echo $! > {}; wait", file.display());
            let script = format!("trap '' TERM; printf '{calls}\n'; {hang}");
            let workshop = workshop(itself(&script), Duration::from_millis(500));
            assert_eq!(workshop.test("GPU-a", Cut::Whole).await, expected);
            let pid = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
            assert!(is_gone_at_last(pid), "what it has started ends with it");
        }
    }
}
