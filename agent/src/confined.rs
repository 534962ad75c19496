//! Becomes another program within a worker's bounds: what the agent runs for a worker, such as
//! the command of a health check, is the worker's to pay for. A mode of the agent's own
//! executable, because nothing may run between fork and exec.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use berth_shim::protocol::UserIds;

use crate::options::Program;

/// As a shell says that a command could not be run.
pub const CANNOT_RUN: u8 = 127;
const END_OF_BOUNDS: &str = "--";

/// What holds a program that is run for a worker.
#[derive(Clone, PartialEq, Debug)]
pub struct Bounds {
    /// Its groups; none where it has none.
    pub cgroup_dirs: Vec<PathBuf>,
    /// Who goes first when memory runs out.
    pub out_of_memory_score: i32,
    pub user: Option<UserIds>,
}

impl Bounds {
    /// The beginning of the command line that runs a program within these bounds; the program
    /// and its arguments follow.
    pub fn command_line(&self) -> Vec<String> {
        let Program { exe, arguments } = Program::of_this_executable("confined");
        let mode = arguments.iter().map(|word| word.to_string_lossy().into_owned());
        let user = self.user.map_or("-".to_owned(), |user| format!("{}:{}", user.uid, user.gid));
        let dirs = self.cgroup_dirs.iter().map(|dir| dir.to_string_lossy().into_owned());
        [exe.to_string_lossy().into_owned()]
            .into_iter()
            .chain(mode)
            .chain([self.out_of_memory_score.to_string(), user])
            .chain(dirs)
            .chain([END_OF_BOUNDS.to_owned()])
            .collect()
    }

    fn read(given: &mut impl Iterator<Item = String>) -> Option<Bounds> {
        let out_of_memory_score = given.next()?.parse().ok()?;
        let user = match given.next()?.as_str() {
            "-" => None,
            ids => {
                let (uid, gid) = ids.split_once(':')?;
                Some(UserIds { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
            }
        };
        let cgroup_dirs = given.take_while(|word| word != END_OF_BOUNDS).map(PathBuf::from);
        Some(Bounds { cgroup_dirs: cgroup_dirs.collect(), out_of_memory_score, user })
    }
}

/// Becomes the program that the arguments name, within the bounds that they name first; they
/// are the agent's own affair. Returns only if that fails.
#[must_use]
pub fn become_confined(mut given: impl Iterator<Item = String>) -> ExitCode {
    let Some(bounds) = Bounds::read(&mut given) else { return ExitCode::from(2) };
    let Some(program) = given.next() else { return ExitCode::from(2) };
    let cannot = |what: String| {
        use std::io::Write as _;
        // Nobody may be listening.
        let _ = writeln!(std::io::stderr(), "{what}");
        ExitCode::from(CANNOT_RUN)
    };
    for dir in &bounds.cgroup_dirs {
        // 0 is whoever writes.
        if let Err(error) = fs::write(dir.join("cgroup.procs"), "0") {
            return cannot(format!("cannot enter {}: {error}", dir.display()));
        }
    }
    // Only root may go below what it has; what it has is then as good.
    let _ = fs::write("/proc/self/oom_score_adj", bounds.out_of_memory_score.to_string());
    let mut command = Command::new(&program);
    command.args(given);
    if let Some(user) = bounds.user {
        command.uid(user.uid).gid(user.gid);
    }
    let error = command.exec();
    cannot(format!("cannot run `{program}`: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_as_they_are_written() {
        for (cgroup_dirs, user) in
            [(vec![], None), (vec!["/a".into(), "/b c".into()], Some(UserIds { uid: 7, gid: 8 }))]
        {
            let bounds = Bounds { cgroup_dirs, out_of_memory_score: -5, user };
            let program = ["prog", "--", "x"].map(str::to_owned);
            let mut given = bounds.command_line().into_iter().chain(program).skip(2);
            assert_eq!(Bounds::read(&mut given), Some(bounds));
            assert_eq!(given.collect::<Vec<_>>(), ["prog", "--", "x"]);
        }
        assert_eq!(Bounds::read(&mut ["x".to_owned()].into_iter()), None);
    }
}
