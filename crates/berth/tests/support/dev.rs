//! `berth dev` as a child process, for tests of how it ends.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use berth_client::{Client, Options};
use rustix::process::Signal;

use super::processes;

/// By convention the user without rights.
pub const NOBODY: u32 = 65_534;

/// Who runs it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum As {
    WhoeverThisIs,
    /// Takes root.
    Nobody,
}

/// A local cluster that is ready; killed at the latest when this is dropped.
pub struct Dev {
    pub data_dir: PathBuf,
    pub client: Client,
    child: Child,
}

impl Dev {
    /// Starts it below `folder`.
    pub async fn start(folder: &Path, who: As, schedulers: u8, agents: u8) -> Dev {
        let program = env!("CARGO_BIN_EXE_berth");
        let mut command = match who {
            As::WhoeverThisIs => Command::new(program),
            As::Nobody => {
                let mut command = Command::new("setpriv");
                let user = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
                command.args(user).args(["--clear-groups", program]);
                command
            }
        };
        let (data_dir, ready) = (folder.join("dev"), folder.join("ready"));
        let child = command
            .args(["dev", "--unconfined", "--schedulers", &schedulers.to_string()])
            .args(["--agents", &agents.to_string(), "--log-level", &super::log_level()])
            .arg("--data-dir")
            .arg(&data_dir)
            .arg("--ready-file")
            .arg(&ready)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stderr(if super::log_level() == "off" { Stdio::null() } else { Stdio::inherit() })
            .spawn()
            .unwrap();
        let text = super::until("berth dev to be ready", || async {
            assert!(processes::is_alive(child.id()), "berth dev ended");
            std::fs::read_to_string(&ready).ok()
        })
        .await;
        let ready: serde_json::Value = serde_json::from_str(&text).unwrap();
        let servers = ready["servers"].as_array().unwrap().iter();
        let servers = servers.map(|server| server.as_str().unwrap().to_owned()).collect();
        Dev { data_dir, client: Client::new(Options::new(servers)), child }
    }

    /// Ends it in order.
    pub async fn end(mut self) {
        processes::send(self.child.id(), Signal::TERM);
        let what = "berth dev to end";
        let status = super::until(what, || {
            let ended = self.child.try_wait().unwrap();
            async move { ended }
        });
        let status = status.await;
        assert!(status.success(), "berth dev: {status}");
    }

    /// Kills it with SIGKILL; its children learn of it from the kernel alone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
