//! The namespaces of a worker that runs, by their first process: whoever does something for the
//! worker does it in there.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use berth_shim::ProcessIdentity;
use berth_shim::process::boot_id;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

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

/// Enters the namespaces of the worker of this directory; children that this process has from
/// then on are among the worker's.
///
/// # Errors
/// It has ended, or the system refuses.
pub fn join(dir: &Path) -> io::Result<()> {
    let text = fs::read_to_string(dir.join(FILE))?;
    let ended = || io::Error::from(io::ErrorKind::NotFound);
    let first = read(&text, boot_id()?).ok_or(io::ErrorKind::InvalidData)?;
    let first = first.open()?.ok_or_else(ended)?;
    let own = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::PROCESS_ID;
    Ok(move_into_thread_name_spaces(first.as_fd(), own)?)
}

fn read(text: &str, boot_id: String) -> Option<ProcessIdentity> {
    let (pid, ticks) = text.trim().split_once(' ')?;
    Some(ProcessIdentity { pid: pid.parse().ok()?, start_ticks: ticks.parse().ok()?, boot_id })
}
