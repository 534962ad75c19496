//! Processes of this agent's allocations, by the mark in their environment.
//! One pass over the machine's processes, for the agent's start; afterwards
//! the shims know.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use berth_model::AllocationId;

/// How much of an environment is looked at; the mark is among the first.
const ENVIRONMENT_BYTES_MAX: u64 = 2 << 20;

/// The allocations below `allocations` that have a living process. Processes
/// of other users are seen only by root.
///
/// # Errors
/// `/proc` cannot be listed.
pub fn allocations_alive(allocations: &Path) -> io::Result<BTreeSet<AllocationId>> {
    let mut alive = BTreeSet::new();
    let own_pid = std::process::id().to_string();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let is_pid = name.as_bytes().iter().all(u8::is_ascii_digit);
        if !is_pid || name.as_bytes() == own_pid.as_bytes() {
            continue;
        }
        let mut environment = Vec::new();
        let path = Path::new("/proc").join(&name).join("environ");
        // Ended meanwhile, or another user's.
        let Ok(file) = File::open(path) else { continue };
        if file.take(ENVIRONMENT_BYTES_MAX).read_to_end(&mut environment).is_ok() {
            alive.extend(marked(&environment, allocations));
        }
    }
    Ok(alive)
}

fn marked(environment: &[u8], allocations: &Path) -> Option<AllocationId> {
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
