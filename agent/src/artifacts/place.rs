//! A fetched file gets its place in a task's directory. What is in that directory is a
//! worker's, and not trusted: every step is taken from an open directory, and no link is
//! followed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use berth_shim::protocol::UserIds;
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, copy_file_range, fchown, ioctl_ficlone,
    linkat, mkdirat, open, openat2, unlinkat,
};
use rustix::io::Errno;

/// Bytes between two looks whether anybody still waits.
const COPY_BYTES: usize = 64 << 20;

/// Whose the file is at its place.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Whose {
    /// The worker's own copy.
    Workers(Option<UserIds>),
    /// The cache's own, which this user can read and not change; its directories are the
    /// user's.
    Caches(UserIds),
}

/// Why a file is not at its place.
#[derive(Debug)]
pub enum Misplaced {
    /// A link, or another file.
    InTheWay,
    /// Nobody waits for it any more.
    Unwanted,
    Disk(io::Error),
}

impl From<Errno> for Misplaced {
    fn from(error: Errno) -> Misplaced {
        match error {
            Errno::EXIST | Errno::LOOP | Errno::NOTDIR | Errno::XDEV | Errno::ISDIR => {
                Misplaced::InTheWay
            }
            other => Misplaced::Disk(other.into()),
        }
    }
}

/// The file of the cache.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub file: &'a File,
    /// By which it can be linked to.
    pub path: &'a Path,
}

/// Puts a file to its place below `task_dir`, whose missing directories are made.
///
/// # Errors
/// Something is in the way, or the disk does not take it.
pub fn put(
    source: Source<'_>,
    task_dir: &Path,
    to: &str,
    whose: Whose,
    is_wanted: impl Fn() -> bool,
) -> Result<(), Misplaced> {
    let user = match whose {
        Whose::Workers(user) => user,
        Whose::Caches(user) => Some(user),
    };
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut at = open(task_dir, directory, Mode::empty())?;
    let mut parts = to.split('/').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_some() {
            at = enter(&at, part, user)?;
            continue;
        }
        match whose {
            Whose::Caches(_) => match link(source.path, &at, part) {
                // Another file system, or one that has no links.
                Err(Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP) => {}
                other => return Ok(other?),
            },
            Whose::Workers(_) => {}
        }
        return copy(source.file, &at, part, user, &is_wanted).inspect_err(|error| {
            // Not what was in the way.
            if !matches!(error, Misplaced::InTheWay) {
                let _ = unlinkat(&at, part, AtFlags::empty());
            }
        });
    }
    Err(Misplaced::InTheWay)
}

const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

fn enter(at: &OwnedFd, part: &str, user: Option<UserIds>) -> Result<OwnedFd, Misplaced> {
    match mkdirat(at, part, Mode::from_raw_mode(0o755)) {
        Ok(()) => {
            if let Some(user) = user {
                let (uid, gid) = ids(user);
                chownat(at, part, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat2(at, part, flags, Mode::empty(), BENEATH)?)
}

fn ids(user: UserIds) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))
}

fn link(cached: &Path, at: &OwnedFd, name: &str) -> Result<(), Errno> {
    linkat(rustix::fs::CWD, cached, at, name, AtFlags::empty())
}

fn copy(
    source: &File,
    at: &OwnedFd,
    name: &str,
    user: Option<UserIds>,
    is_wanted: &impl Fn() -> bool,
) -> Result<(), Misplaced> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let target = File::from(openat2(at, name, flags, mode, BENEATH)?);
    fill(source, &target, is_wanted)?;
    if let Some(user) = user {
        let (uid, gid) = ids(user);
        fchown(target.as_fd(), uid, gid)?;
    }
    Ok(())
}

/// Shares the blocks where the file system can, and copies in the kernel where it cannot.
fn fill(source: &File, target: &File, is_wanted: &impl Fn() -> bool) -> Result<(), Misplaced> {
    if ioctl_ficlone(target, source).is_ok() {
        return Ok(());
    }
    let mut from = 0;
    loop {
        if !is_wanted() {
            return Err(Misplaced::Unwanted);
        }
        match copy_file_range(source, Some(&mut from), target, None, COPY_BYTES) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // Between file systems, or kernels, that do not.
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) if from == 0 => {
                let mut source = source.try_clone().map_err(Misplaced::Disk)?;
                io::Seek::rewind(&mut source).map_err(Misplaced::Disk)?;
                let mut target = target;
                return io::copy(&mut source, &mut target).map(drop).map_err(Misplaced::Disk);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_gets_its_place_and_nothing_in_the_way_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (cached, task, outside) =
            (dir.path().join("cached"), dir.path().join("task"), dir.path().join("outside"));
        fs::write(&cached, "weights").unwrap();
        fs::create_dir_all(&task).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::create_dir_all(task.join("here")).unwrap();
        symlink(&outside, task.join("link")).unwrap();
        symlink(outside.join("new"), task.join("dangling")).unwrap();
        symlink("here", task.join("inside")).unwrap();
        fs::write(task.join("taken"), "old").unwrap();
        let file = File::open(&cached).unwrap();
        let put = |to: &str| {
            let source = Source { file: &file, path: &cached };
            put(source, &task, to, Whose::Workers(None), || true)
        };
        for to in ["a", "b/c/d", "here/e"] {
            put(to).unwrap();
            assert_eq!(fs::read_to_string(task.join(to)).unwrap(), "weights", "{to}");
            assert_ne!(
                fs::metadata(task.join(to)).unwrap().ino(),
                fs::metadata(&cached).unwrap().ino()
            );
        }
        for to in ["link/a", "link", "dangling", "inside/a", "taken", "taken/a", "here", "a"] {
            let refused = put(to);
            assert!(matches!(refused, Err(Misplaced::InTheWay)), "{to}: {refused:?}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(task.join("taken")).unwrap(), "old");
    }

    #[test]
    fn nobody_waits_for_what_is_not_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let cached = dir.path().join("cached");
        fs::write(&cached, "weights").unwrap();
        let (file, task) = (File::open(&cached).unwrap(), dir.path().join("task"));
        fs::create_dir(&task).unwrap();
        let source = Source { file: &file, path: &cached };
        let stopped = put(source, &task, "a", Whose::Workers(None), || false);
        // A file system that shares blocks is done before anybody can ask.
        match stopped {
            Ok(()) => {}
            Err(error) => {
                assert!(matches!(error, Misplaced::Unwanted), "{error:?}");
                assert!(!task.join("a").exists());
            }
        }
    }
}
