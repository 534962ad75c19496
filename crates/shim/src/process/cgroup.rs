//! Who is in a cgroup.

use std::fs;
use std::io;
use std::path::Path;

/// Lists the processes of a cgroup, one number a line; a number that is written joins it.
pub(crate) const PROCS_FILE: &str = "cgroup.procs";

/// The pids in the cgroup and in those below it, which a worker may have made; none if it is gone.
///
/// # Errors
/// The system's.
pub fn cgroup_pids(dir: &Path) -> io::Result<Vec<u32>> {
    let listed = fs::read_to_string(dir.join(PROCS_FILE)).and_then(|text| {
        let mut pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        for below in fs::read_dir(dir)? {
            let below = below?;
            if below.file_type()?.is_dir() {
                pids.extend(cgroup_pids(&below.path())?);
            }
        }
        Ok(pids)
    });
    match listed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        // It went while it was read.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
            Ok(Vec::new())
        }
        listed => listed,
    }
}
