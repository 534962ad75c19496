//! A worker's output, from its pipes into rotated files. It refuses to hold a worker up for the disk's sake: what
//! cannot be written is dropped and counted. Only the rate bound slows a worker, and never for ever.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::protocol::LogLimits;
use crate::record::STDERR_TAIL_BYTES;

const FILE_BYTES_MAX: u64 = 10 << 20;
const FILE_COUNT: u32 = 3;
const FILE_COUNT_MAX: u32 = 100;
/// Fast enough for any sane log, slow enough that a worker printing 1 GB/s leaves the disk and the CPU to others.
const BYTES_PER_SECOND: u64 = 32 << 20;
/// Reads from one pipe before the rest of the loop has its turn.
const READS_PER_TURN: u32 = 4;
/// What is still taken once the tree is empty. A pipe holds 1 MiB at most by default; a process outside the tree that
/// was handed its other end could write for ever.
const LAST_BYTES_MAX: usize = 1 << 20;

/// Both streams of one worker.
#[derive(Debug)]
pub(super) struct Logs {
    stdout: Stream,
    stderr: Stream,
    stderr_tail: Vec<u8>,
    dropped_bytes: u64,
    budget: Budget,
}

#[derive(Debug)]
struct Stream {
    pipe: Option<PipeReader>,
    file: LogFile,
}

impl Logs {
    pub(super) fn new(
        stdout_path: &str,
        stderr_path: &str,
        limits: LogLimits,
        now: Instant,
    ) -> Self {
        let stream = |path| Stream { pipe: None, file: LogFile::new(path, limits) };
        Self {
            stdout: stream(stdout_path),
            stderr: stream(stderr_path),
            stderr_tail: Vec::new(),
            dropped_bytes: 0,
            budget: Budget::new(or_default(limits.bytes_per_second, BYTES_PER_SECOND), now),
        }
    }

    /// Takes the reading ends, which must not block.
    pub(super) fn follow(&mut self, stdout: PipeReader, stderr: PipeReader) {
        self.stdout.pipe = Some(stdout);
        self.stderr.pipe = Some(stderr);
    }

    /// The pipes to poll; none while the rate is used up.
    pub(super) fn descriptors(&self, now: Instant) -> impl Iterator<Item = BorrowedFd<'_>> {
        let open =
            [&self.stdout, &self.stderr].into_iter().filter_map(|stream| stream.pipe.as_ref());
        let open = open.filter(move |_| self.budget.wakes_at(now).is_none());
        open.map(AsFd::as_fd)
    }

    /// When to look again although no pipe is polled.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let is_open = self.stdout.pipe.is_some() || self.stderr.pipe.is_some();
        self.budget.wakes_at(now).filter(|_| is_open)
    }

    /// Moves what has arrived, as far as the rate allows.
    pub(super) fn pump(&mut self, now: Instant, scratch: &mut [u8]) {
        for _ in 0..READS_PER_TURN {
            let allowed = self.budget.available(now).min(scratch.len());
            if allowed == 0 {
                return;
            }
            let stdout_bytes = self.read_stdout(&mut scratch[..allowed]);
            let stderr_bytes = self.read_stderr(&mut scratch[..allowed]);
            self.budget.spend(stdout_bytes + stderr_bytes);
            if stdout_bytes + stderr_bytes == 0 {
                return;
            }
        }
    }

    /// Takes what is left once nobody of the tree can write any more, and closes the pipes.
    pub(super) fn finish(&mut self, scratch: &mut [u8]) {
        let mut taken_bytes = 0;
        while taken_bytes < LAST_BYTES_MAX {
            let length = self.read_stdout(scratch) + self.read_stderr(scratch);
            if length == 0 {
                break;
            }
            taken_bytes += length;
        }
        self.stdout.pipe = None;
        self.stderr.pipe = None;
    }

    /// The last bytes of stderr, at most [`STDERR_TAIL_BYTES`].
    pub(super) fn take_stderr_tail(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.stderr_tail)
    }

    pub(super) fn dropped_bytes(&self) -> u64 {
        self.dropped_bytes
    }

    fn read_stdout(&mut self, scratch: &mut [u8]) -> usize {
        let length = read_available(&mut self.stdout.pipe, scratch);
        self.dropped_bytes += self.stdout.file.write(&scratch[..length]);
        length
    }

    fn read_stderr(&mut self, scratch: &mut [u8]) -> usize {
        let length = read_available(&mut self.stderr.pipe, scratch);
        let taken = &scratch[..length];
        self.dropped_bytes += self.stderr.file.write(taken);
        self.stderr_tail.extend_from_slice(&taken[length.saturating_sub(STDERR_TAIL_BYTES)..]);
        let excess = self.stderr_tail.len().saturating_sub(STDERR_TAIL_BYTES);
        self.stderr_tail.drain(..excess);
        length
    }
}

/// Zero when nothing is there now, or ever again; then the pipe is closed.
fn read_available(pipe: &mut Option<PipeReader>, scratch: &mut [u8]) -> usize {
    let Some(reader) = pipe else { return 0 };
    loop {
        match reader.read(scratch) {
            Ok(length) if length > 0 => return length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return 0,
            Ok(_) | Err(_) => {
                *pipe = None;
                return 0;
            }
        }
    }
}

/// One stream's files: `path`, then `path.1` up to `path.<count − 1>`, the oldest last.
#[derive(Debug)]
struct LogFile {
    path: Option<PathBuf>,
    /// Opened at the first byte: most short workers print nothing.
    file: Option<File>,
    size_bytes: u64,
    size_bytes_max: u64,
    file_count: u32,
}

impl LogFile {
    fn new(path: &str, limits: LogLimits) -> Self {
        Self {
            path: (!path.is_empty()).then(|| PathBuf::from(path)),
            file: None,
            size_bytes: 0,
            size_bytes_max: or_default(limits.file_bytes_max, FILE_BYTES_MAX),
            file_count: or_default(limits.file_count, FILE_COUNT).min(FILE_COUNT_MAX),
        }
    }

    /// Writes `bytes` and returns how many had to be dropped.
    fn write(&mut self, mut bytes: &[u8]) -> u64 {
        while !bytes.is_empty() && self.path.is_some() {
            match self.write_some(bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // The next bytes try again with a fresh file: the disk may have room, the directory be back.
                    self.file = None;
                    return u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                }
            }
        }
        0
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(path) = &self.path else { return Ok(bytes.len()) };
        if self.file.is_some() && self.size_bytes >= self.size_bytes_max {
            self.file = None;
            rotate(path, self.file_count)?;
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let opened = open_log(path)?;
                self.size_bytes = opened.metadata()?.len();
                self.file.insert(opened)
            }
        };
        let room = usize::try_from(self.size_bytes_max.saturating_sub(self.size_bytes))
            .unwrap_or(usize::MAX);
        // A file found full is left to the next round, which rotates it.
        let length = if room == 0 { 0 } else { file.write(&bytes[..bytes.len().min(room)])? };
        self.size_bytes += u64::try_from(length).unwrap_or(u64::MAX);
        Ok(length)
    }
}

/// Never through a symbolic link, which a worker might have put there.
fn open_log(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).expect("open flags fit an int");
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)
}

fn rotate(path: &Path, file_count: u32) -> io::Result<()> {
    if file_count <= 1 {
        return std::fs::remove_file(path);
    }
    for index in (1..file_count).rev() {
        let from = if index == 1 { path.to_path_buf() } else { numbered(path, index - 1) };
        match std::fs::rename(from, numbered(path, index)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn numbered(path: &Path, index: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{index}"));
    PathBuf::from(name)
}

/// A token bucket that holds at most a tenth of a second's bytes.
#[derive(Debug)]
struct Budget {
    bytes_per_second: u64,
    bytes: u64,
    filled_at: Instant,
}

impl Budget {
    fn new(bytes_per_second: u64, now: Instant) -> Self {
        let mut budget = Self { bytes_per_second, bytes: 0, filled_at: now };
        budget.bytes = budget.bytes_max();
        budget
    }

    fn bytes_max(&self) -> u64 {
        (self.bytes_per_second / 10).max(1)
    }

    fn available(&mut self, now: Instant) -> usize {
        let elapsed_us =
            u64::try_from(now.duration_since(self.filled_at).as_micros()).unwrap_or(u64::MAX);
        let earned = elapsed_us.saturating_mul(self.bytes_per_second) / 1_000_000;
        if earned > 0 {
            self.bytes = self.bytes.saturating_add(earned).min(self.bytes_max());
            self.filled_at = now;
        }
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }

    /// A turn reads two streams with one allowance, so it may spend up to twice of it; the next turn waits longer.
    fn spend(&mut self, length: usize) {
        self.bytes = self.bytes.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
    }

    /// When there is something to spend again; `None` while there is.
    fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let pause = Duration::from_millis(20);
        let at = self.filled_at + pause;
        (self.bytes == 0 && now < at).then_some(at)
    }
}

fn or_default<T: Default + PartialEq>(value: T, default: T) -> T {
    if value == T::default() { default } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(file_bytes_max: u64, file_count: u32) -> LogLimits {
        LogLimits { file_bytes_max, file_count, bytes_per_second: 0 }
    }

    #[test]
    fn files_are_rotated_at_the_exact_limit_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut file = LogFile::new(path.to_str().unwrap(), limits(4, 3));
        assert_eq!(file.write(b"aaaabbbbccccdd"), 0);
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!([read("out"), read("out.1"), read("out.2")], ["dd", "cccc", "bbbb"]);
        assert!(!dir.path().join("out.3").exists());
    }

    #[test]
    fn a_file_found_full_is_rotated_and_one_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::fs::write(&path, "full").unwrap();
        let mut file = LogFile::new(path.to_str().unwrap(), limits(4, 1));
        assert_eq!(file.write(b"new"), 0);
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_later_bytes_are_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing/out");
        let mut file = LogFile::new(path.to_str().unwrap(), limits(0, 0));
        assert_eq!(file.write(b"12345"), 5);
        std::fs::create_dir(dir.path().join("missing")).unwrap();
        assert_eq!(file.write(b"678"), 0);
        assert_eq!(std::fs::read(&path).unwrap(), b"678");
    }

    #[test]
    fn a_full_disk_drops_and_counts() {
        let mut file = LogFile::new("/dev/full", limits(0, 0));
        assert_eq!(file.write(b"12345"), 5);
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::os::unix::fs::symlink(dir.path().join("victim"), &path).unwrap();
        assert_eq!(LogFile::new(path.to_str().unwrap(), limits(0, 0)).write(b"x"), 1);
        assert!(!dir.path().join("victim").exists());
    }

    #[test]
    fn the_budget_earns_its_rate_and_no_more_than_its_depth() {
        let start = Instant::now();
        let mut budget = Budget::new(1000, start);
        assert_eq!(budget.available(start), 100);
        budget.spend(100);
        assert_eq!(budget.wakes_at(start), Some(start + Duration::from_millis(20)));
        assert_eq!(budget.available(start + Duration::from_millis(20)), 20);
        assert_eq!(budget.wakes_at(start + Duration::from_millis(20)), None);
        assert_eq!(budget.available(start + Duration::from_secs(60)), 100);
    }
}
