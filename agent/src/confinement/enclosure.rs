//! What encloses one worker, as the agent writes it down for the processes that carry it out.

use std::fs;
use std::io;
use std::path::Path;

use berth_shim::protocol::{EnvironmentVariable, UserIds};

use crate::allocation_dir::write_private;
use crate::frame::{self, Framed};

/// The file of an allocation that holds it. Variables may be secrets, so it is nobody's but the
/// agent's.
const FILE: &str = "enclosure";

/// One program and what it may see and do.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Enclosure {
    #[prost(string, repeated, tag = "1")]
    pub command: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    pub environment: Vec<EnvironmentVariable>,
    #[prost(string, tag = "3")]
    pub working_dir: String,
    /// Whom it runs as; as whoever starts it where absent.
    #[prost(message, optional, tag = "4")]
    pub user: Option<UserIds>,
    /// What it sees of the host; all where absent.
    #[prost(message, optional, tag = "5")]
    pub view: Option<View>,
    #[prost(enumeration = "Rights", tag = "6")]
    pub rights: i32,
    /// The groups that it is held by.
    #[prost(string, repeated, tag = "7")]
    pub cgroup_dirs: Vec<String>,
    /// Who goes first when memory runs out; as whoever starts it where absent.
    #[prost(sint32, optional, tag = "8")]
    pub out_of_memory_score: Option<i32>,
}

/// What a program may ask the kernel for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Rights {
    /// Whatever its user may, and no more by any program.
    OfUser = 0,
    /// No more than what a program needs.
    Few = 1,
}

/// What a worker sees of its host. Paths are absolute, and without symbolic links where they
/// are the agent's own.
#[derive(Clone, PartialEq, prost::Message)]
pub struct View {
    /// Directories of its own in the place of the host's.
    #[prost(message, repeated, tag = "1")]
    pub own: Vec<Shown>,
    /// Of the host, and to be written to as its owner allows. `/` leaves all as it is.
    #[prost(string, repeated, tag = "2")]
    pub writable: Vec<String>,
    /// Directories and files of which nothing is to be seen.
    #[prost(string, repeated, tag = "3")]
    pub hidden: Vec<String>,
    /// Where its own directory is, within what is hidden.
    #[prost(string, tag = "4")]
    pub task_dir: String,
    /// Below `/dev`, beside what every program needs: nodes, or directories of them.
    #[prost(string, repeated, tag = "5")]
    pub devices: Vec<String>,
    /// The same, as far as they are there.
    #[prost(string, repeated, tag = "6")]
    pub devices_if_there: Vec<String>,
    /// What is to be seen again of what is hidden, as far as it is there.
    #[prost(string, repeated, tag = "7")]
    pub shown: Vec<String>,
    /// Shared memory by name is the host's, which a daemon of the host needs to share some.
    #[prost(bool, tag = "8")]
    pub hosts_memory: bool,
}

/// A directory of the host at another place.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Shown {
    #[prost(string, tag = "1")]
    pub source: String,
    #[prost(string, tag = "2")]
    pub target: String,
}

impl View {
    /// Whether all of the host is left to be written to.
    pub fn leaves_all(&self) -> bool {
        self.writable.iter().any(|path| path == "/")
    }
}

impl Enclosure {
    /// Has the process that calls, and all that it starts, held by the groups and counted among
    /// the worker's when memory runs out.
    ///
    /// # Errors
    /// Which group cannot be entered, in words.
    pub fn enter_groups(&self) -> Result<(), String> {
        for dir in self.cgroup_dirs.iter().map(Path::new) {
            // 0 is whoever writes.
            fs::write(dir.join("cgroup.procs"), "0")
                .map_err(|error| format!("cannot enter {}: {error}", dir.display()))?;
        }
        if let Some(score) = self.out_of_memory_score {
            // Only root may go below what it has; what it has is then as good.
            let _ = fs::write("/proc/self/oom_score_adj", score.to_string());
        }
        Ok(())
    }

    /// # Errors
    /// The system's.
    pub fn write_to(&self, dir: &Path) -> io::Result<()> {
        write_private(&dir.join(FILE), &frame::encode(self))
    }

    /// That of a worker which may have none.
    ///
    /// # Errors
    /// Nobody can say whether it has one, or which; in words.
    pub fn find_in(dir: &Path) -> Result<Option<Enclosure>, String> {
        match dir.join(FILE).try_exists() {
            Ok(false) => Ok(None),
            Ok(true) | Err(_) => Enclosure::read_from(dir).map(Some),
        }
    }

    /// Leaves of it what is needed while the worker runs: variables may be secrets.
    pub fn forget_the_job(self, dir: &Path) {
        let kept = Enclosure { command: Vec::new(), environment: Vec::new(), ..self };
        // On a full disk it stays, where only the agent reads it.
        let temporary = dir.join("enclosure.new");
        let _ = fs::remove_file(&temporary);
        let _ = write_private(&temporary, &frame::encode(&kept))
            .and_then(|()| fs::rename(&temporary, dir.join(FILE)));
    }

    /// # Errors
    /// Why there is none, in words.
    pub fn read_from(dir: &Path) -> Result<Enclosure, String> {
        let file = dir.join(FILE);
        let bytes =
            fs::read(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        match frame::decode(&bytes) {
            Framed::Message(enclosure, _) => Ok(enclosure),
            Framed::End => Err(format!("{} is empty", file.display())),
            Framed::Garbled(problem) => {
                Err(format!("cannot understand {}: {problem}", file.display()))
            }
        }
    }
}
