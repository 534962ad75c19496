//! The desired state on disk: intent before launch. A snapshot, then the
//! changes since, in one preallocated file, so that a change costs one write
//! and one fdatasync and no metadata. A thread of its own does the writing and
//! joins what waits into one sync.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use anyhow::Context as _;
use berth_proto::v1;
use berth_wire::agent::{Delta, Full, delta_to_proto, full_to_proto};

use crate::allocation_dir::set_aside;
use crate::frame::{self, Framed};

const MAGIC: &[u8; 8] = b"BERTHDS1";
/// The file grows by this much at a time, zeros written, so that later writes
/// change no metadata.
const GROWTH_BYTES: usize = 256 << 10;
/// Changes kept since the snapshot before a new one replaces them, in bytes.
pub const CHANGES_BYTES_MAX: usize = 1 << 20;

/// One thing in the file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    #[prost(message, optional, tag = "1")]
    pub full: Option<v1::Full>,
    #[prost(message, optional, tag = "2")]
    pub delta: Option<v1::Delta>,
    /// With a full one: the boot during which it was written.
    #[prost(string, tag = "3")]
    pub boot_id: String,
}

/// What was found on disk, oldest first: a full state, then changes of it.
#[derive(Default)]
pub struct Found {
    pub boot_id: String,
    pub entries: Vec<Entry>,
    /// Where a file that could not be read was moved, and why.
    pub garbled: Option<(PathBuf, &'static str)>,
}

/// A job for the thread.
enum Job {
    Append { sequence: u64, bytes: Vec<u8> },
    Replace { sequence: u64, bytes: Vec<u8> },
}

/// What the thread says: everything up to this sequence is durable, or not.
pub type Outcome = (u64, Result<(), String>);

/// The writing side. Dropping it ends the thread.
pub struct Journal {
    jobs: mpsc::Sender<Job>,
    sequence: u64,
    changes_bytes: usize,
}

impl Journal {
    /// Starts the thread over the file at `path`; the first thing written must
    /// be a snapshot. `report` is called from the thread.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start(
        path: PathBuf,
        report: impl Fn(Outcome) + Send + 'static,
    ) -> anyhow::Result<Journal> {
        let (jobs, received) = mpsc::channel();
        thread::Builder::new()
            .name("desired-journal".to_owned())
            .spawn(move || write_all(&path, &received, report))
            .context("start the journal's thread")?;
        Ok(Journal { jobs, sequence: 0, changes_bytes: 0 })
    }

    /// Whether changes have piled up so that a snapshot should be written.
    pub fn wants_snapshot(&self) -> bool {
        self.changes_bytes > CHANGES_BYTES_MAX
    }

    /// The sequence of what was written last.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Adds a change and returns the sequence that will be reported for it.
    pub fn append(&mut self, delta: &Delta) -> u64 {
        let delta = Some(delta_to_proto(delta));
        let bytes = frame::encode(&Entry { full: None, delta, boot_id: String::new() });
        self.changes_bytes += bytes.len();
        self.sequence += 1;
        self.send(Job::Append { sequence: self.sequence, bytes })
    }

    /// Replaces everything and returns the sequence that will be reported.
    pub fn replace(&mut self, full: &Full, boot_id: &str) -> u64 {
        let full = Some(full_to_proto(full));
        let bytes = frame::encode(&Entry { full, delta: None, boot_id: boot_id.to_owned() });
        self.changes_bytes = 0;
        self.sequence += 1;
        self.send(Job::Replace { sequence: self.sequence, bytes })
    }

    fn send(&self, job: Job) -> u64 {
        // The thread ends only with this sender.
        let _ = self.jobs.send(job);
        self.sequence
    }
}

/// Reads the file at `path`. What follows a torn message was never acted on.
///
/// # Errors
/// The file is there and cannot be read.
pub fn read(path: &Path) -> anyhow::Result<Found> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let mut found = Found::default();
    let Some(mut rest) = bytes.strip_prefix(MAGIC.as_slice()) else {
        found.garbled = Some((set_aside(path), "it does not begin as a desired state does"));
        return Ok(found);
    };
    loop {
        match frame::decode::<Entry>(rest) {
            Framed::Message(entry, length) => {
                rest = &rest[length..];
                if entry.full.is_some() {
                    found.boot_id.clone_from(&entry.boot_id);
                }
                found.entries.push(entry);
            }
            Framed::End => return Ok(found),
            Framed::Garbled(problem) => {
                found.garbled = Some((set_aside(path), problem));
                return Ok(found);
            }
        }
    }
}

fn write_all(path: &Path, jobs: &mpsc::Receiver<Job>, report: impl Fn(Outcome)) {
    let mut file: io::Result<OpenFile> = Err(io::Error::other("no snapshot was written yet"));
    while let Ok(first) = jobs.recv() {
        let mut last = 0;
        let mut outcome = Ok(());
        for job in std::iter::once(first).chain(jobs.try_iter()) {
            match job {
                Job::Replace { sequence, bytes } => {
                    last = sequence;
                    file = OpenFile::create(path, &bytes);
                    outcome = file.as_ref().map(|_| ()).map_err(ToString::to_string);
                }
                Job::Append { sequence, bytes } => {
                    last = sequence;
                    let written = match &mut file {
                        Ok(file) => file.write(&bytes),
                        Err(error) => Err(io::Error::other(error.to_string())),
                    };
                    outcome = outcome.and(written.map_err(|error| error.to_string()));
                }
            }
        }
        if let Ok(open) = &file {
            outcome = outcome.and(open.file.sync_data().map_err(|error| error.to_string()));
        }
        if let Err(error) = &outcome {
            // After a failed write or sync the file's content is unknown: only
            // a new one, written whole, is believed again.
            file = Err(io::Error::other(error.clone()));
        }
        report((last, outcome));
    }
}

struct OpenFile {
    file: File,
    used: u64,
    allocated: u64,
}

impl OpenFile {
    /// Writes a new file beside the old one and puts it in its place.
    fn create(path: &Path, snapshot: &[u8]) -> io::Result<OpenFile> {
        let temporary = path.with_extension("new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all(MAGIC)?;
        file.write_all(snapshot)?;
        file.write_all(&vec![0; GROWTH_BYTES])?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        let used = length(MAGIC.len() + snapshot.len());
        Ok(OpenFile { file, used, allocated: used + length(GROWTH_BYTES) })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // A whole header of zeros must follow the last message.
        let needed = self.used + length(bytes.len()) + length(MAGIC.len());
        if needed > self.allocated {
            let growth = bytes.len() + GROWTH_BYTES;
            self.file.write_all_at(&vec![0; growth], self.allocated)?;
            self.allocated += length(growth);
        }
        self.file.write_all_at(bytes, self.used)?;
        self.used += length(bytes.len());
        Ok(())
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(generation: u64) -> Full {
        Full { incarnation: 1, generation, rows: vec![], specs: vec![], digest: [7; 32] }
    }

    fn delta(to: u64) -> Delta {
        let from = to - 1;
        Delta {
            incarnation: 1,
            from,
            to,
            upserts: vec![],
            removed: vec!["1.0.0.1".parse().unwrap()],
            specs: vec![],
            digest: [8; 32],
        }
    }

    fn generations(found: &Found) -> Vec<u64> {
        let generation = |entry: &Entry| match (&entry.full, &entry.delta) {
            (Some(full), _) => full.generation,
            (None, Some(delta)) => delta.to,
            (None, None) => 0,
        };
        found.entries.iter().map(generation).collect()
    }

    /// Writes a snapshot of generation 1 and changes up to `last`, each waited
    /// for.
    fn written(path: &Path, last: u64) {
        let (done, outcomes) = mpsc::channel();
        let mut journal =
            Journal::start(path.to_owned(), move |outcome| done.send(outcome).unwrap()).unwrap();
        let mut sequences = vec![journal.replace(&full(1), "boot-1")];
        sequences.extend((2..=last).map(|to| journal.append(&delta(to))));
        drop(journal);
        let outcomes: Vec<Outcome> = outcomes.iter().collect();
        assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{outcomes:?}");
        assert_eq!(outcomes.last().unwrap().0, *sequences.last().unwrap());
    }

    #[test]
    fn what_was_reported_durable_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("desired");
        assert!(read(&path).unwrap().entries.is_empty());
        // Enough to grow the file more than once.
        written(&path, 8000);
        let found = read(&path).unwrap();
        assert_eq!(generations(&found), (1..=8000).collect::<Vec<_>>());
        assert_eq!(found.boot_id, "boot-1");
        assert!(found.garbled.is_none());
    }

    #[test]
    fn a_torn_tail_is_dropped_and_a_strange_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("desired");
        written(&path, 3);
        let mut bytes = fs::read(&path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[end] ^= 0xff;
        fs::write(&path, &bytes).unwrap();
        let found = read(&path).unwrap();
        assert_eq!(generations(&found), [1, 2]);
        assert!(found.garbled.is_some());
        fs::write(&path, b"something else").unwrap();
        let found = read(&path).unwrap();
        assert!(found.entries.is_empty());
        assert_eq!(fs::read(found.garbled.unwrap().0).unwrap(), b"something else");
    }
}
