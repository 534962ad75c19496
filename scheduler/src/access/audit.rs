//! The audit: who did or was refused what, a line of JSON each, in files that
//! only grow until the next one begins. It never holds a payload or a secret,
//! and it never holds up a call.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use tracing::warn;

use super::refusals::{Counted, Refusals};
use crate::leader::clock::wall;

/// Lines that wait for the disk. When they are full a line is counted instead
/// of written, and the count is the next line: a stuck disk must not stop the
/// cluster.
const LINES_MAX: usize = 8192;

/// A line waits for those that come within so long, and is written with them. A queue that is filled
/// faster would be beyond any disk.
const GATHERED_FOR: Duration = Duration::from_millis(5);

/// Where the audit goes, and how much of it stays.
#[derive(Clone, Debug)]
pub struct AuditOptions {
    pub folder: PathBuf,
    /// A file that has grown to this is followed by a new one.
    pub file_bytes: u64,
    /// So many files stay, the newest.
    pub files_max: usize,
}

impl AuditOptions {
    /// The usual size below a data directory: 256 MiB in all.
    pub fn below(data_dir: &Path) -> AuditOptions {
        AuditOptions { folder: data_dir.join("audit"), file_bytes: 16 << 20, files_max: 16 }
    }
}

/// Takes records. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Audit {
    lines: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
    refusals: Arc<Refusals>,
}

/// What happened. Times are added here.
#[derive(Debug)]
pub struct Record<'a> {
    pub who: &'a str,
    /// As in the request line.
    pub call: &'a str,
    /// What it was about; empty if the call does not say.
    pub about: &'a str,
    pub result: &'a str,
    pub remote: Option<SocketAddr>,
    pub request_id: &'a str,
}

#[derive(Serialize)]
struct Line<'a> {
    at_ms: u64,
    who: &'a str,
    call: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    about: &'a str,
    result: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<SocketAddr>,
    request_id: &'a str,
}

impl Audit {
    /// Opens the newest file, or the first.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn open(options: AuditOptions) -> anyhow::Result<Audit> {
        let context = format!("open the audit in {}", options.folder.display());
        let writer = Writer::open(options).context(context)?;
        let (lines, queue) = sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = dropped.clone();
        thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || keep_writing(writer, &queue, &counted))
            .context("start the audit's thread")?;
        Ok(Audit { lines, dropped, refusals: Arc::default() })
    }

    /// Hands over that somebody was refused. Of one address only so many a
    /// minute: strangers must not be able to wash away what is on record.
    pub fn refuse(&self, record: &Record<'_>) {
        let address = record.remote.map(|remote| remote.ip());
        match self.refusals.count(address, Instant::now()) {
            Counted::Told => self.write(record),
            Counted::First => {
                self.write(record);
                warn!(
                    ?address,
                    "many calls of one address are refused; the audit only counts them"
                );
            }
            Counted::Silent => {}
        }
    }

    /// Whether an address has been refused so often that it is heard no more for
    /// the rest of the minute.
    pub fn is_tiresome(&self, address: Option<IpAddr>) -> bool {
        self.refusals.is_over(address, Instant::now())
    }

    /// Hands a record over; it is written soon.
    pub fn write(&self, record: &Record<'_>) {
        let Record { who, call, about, result, remote, request_id } = record;
        let line = Line { at_ms: wall().0, who, call, about, result, remote: *remote, request_id };
        let Ok(mut text) = serde_json::to_vec(&line) else { return };
        text.push(b'\n');
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.lines.try_send(text)
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("berth_audit_dropped_total").increment(1);
        }
    }
}

fn keep_writing(mut writer: Writer, queue: &Receiver<Vec<u8>>, dropped: &AtomicU64) {
    static COMPLAINED: OnceLock<()> = OnceLock::new();
    while let Ok(line) = queue.recv() {
        // More lines come meanwhile: to be woken for each would take a tenth of a core from the
        // calls that write them.
        thread::sleep(GATHERED_FOR);
        let mut write = || -> io::Result<()> {
            writer.write(&line)?;
            while let Ok(line) = queue.try_recv() {
                writer.write(&line)?;
            }
            let missing = dropped.swap(0, Ordering::Relaxed);
            if missing > 0 {
                let note = format!("{{\"at_ms\":{},\"dropped\":{missing}}}\n", wall().0);
                writer.write(note.as_bytes())?;
            }
            writer.flush()
        };
        if let Err(error) = write() {
            dropped.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("berth_audit_dropped_total").increment(1);
            COMPLAINED.get_or_init(|| warn!(%error, "audit cannot be written"));
        }
    }
}

struct Writer {
    options: AuditOptions,
    number: u64,
    file: BufWriter<File>,
    bytes: u64,
}

impl Writer {
    fn open(options: AuditOptions) -> io::Result<Writer> {
        fs::create_dir_all(&options.folder)?;
        fs::set_permissions(&options.folder, fs::Permissions::from_mode(0o700))?;
        let number = numbers(&options.folder)?.last().copied().unwrap_or(1);
        let (file, bytes) = append(&options.folder, number)?;
        Ok(Writer { options, number, file, bytes })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes >= self.options.file_bytes {
            self.file.flush()?;
            self.number += 1;
            (self.file, self.bytes) = append(&self.options.folder, self.number)?;
            let numbers = numbers(&self.options.folder)?;
            let excess = numbers.len().saturating_sub(self.options.files_max);
            for old in numbers.iter().take(excess) {
                fs::remove_file(path(&self.options.folder, *old))?;
            }
        }
        self.bytes += line.len() as u64;
        self.file.write_all(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("audit-{number:08}.jsonl"))
}

fn append(folder: &Path, number: u64) -> io::Result<(BufWriter<File>, u64)> {
    let mut options = OpenOptions::new();
    let file = options.append(true).create(true).mode(0o600).open(path(folder, number))?;
    let bytes = file.metadata()?.len();
    Ok((BufWriter::new(file), bytes))
}

/// The files that are there, oldest first.
fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number: Option<u64> = name
            .to_str()
            .and_then(|name| name.strip_prefix("audit-")?.strip_suffix(".jsonl")?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: usize) -> Vec<u8> {
        format!("{{\"line\":{number}}}\n").into_bytes()
    }

    #[test]
    fn files_follow_each_other_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let options =
            AuditOptions { folder: folder.path().join("audit"), file_bytes: 64, files_max: 3 };
        let mut writer = Writer::open(options.clone()).unwrap();
        for number in 0..40 {
            writer.write(&line(number)).unwrap();
        }
        writer.flush().unwrap();
        let kept = numbers(&options.folder).unwrap();
        assert_eq!(kept.len(), 3);
        // What is there is whole, in order, and ends with the newest.
        let text: String =
            kept.iter().map(|n| fs::read_to_string(path(&options.folder, *n)).unwrap()).collect();
        let expected: String = (0..40).map(|n| String::from_utf8(line(n)).unwrap()).collect();
        assert!(expected.ends_with(&text) && !text.is_empty(), "{text}");
        // A writer that begins again goes on in the same file.
        drop(writer);
        let mut again = Writer::open(options.clone()).unwrap();
        again.write(&line(40)).unwrap();
        again.flush().unwrap();
        let newest = path(&options.folder, *kept.last().unwrap());
        assert!(fs::read_to_string(&newest).unwrap().ends_with("{\"line\":40}\n"));
        let mode = fs::metadata(newest).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
}
