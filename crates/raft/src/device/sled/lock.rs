//! One process per directory. sled has a lock of its own; this one can say
//! who holds it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::Path;
use std::time::SystemTime;

use crate::device::OpenError;

/// Held until dropped; the operating system drops it with the process.
pub struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone is not enough: a child being started may share the
        // file for a moment. The system unlocks it at exit if this fails.
        let _unlocked_at_exit = self.0.unlock();
    }
}

impl Lock {
    pub(super) fn take(folder: &Path) -> Result<Self, OpenError> {
        let path = folder.join("lock");
        let io = |action| OpenError::io(action, &path);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io("open"))?;
        lock(&mut file, folder, &path)?;
        let since = humantime::format_rfc3339_seconds(SystemTime::now());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{} {since}", std::process::id()))
            .map_err(io("write"))?;
        Ok(Self(file))
    }
}

/// Holds a directory that somebody is about to read, without writing to it.
/// `None` where no node has ever been.
///
/// # Errors
/// A node runs on it, or it cannot be read.
pub fn hold(folder: &Path) -> Result<Option<Lock>, OpenError> {
    let path = folder.join("lock");
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io("open", &path)(error)),
    };
    lock(&mut file, folder, &path)?;
    Ok(Some(Lock(file)))
}

fn lock(file: &mut File, folder: &Path, path: &Path) -> Result<(), OpenError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).map_err(OpenError::io("read", path))?;
            let (pid, since) = holder.trim().split_once(' ').unwrap_or(("unknown", "unknown"));
            Err(OpenError::InUse {
                path: folder.to_owned(),
                pid: pid.to_owned(),
                since: since.to_owned(),
            })
        }
        Err(TryLockError::Error(error)) => Err(OpenError::io("lock", path)(error)),
    }
}
