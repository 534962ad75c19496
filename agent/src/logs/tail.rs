//! Reads a log that is written and rotated meanwhile: `NAME.2`, `NAME.1`,
//! `NAME`, oldest first, then what is added. It waits by inotify, not by the
//! clock.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe;

/// The size of one chunk at most.
const CHUNK_BYTES: usize = 64 << 10;
/// Rotated files looked for; a shim keeps at most this many.
const ROTATED_MAX: u32 = 100;

/// A position in a log.
pub struct Tail {
    path: PathBuf,
    /// The file being read and its inode; none before the first byte was
    /// ever written.
    current: Option<(File, u64)>,
    /// Changes of the log's directory. Not a pipe, but read like one: what the
    /// events say does not matter, only that there are some.
    watch: pipe::Receiver,
}

impl Tail {
    /// At the beginning of the oldest file that is there.
    ///
    /// # Errors
    /// The log's directory cannot be watched.
    pub fn open(path: &Path) -> io::Result<Tail> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let dir = path.parent().unwrap_or(Path::new("."));
        let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&watch, dir, events)?;
        let watch = pipe::Receiver::from_owned_fd_unchecked(watch)?;
        Ok(Tail { path: path.to_owned(), current: None, watch })
    }

    /// What comes next, if it is there; never empty.
    ///
    /// # Errors
    /// The system's.
    pub fn next_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if self.current.is_none() {
                self.current = self.files()?.into_iter().next();
            }
            let Some((file, inode)) = &mut self.current else { return Ok(None) };
            let mut chunk = vec![0; CHUNK_BYTES];
            let length = file.read(&mut chunk)?;
            if length > 0 {
                chunk.truncate(length);
                return Ok(Some(chunk));
            }
            let inode = *inode;
            match self.successor(inode)? {
                Some(next) => {
                    // What was written between the last read and the rotation.
                    let mut rest = Vec::new();
                    let bound = u64::try_from(CHUNK_BYTES).unwrap_or(u64::MAX);
                    if let Some((file, _)) = &mut self.current
                        && file.take(bound).read_to_end(&mut rest)? > 0
                    {
                        return Ok(Some(rest));
                    }
                    self.current = Some(next);
                }
                None => return Ok(None),
            }
        }
    }

    /// Waits until the directory has changed.
    ///
    /// # Errors
    /// The system's.
    pub async fn changed(&mut self) -> io::Result<()> {
        self.watch.readable().await?;
        let mut events = [0; 4096];
        loop {
            match self.watch.try_read(&mut events) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// The file that was begun after the one with this inode. If that one is
    /// gone, the oldest that is left.
    fn successor(&self, inode: u64) -> io::Result<Option<(File, u64)>> {
        let files = self.files()?;
        let position = files.iter().position(|(_, found)| *found == inode);
        let next = position.map_or(0, |position| position + 1);
        Ok(files.into_iter().nth(next))
    }

    /// All files of the log, oldest first. A rotation in between shows as one
    /// file twice, of which the first is kept.
    fn files(&self) -> io::Result<Vec<(File, u64)>> {
        let mut newest_first: Vec<(File, u64)> = Vec::new();
        for number in 0..ROTATED_MAX {
            let mut name = self.path.clone().into_os_string();
            if number > 0 {
                name.push(format!(".{number}"));
            }
            match File::open(&name) {
                Ok(file) => {
                    let inode = file.metadata()?.ino();
                    if newest_first.iter().all(|(_, found)| *found != inode) {
                        newest_first.push((file, inode));
                    }
                }
                // The current one is missing for a moment during a rotation.
                Err(error) if error.kind() == io::ErrorKind::NotFound && number == 0 => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        newest_first.reverse();
        Ok(newest_first)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    fn text(tail: &mut Tail) -> String {
        let mut all = Vec::new();
        while let Some(chunk) = tail.next_chunk().unwrap() {
            all.extend(chunk);
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn rotations_lose_and_repeat_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout");
        let mut tail = Tail::open(&path).unwrap();
        assert_eq!(text(&mut tail), "");
        fs::write(dir.path().join("stdout.1"), "a").unwrap();
        fs::write(&path, "b").unwrap();
        tail.changed().await.unwrap();
        assert_eq!(text(&mut tail), "ab");
        let mut current = File::options().append(true).open(&path).unwrap();
        current.write_all(b"c").unwrap();
        fs::rename(dir.path().join("stdout.1"), dir.path().join("stdout.2")).unwrap();
        fs::rename(&path, dir.path().join("stdout.1")).unwrap();
        fs::write(&path, "d").unwrap();
        assert_eq!(text(&mut tail), "cd");
        // Two rotations at once.
        fs::rename(dir.path().join("stdout.1"), dir.path().join("stdout.3")).unwrap();
        fs::rename(&path, dir.path().join("stdout.2")).unwrap();
        fs::write(dir.path().join("stdout.1"), "e").unwrap();
        fs::write(&path, "f").unwrap();
        tail.changed().await.unwrap();
        assert_eq!(text(&mut tail), "ef");
    }
}
