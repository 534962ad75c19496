//! Where GPUs are mended and tested: programs of the host's, or of whoever runs it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use berth_supervise::gpu::Tested;
use tokio::process::Command;
use tokio::sync::{Notify, mpsc, oneshot};

use super::simulated;

/// A reset takes seconds, and a test of 200 GB of memory a minute; after this long neither
/// ends any more.
const DEADLINE: Duration = Duration::from_secs(5 * 60);
/// The longest problem that is told, in bytes.
const PROBLEM_BYTES_MAX: usize = 120;
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
    /// What tests a GPU; its one argument is the uuid. Without one, a mended GPU only has
    /// to be quiet.
    pub tester: Option<PathBuf>,
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
    pub async fn test(&self, uuid: &str) -> Tested {
        let Some(program) = &self.tester else { return Tested::Fine };
        match run(program.as_os_str(), &[uuid]).await {
            Ok(()) => Tested::Fine,
            Err(Failure::Said(problem)) => Tested::Wrong(problem),
            Err(Failure::NotRun(problem)) => Tested::Undone(problem),
        }
    }
}

impl Resetting {
    /// # Errors
    /// Why it was not reset.
    pub(super) async fn reset(&self, uuid: &str, index: u32) -> Result<(), String> {
        match self {
            Resetting::Usual => {
                let arguments = ["--gpu-reset", &format!("--id={uuid}")];
                run(NVIDIA_SMI.as_ref(), &arguments).await.map_err(Failure::in_words)
            }
            Resetting::Program(program) => {
                run(program.as_os_str(), &[uuid]).await.map_err(Failure::in_words)
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

/// Runs a program to its end.
///
/// # Errors
/// It failed, and the last that it said.
async fn run(program: &OsStr, arguments: &[&str]) -> Result<(), Failure> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
    let ended = tokio::time::timeout(DEADLINE, command.output()).await;
    let output = match ended {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(Failure::NotRun(format!("{name} cannot be run: {error}"))),
        Err(_) => return Err(Failure::NotRun(format!("{name} does not end"))),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
    let mut problem = match last {
        Some(line) => format!("{name}: {line}"),
        None => format!("{name} ended with {}", output.status),
    };
    problem.truncate(problem.floor_char_boundary(PROBLEM_BYTES_MAX));
    Err(Failure::Said(problem))
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
        let nothing = PathBuf::from("/bin/false");
        let workshop = Workshop {
            resets: mpsc::channel(1).0,
            look_now: Arc::default(),
            tester: Some(nothing),
        };
        let wrong = Tested::Wrong("false ended with exit status: 1".to_owned());
        assert_eq!(workshop.test("GPU-a").await, wrong);
        let gone = Workshop { tester: Some("/nowhere/tester".into()), ..workshop.clone() };
        assert!(
            matches!(gone.test("GPU-a").await, Tested::Undone(_)),
            "it says nothing of the GPU"
        );
        assert!(workshop.reset("GPU-a".to_owned()).await.is_err(), "nobody is there");
    }
}
