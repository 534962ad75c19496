//! The user that workers run as, where the agent is root.

use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::Path;

use anyhow::{Context as _, bail};
use berth_shim::protocol::UserIds;

/// Looks up `name` in the system's list of users.
///
/// # Errors
/// There is no such user, or the agent is not root and could not become it.
pub fn find(name: &str) -> anyhow::Result<UserIds> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "worker_user needs an agent that runs as root; leave it out to run workers as the agent's own user"
        );
    }
    let users = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    parse(&users, name).with_context(|| format!("there is no user `{name}` on this host"))
}

/// Gives `path` to the worker's user.
///
/// # Errors
/// The system's.
pub fn give(path: &Path, user: UserIds) -> io::Result<()> {
    chown(path, Some(user.uid), Some(user.gid))
}

fn parse(users: &str, name: &str) -> Option<UserIds> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(UserIds { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_the_whole_name() {
        let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533::/:/bin/false\n";
        assert_eq!(parse(users, "nobody"), Some(UserIds { uid: 65534, gid: 65533 }));
        assert_eq!(parse(users, "nobod"), None);
        assert_eq!(parse("broken:x\n", "broken"), None);
    }
}
