//! Workers that wait until the test lets each of them go, with the exit code
//! that it chooses. A gate is a named pipe: who waits at it costs nothing.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

/// Gates of the instances of one job, and the traces that the instances leave.
pub struct Gates {
    gates: PathBuf,
    pub traces: PathBuf,
}

impl Gates {
    pub fn new(folder: &Path, count: u32) -> Gates {
        let (gates, traces) = (folder.join("gates"), folder.join("traces"));
        std::fs::create_dir_all(&gates).unwrap();
        std::fs::create_dir_all(&traces).unwrap();
        for index in 0..count {
            let path = gates.join(index.to_string());
            mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        }
        Gates { gates, traces }
    }

    /// Leaves its pid in the trace of its index, waits, and ends as it is told.
    pub fn command(&self) -> Vec<String> {
        super::shell(&format!(
            "echo $$ >> {}/$BERTH_TASK_INDEX; read code < {}/$BERTH_TASK_INDEX; exit $code",
            self.traces.display(),
            self.gates.display()
        ))
    }

    /// Lets the instance go, as soon as it waits.
    pub async fn release(&self, index: u32, code: i32) {
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
        let path = self.gates.join(index.to_string());
        let mut options = OpenOptions::new();
        // Without a reader this is an error rather than a wait.
        options.write(true).custom_flags(nonblocking);
        let mut gate = super::until(&format!("instance {index} to wait"), || async {
            options.open(&path).ok()
        })
        .await;
        writeln!(gate, "{code}").unwrap();
    }

    /// The pids of every attempt of an instance, in their order.
    pub fn pids(&self, index: u32) -> Vec<u32> {
        let text = std::fs::read_to_string(self.traces.join(index.to_string()));
        text.unwrap_or_default().lines().map(|line| line.parse().unwrap()).collect()
    }
}
