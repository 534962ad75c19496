//! Workers that are processes of this host see and may no more than they need: their own
//! directory and devices, their own processes, the host's programs and files to read. Decided
//! here, carried out by processes between shim and worker, which are modes of this executable:
//! nothing may run between fork and exec. Who is refused what on the network is
//! [`crate::metadata`]'s; how much of the host a worker may use is [`crate::cgroups`]'.

mod enclosure;
mod first;
mod guest;
mod inside;
mod keeper;
mod rights;
mod syscalls;
mod view;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use berth_shim::protocol::{StartRequest, UserIds};
use rustix::process::geteuid;

pub use enclosure::{Enclosure, Rights, Shown, View};
pub use guest::{CANNOT_JOIN, CANNOT_RUN, Guest, Input, shell_code};
pub use inside::{can_be_joined, open_terminals};

use crate::allocation_dir::AllocationDir;
use crate::environment::Environment;
use crate::options::{Hold, Program};
use crate::problem::Problem;
use crate::request::variables;

const MODE: &str = "confined";
const KEEP: &str = "keep";
const FIRST: &str = "first";
const GUEST: &str = "guest";
const NOTHING: &str = "nothing";

/// What its processes are found by; all that the keeper is told of the job's environment, so
/// that no variable of a tenant's reaches a process with rights.
const MARKS: [&str; 2] = ["BERTH_ALLOC_ID", "BERTH_TASK_DIR"];

/// Every program with a GPU needs these, where they are there.
const GPU_NODES: [&str; 4] =
    ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"];

/// Where the nodes of parts of GPUs are.
const PARTS_DIR: &str = "/dev/nvidia-caps";
/// The first that is a part's; those before it are for whoever cuts GPUs up, and for whoever
/// watches all of them.
const PART_NODE_FIRST: u32 = 3;

/// Directories of a worker's own, which are one.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// Where the host's daemons listen, some of which do what root asks.
const RUN: &str = "/run";
/// What programs need of it: names of other hosts and of users, and NVIDIA's daemons.
const SHOWN_OF_RUN: [&str; 7] = [
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager/resolv.conf",
    "/run/nscd",
    "/run/nvidia-persistenced",
    "/run/nvidia-fabricmanager",
    "/run/nvidia-imex",
];

/// How far workers are confined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// They see all that their user sees, and may what it may.
    Nothing,
    /// As much, but without new privileges, capabilities and the calls that lead out.
    Rights,
    /// Their own view of the host besides.
    View,
}

/// What is asked for, as the agent is told.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    pub hold: Hold,
    /// Paths of the host that workers may write to, as its owners allow; `/` for all.
    pub writable: Vec<PathBuf>,
    /// Paths of which they are to see nothing, beside the agent's own.
    pub hidden: Vec<PathBuf>,
    /// Paths below `/dev` that each of them gets.
    pub devices: Vec<PathBuf>,
}

/// How this agent's workers are confined.
#[derive(Clone, Debug)]
pub struct Confinement {
    level: Level,
    wish: Wish,
}

/// One worker that is to be confined.
pub struct Confined<'a> {
    pub dir: &'a AllocationDir,
    /// The numbers of the GPUs that it has, as the driver counts its device nodes.
    pub gpu_minors: Vec<u32>,
    /// Other device nodes that it needs.
    pub nodes: Vec<String>,
    /// Where it finds MPS, if it is a client of it.
    pub mps_directory: Option<&'a Path>,
}

/// One of the modes of this executable that confine. The arguments are the agent's own affair.
#[must_use]
pub fn confined(mut given: impl Iterator<Item = String>) -> ExitCode {
    match given.next().as_deref() {
        Some(KEEP) => keeper::keep(given),
        Some(FIRST) => first::be_first(given),
        Some(GUEST) => guest::be_guest(),
        Some(NOTHING) => ExitCode::SUCCESS,
        Some(_) | None => ExitCode::from(2),
    }
}

impl Confinement {
    /// Finds out how far this host lets workers be confined, by trying it in `dir`.
    ///
    /// # Errors
    /// It is needed and cannot be had; why.
    pub fn begin(wish: Wish, user: Option<UserIds>, dir: &Path) -> Result<Confinement, String> {
        let mut confinement = Confinement { level: Level::Nothing, wish };
        if confinement.wish.hold == Hold::Never {
            return Ok(confinement);
        }
        let refused = if geteuid().is_root() {
            match confinement.try_out(user, dir) {
                Ok(()) => {
                    confinement.level = Level::View;
                    return Ok(confinement);
                }
                Err(problem) => problem,
            }
        } else {
            "the agent does not run as root".to_owned()
        };
        // Nobody is left unconfined for the sake of a path that cannot be had.
        let plain = Confinement {
            level: Level::Nothing,
            wish: Wish { hold: confinement.wish.hold, ..Wish::default() },
        };
        if geteuid().is_root() && plain.try_out(user, dir).is_ok() {
            return Err(format!(
                "workers cannot be confined as asked for: {refused} (agent.confinement.writable, \
                 hidden, devices)"
            ));
        }
        if confinement.wish.hold == Hold::Always {
            return Err(format!("workers cannot be confined: {refused} (agent.confinement)"));
        }
        tracing::warn!(problem = refused, "workers see all of this host that their user sees");
        confinement.level = Level::Rights;
        Ok(confinement)
    }

    pub fn level(&self) -> Level {
        self.level
    }

    /// What of the host workers see nothing of, with or without a view of their own.
    pub fn hidden(&self) -> &[PathBuf] {
        &self.wish.hidden
    }

    /// The processes beside a worker's own that run in its groups.
    pub fn processes_beside(&self) -> u32 {
        match self.level {
            Level::Nothing | Level::Rights => 0,
            // Its first one.
            Level::View => 1,
        }
    }

    /// Runs nothing as a worker would be run.
    fn try_out(&self, user: Option<UserIds>, dir: &Path) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
        // Of an agent that was killed while it tried.
        let _ = fs::remove_dir_all(dir);
        let trial = AllocationDir::at(dir.to_owned());
        fs::create_dir_all(trial.task()).map_err(failed)?;
        trial.make_temporary().map_err(failed)?;
        let confined = Confined {
            dir: &trial,
            gpu_minors: Vec::new(),
            nodes: Vec::new(),
            mps_directory: None,
        };
        let program = Program::of_this_executable(MODE);
        let words = [program.exe.into_os_string()].into_iter().chain(program.arguments);
        let command = words.chain([NOTHING.into()]).map(|word| word.to_string_lossy().into_owned());
        let enclosure = Enclosure {
            command: command.collect(),
            environment: Vec::new(),
            working_dir: text(&trial.task()),
            user,
            view: Some(self.view(&confined)),
            rights: Rights::Few.into(),
            ..Enclosure::default()
        };
        enclosure.write_to(dir).map_err(failed)?;
        let ended = keeper_command(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let ended = ended.map_err(failed)?;
        let problem = Problem::left_in(dir);
        let _ = fs::remove_dir_all(dir);
        match problem {
            Some(problem) => Err(problem.reason().to_owned()),
            None if ended.success() => Ok(()),
            None => Err(format!("a trial ended with {ended}")),
        }
    }

    /// What is asked of a shim, for a worker that is confined.
    ///
    /// # Errors
    /// It cannot be written down, in words.
    pub fn confine(
        &self,
        request: StartRequest,
        confined: &Confined<'_>,
    ) -> Result<StartRequest, String> {
        let view = match self.level {
            Level::Nothing => return Ok(request),
            Level::Rights => None,
            Level::View => {
                confined.dir.make_temporary().map_err(|error| format!("make its /tmp: {error}"))?;
                Some(self.view(confined))
            }
        };
        let dir = confined.dir.path();
        let marks = request.env.iter().filter(|variable| MARKS.contains(&&*variable.name));
        let marks = marks.cloned().collect();
        let enclosure = Enclosure {
            command: request.command,
            environment: request.env,
            working_dir: request.working_dir,
            user: request.user,
            view,
            rights: Rights::Few.into(),
            cgroup_dirs: request.cgroup_dirs.clone(),
            out_of_memory_score: request.oom_score_adjust,
        };
        enclosure.write_to(dir).map_err(|error| format!("write down its enclosure: {error}"))?;
        Ok(StartRequest {
            command: vec![own_executable(), MODE.to_owned(), KEEP.to_owned(), text(dir)],
            env: marks,
            working_dir: text(dir),
            user: None,
            enters_cgroups_itself: true,
            // Those around it go last, as its shim does.
            oom_score_adjust: None,
            ..request
        })
    }

    fn view(&self, confined: &Confined<'_>) -> View {
        let texts = |paths: &[PathBuf]| paths.iter().map(|path| text(path)).collect::<Vec<_>>();
        let mut view = View {
            writable: texts(&self.wish.writable),
            hidden: texts(&self.wish.hidden),
            task_dir: text(&confined.dir.task()),
            // Not left out for not being there: that it would notice late.
            devices: [nodes_of(&confined.gpu_minors), confined.nodes.clone()].concat(),
            devices_if_there: texts(&self.wish.devices),
            ..View::default()
        };
        if !confined.gpu_minors.is_empty() {
            view.devices_if_there.extend(GPU_NODES.map(str::to_owned));
        }
        if !view.leaves_all() {
            let source = text(&confined.dir.temporary());
            let own = |target: &str| Shown { source: source.clone(), target: target.to_owned() };
            view.own =
                TEMPORARY.into_iter().filter(|path| Path::new(path).is_dir()).map(own).collect();
            view.hidden.push(RUN.to_owned());
            view.shown = SHOWN_OF_RUN.map(str::to_owned).to_vec();
        }
        if let Some(directory) = confined.mps_directory {
            let shown =
                if directory.starts_with(RUN) { &mut view.shown } else { &mut view.writable };
            shown.push(text(directory));
            view.hosts_memory = true;
        }
        view
    }
}

/// What a program that is run for a worker is held by, beside the worker's groups: as the worker
/// was enclosed when it began, whatever this agent does with others.
///
/// # Errors
/// It was, and nobody can tell any more how; in words.
pub fn guest(
    dir: &AllocationDir,
    environment: &Environment,
    user: Option<UserIds>,
) -> Result<Guest, String> {
    let enclosure = Enclosure::find_in(dir.path())?;
    let rights = enclosure.as_ref().map_or(Rights::OfUser.into(), |enclosure| enclosure.rights);
    let inside = enclosure.as_ref().is_some_and(|enclosure| enclosure.view.is_some());
    Ok(Guest {
        enclosure: Enclosure {
            environment: variables(environment),
            working_dir: text(&dir.task()),
            user,
            rights,
            ..Enclosure::default()
        },
        inside: inside.then(|| text(dir.path())),
        ..Guest::default()
    })
}

/// Whether this process could confine a worker on this host. Blocks for some milliseconds.
///
/// # Errors
/// Why not, in words.
pub fn try_confinement() -> Result<(), String> {
    // Nobody can have made it before.
    let name = getrandom::u64().map_err(|error| error.to_string())?;
    let dir = std::env::temp_dir().join(format!("berth-trial-{name:016x}"));
    let wish = Wish { hold: Hold::Always, ..Wish::default() };
    Confinement::begin(wish, None, &dir).map(drop)
}

/// The device nodes of the parts of GPUs of this host. Nobody says which of them is whose.
pub fn nodes_of_parts() -> Vec<String> {
    nodes_of_parts_in(Path::new(PARTS_DIR))
}

fn nodes_of_parts_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let is_of_a_part = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix("nvidia-cap"));
        number.and_then(|number| number.parse().ok()).is_some_and(|at: u32| at >= PART_NODE_FIRST)
    };
    let paths = entries.map(|entry| entry.path()).filter(is_of_a_part);
    let mut nodes: Vec<String> = paths.map(|path| text(&path)).collect();
    nodes.sort();
    nodes
}

fn nodes_of(minors: &[u32]) -> Vec<String> {
    minors.iter().map(|minor| format!("/dev/nvidia{minor}")).collect()
}

/// This very executable, whatever its path means by now and whoever runs it: a shim may be of an
/// older release, which knows nothing of these modes.
fn own_executable() -> String {
    format!("/proc/{}/exe", std::process::id())
}

fn keeper_command(dir: &Path) -> Command {
    let Program { exe, arguments } = Program::of_this_executable(MODE);
    let mut command = Command::new(exe);
    command.args(arguments).arg(KEEP).arg(dir).env_clear();
    command
}

/// The beginning of the command line of a process that runs a [`Guest`].
pub fn guest_program() -> Program {
    let mut program = Program::of_this_executable(MODE);
    program.arguments.push(GUEST.into());
    program
}

/// Gives up, in this process and all that it starts, every right that a confined worker has
/// not.
///
/// # Errors
/// What could not be given up, in words.
pub fn keep_few_rights() -> Result<(), String> {
    rights::keep(Rights::Few, None)
}

/// Whether the worker of this directory is a confined one. Where nobody can say, it is taken for
/// one.
pub fn is_of(dir: &Path) -> bool {
    !matches!(Enclosure::find_in(dir), Ok(None))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_no_node_that_cuts_or_watches_gpus() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(nodes_of_parts_in(&folder.path().join("none")), Vec::<String>::new());
        for name in
            ["nvidia-cap1", "nvidia-cap2", "nvidia-cap3", "nvidia-cap30", "other", "nvidia-capx"]
        {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let expected = ["nvidia-cap3", "nvidia-cap30"].map(|name| text(&folder.path().join(name)));
        assert_eq!(nodes_of_parts_in(folder.path()), expected);
    }
}
