//! Who is in a cgroup.

use std::fs;
use std::io;
use std::path::Path;

/// Lists the processes of a cgroup, one number a line; a number that is written joins it.
pub(crate) const PROCS_FILE: &str = "cgroup.procs";

/// The pids in the cgroup; none if it is gone.
pub(crate) fn pids(dir: &Path) -> io::Result<Vec<u32>> {
    match fs::read_to_string(dir.join(PROCS_FILE)) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
