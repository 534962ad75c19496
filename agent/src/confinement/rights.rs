//! What a worker's processes may do: gives up everything else, for good.

use std::io;
use std::os::fd::AsFd;

use berth_shim::protocol::UserIds;
use rustix::fs::{FileType, Gid, Uid, fchown, fstat};
use rustix::process::geteuid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use super::enclosure::Rights;
use super::syscalls;

/// Above the number of the last capability that any kernel has.
const CAPABILITIES_MAX: u32 = 64;

/// Becomes the user, and keeps the rights. The caller has one thread; what it starts from then
/// on has no more.
///
/// # Errors
/// What could not be given up, in words.
pub fn keep(rights: Rights, user: Option<UserIds>) -> Result<(), String> {
    let cannot = |what: &'static str| {
        move |error: rustix::io::Errno| format!("cannot {what}: {}", io::Error::from(error))
    };
    if rights == Rights::Few && geteuid().is_root() {
        drop_bounds().map_err(cannot("give up capabilities"))?;
    }
    if let Some(user) = user {
        become_user(user).map_err(cannot("become the worker's user"))?;
    }
    set_no_new_privs(true).map_err(cannot("give up new privileges"))?;
    if rights == Rights::Few {
        let none = CapabilitySet::empty();
        let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
        set_capabilities(None, none).map_err(cannot("give up capabilities"))?;
        syscalls::deny().map_err(|error| format!("cannot filter system calls: {error}"))?;
    }
    Ok(())
}

/// No program that is executed gets any capability, whatever its file says.
fn drop_bounds() -> rustix::io::Result<()> {
    clear_ambient_capability_set()?;
    for number in 0..CAPABILITIES_MAX {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // The kernel has no more.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn become_user(user: UserIds) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    // So that it can open them anew by name, as `/dev/stdout`; what is no pipe of this worker's
    // is not to be given away.
    for output in [std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
        if fstat(output).is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_fifo()) {
            let _ = fchown(output, Some(uid), Some(gid));
        }
    }
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}
