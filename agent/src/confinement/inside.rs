//! The namespaces of a worker that runs, by their first process: whoever does something for the
//! worker does it in there.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use berth_shim::ProcessIdentity;
use berth_shim::process::boot_id;
use rustix::fs::{FsWord, Mode, OFlags, fstatfs, open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

/// What a file system of terminals says that it is (`DEVPTS_SUPER_MAGIC`).
const TERMINALS: FsWord = 0x1cd1;

/// The file of an allocation that says who that is, while it is there.
pub const FILE: &str = "inside";

/// Says who the first process of a worker's namespaces is.
///
/// # Errors
/// There is no such process, or the system's.
pub fn write(dir: &Path, pid: u32) -> io::Result<()> {
    let first = ProcessIdentity::of(pid)?;
    let temporary = dir.join("inside.new");
    fs::write(&temporary, format!("{pid} {}\n", first.start_ticks))?;
    fs::rename(temporary, dir.join(FILE))
}

/// Whether the worker of this directory has begun, and not ended.
pub fn can_be_joined(dir: &Path) -> bool {
    dir.join(FILE).exists()
}

/// Enters the namespaces of the worker of this directory; children that this process has from
/// then on are among the worker's.
///
/// # Errors
/// It has ended, or the system refuses.
pub fn join(dir: &Path) -> io::Result<()> {
    let (_, first) = first_of(dir)?;
    let own = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::PROCESS_ID;
    Ok(move_into_thread_name_spaces(first.as_fd(), own)?)
}

/// Opens what makes terminals (`ptmx`) among those that the worker of this directory sees.
///
/// # Errors
/// It has ended, or the system refuses.
pub fn open_terminals(dir: &Path) -> io::Result<OwnedFd> {
    let (first, _) = first_of(dir)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let its_root = format!("/proc/{}/root", first.pid);
    let terminals = open(Path::new(&its_root).join("dev/pts/ptmx"), flags, Mode::empty())?;
    // It was this process's while that was there before and after.
    first.open()?.ok_or(io::ErrorKind::NotFound)?;
    if fstatfs(&terminals)?.f_type != TERMINALS {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(terminals)
}

/// The first process of the worker's namespaces, which is there.
fn first_of(dir: &Path) -> io::Result<(ProcessIdentity, OwnedFd)> {
    let text = fs::read_to_string(dir.join(FILE))?;
    let first = read(&text, boot_id()?).ok_or(io::ErrorKind::InvalidData)?;
    let open = first.open()?.ok_or(io::ErrorKind::NotFound)?;
    Ok((first, open))
}

fn read(text: &str, boot_id: String) -> Option<ProcessIdentity> {
    let (pid, ticks) = text.trim().split_once(' ')?;
    Some(ProcessIdentity { pid: pid.parse().ok()?, start_ticks: ticks.parse().ok()?, boot_id })
}
