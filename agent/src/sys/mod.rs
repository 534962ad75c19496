//! What the kernel and NVIDIA's driver offer and no library here gives without unsafe code. Nothing
//! else may hold any.
#![expect(unsafe_code, reason = "calls that no library wraps safely; a reason stands at each")]

pub mod cuda;

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::process::Pid;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// How much of a tree of mounts is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    OneMount,
    AllBelow,
}

/// What a process has of its own from then on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Own {
    /// Process ids, of the children that it has afterwards.
    Processes,
    /// Mounts, and what System V and POSIX share between processes.
    MountsAndMemory,
}

/// Enters a new namespace.
///
/// # Errors
/// The system's; whoever is not root may not.
pub fn enter(own: Own) -> io::Result<()> {
    let flags = match own {
        Own::Processes => UnshareFlags::NEWPID,
        Own::MountsAndMemory => UnshareFlags::NEWNS | UnshareFlags::NEWIPC,
    };
    // SAFETY: what is unsafe of it is a table of descriptors that is shared no more
    // (CLONE_FILES), which is not asked for.
    unsafe { unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// What a mount does not let anybody do any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restriction {
    /// Write, or use device nodes that lie there.
    ReadOnly,
    /// Use device nodes that lie there.
    NoDevices,
    /// Write; device nodes are used as ever.
    ReadOnlyNodes,
}

/// Restricts what is done through the mount at `path`, in this namespace of mounts. Asks no file
/// system anything, so that one that does not answer harms nobody.
///
/// # Errors
/// The system's; `ENOSYS` before Linux 5.12.
pub fn restrict(path: &Path, restriction: Restriction, depth: Depth) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = match depth {
        Depth::OneMount => 0,
        Depth::AllBelow => libc::AT_RECURSIVE,
    };
    let no_devices = libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID;
    let attr_set = match restriction {
        Restriction::ReadOnly => libc::MOUNT_ATTR_RDONLY | no_devices,
        Restriction::NoDevices => no_devices,
        Restriction::ReadOnlyNodes => libc::MOUNT_ATTR_RDONLY,
    };
    let attributes = libc::mount_attr { attr_set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the kernel reads a string that ends in a zero and a structure of the length
    // that it is told, which both outlive the call, and keeps neither.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Who goes on after a process was doubled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forked {
    Parent(Pid),
    Child,
}

/// Doubles this process, which must have one thread: the other threads of a process are not
/// doubled with it, and what they hold would stay locked for ever.
///
/// # Errors
/// The system's; `EAGAIN` where no more processes may be.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: with one thread nobody else is in the middle of anything; the callers are modes of
    // this executable that start none.
    match unsafe { libc::fork() } {
        0 => Ok(Forked::Child),
        raw => Pid::from_raw(raw)
            .filter(|_| raw > 0)
            .map(Forked::Parent)
            .ok_or_else(io::Error::last_os_error),
    }
}
