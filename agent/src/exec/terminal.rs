//! A terminal for a command: the agent types and reads at one end, the command is at the other.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use berth_proto::v1::TerminalSize;
use berth_shim::protocol::UserIds;
use rustix::fs::{Gid, Mode, Uid, fchmod, fchown};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::confinement::open_terminals;

/// Where a worker's namespaces are not its own, the terminals are the host's.
#[derive(Clone, Copy)]
pub enum Among<'a> {
    TheHosts,
    /// Those that the worker of this directory sees.
    TheWorkers(&'a Path),
}

/// The two ends of one.
pub struct Terminal {
    pub near: OwnedFd,
    pub far: OwnedFd,
}

/// Makes one that belongs to `user`.
///
/// # Errors
/// The system's; the worker has ended.
pub fn make(
    among: Among<'_>,
    size: Option<TerminalSize>,
    user: Option<UserIds>,
) -> io::Result<Terminal> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let near = match among {
        Among::TheHosts => openpt(flags)?,
        Among::TheWorkers(dir) => open_terminals(dir)?,
    };
    unlockpt(&near)?;
    // By the other end, not by a name that means something else elsewhere.
    let far = ioctl_tiocgptpeer(&near, flags)?;
    if let Some(user) = user {
        fchown(&far, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
    }
    fchmod(&far, Mode::RUSR | Mode::WUSR)?;
    if let Some(size) = size {
        resize(&near, size)?;
    }
    Ok(Terminal { near, far })
}

/// As many as a terminal can count.
pub fn cells(count: u32) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// Tells the programs at it that their window has another size.
///
/// # Errors
/// The system's.
pub fn resize(terminal: impl AsFd, size: TerminalSize) -> io::Result<()> {
    let size = Winsize {
        ws_col: cells(size.columns),
        ws_row: cells(size.rows),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}
