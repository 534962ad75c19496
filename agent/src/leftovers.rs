//! Processes of this agent's allocations, by the mark in their environment.
//! One pass over the machine's processes, for the agent's start; afterwards
//! the shims know.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use berth_model::AllocationId;
use berth_shim::scan_environments;
use tracing::warn;

/// How long the agent waits for a process in the middle of an exec: its program may be
/// on a disk that hangs.
const PATIENCE: Duration = Duration::from_secs(3);

/// The allocations below `allocations` that have a living process. Processes
/// of other users are seen only by root.
///
/// # Errors
/// `/proc` cannot be listed.
pub fn allocations_alive(allocations: &Path) -> io::Result<BTreeSet<AllocationId>> {
    let begun = Instant::now();
    loop {
        match scan(allocations)? {
            (alive, None) => return Ok(alive),
            (_, Some(_)) if begun.elapsed() < PATIENCE => {}
            // Hardly one of ours: those have shims, which know.
            (alive, Some(pid)) => {
                warn!(pid, "a process is in the middle of an exec; nobody knows whose it is");
                return Ok(alive);
            }
        }
    }
}

/// And one of those of which a look does not tell.
fn scan(allocations: &Path) -> io::Result<(BTreeSet<AllocationId>, Option<u32>)> {
    let mut alive = BTreeSet::new();
    let undecided =
        scan_environments(|_, environment| alive.extend(marked(environment, allocations)))?;
    Ok((alive, undecided.first().copied()))
}

/// The allocation below `allocations` whose mark an environment carries.
pub fn marked(environment: &[u8], allocations: &Path) -> Option<AllocationId> {
    let value = |name: &[u8]| {
        environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(name))
    };
    let id = std::str::from_utf8(value(b"BERTH_ALLOC_ID=")?).ok()?;
    let dir = value(b"BERTH_TASK_DIR=")?;
    let expected = allocations.join(id).join("task");
    (dir == expected.as_os_str().as_bytes()).then(|| id.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_agents_worker_with_the_same_id_is_not_ours() {
        let here = Path::new("/data/allocs");
        let mark = |dir: &str| format!("A=1\0BERTH_ALLOC_ID=1.0.0.1\0BERTH_TASK_DIR={dir}\0");
        let id = "1.0.0.1".parse().ok();
        assert_eq!(marked(mark("/data/allocs/1.0.0.1/task").as_bytes(), here), id);
        assert_eq!(marked(mark("/other/allocs/1.0.0.1/task").as_bytes(), here), None);
        assert_eq!(marked(b"BERTH_ALLOC_ID=1.0.0.1\0", here), None);
        assert_eq!(marked(b"", here), None);
    }
}
