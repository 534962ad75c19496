//! How many files and connections a daemon may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Every client, agent and peer is a connection, and the store has files of its
/// own.
const SCHEDULER_FILES_MIN: u64 = 4_096;

/// Takes what the system allows, and warns if that is little.
pub fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // The usual soft limit is for programs that cannot deal with more.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let now = if raised.is_ok() { maximum } else { current };
    if let Some(files) = now.filter(|files| *files < SCHEDULER_FILES_MIN) {
        eprintln!(
            "warning: this scheduler may have {files} files and connections open, and refuses \
             further ones\n  hint: allow {SCHEDULER_FILES_MIN} at least, by `ulimit -Hn` or the \
             service's LimitNOFILE="
        );
    }
}
