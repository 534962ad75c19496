//! Snapshot files: whole or not there. This module names and keeps them; what
//! stands inside is decided where they are built.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::Position;

/// Names a snapshot by the last entry inside. Ordered by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotName {
    /// Index of the last entry inside.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

impl SnapshotName {
    /// Zero-padded, so that names sort as indices do.
    #[must_use]
    pub fn file_name(self) -> String {
        format!("{:020}-{:020}.snapshot", self.index, self.term)
    }

    fn parse(name: &str) -> Option<Self> {
        let (index, term) = name.strip_suffix(".snapshot")?.split_once('-')?;
        let parsed = Self { index: index.parse().ok()?, term: term.parse().ok()? };
        (parsed.file_name() == name).then_some(parsed)
    }
}

impl From<Position> for SnapshotName {
    fn from(position: Position) -> Self {
        Self { index: position.index, term: position.term }
    }
}

/// A snapshot being written; dropped without `commit` it leaves nothing.
pub trait SnapshotSink: Write + Send {
    /// What was written so far, from its beginning.
    ///
    /// # Errors
    /// The storage failed.
    fn read_back(&mut self) -> io::Result<Box<dyn Read + Send>>;
    /// Makes it durable under its name, replacing one of the same name.
    ///
    /// # Errors
    /// The storage failed; nothing lies under the name then.
    fn commit(self: Box<Self>, name: SnapshotName) -> io::Result<()>;
}

/// Where snapshots are kept.
pub trait SnapshotStore: Clone + Send + Sync + 'static {
    /// Begins a new one.
    ///
    /// # Errors
    /// The storage failed.
    fn create(&self) -> io::Result<Box<dyn SnapshotSink>>;
    /// All that are there, oldest first.
    ///
    /// # Errors
    /// The storage failed.
    fn list(&self) -> io::Result<Vec<SnapshotName>>;
    /// Opens one and tells its length in bytes.
    ///
    /// # Errors
    /// It is not there, or the storage failed.
    fn open(&self, name: SnapshotName) -> io::Result<(Box<dyn Read + Send>, u64)>;
    /// Removes one; one that is not there is no error.
    ///
    /// # Errors
    /// The storage failed.
    fn remove(&self, name: SnapshotName) -> io::Result<()>;
    /// How messages name it.
    fn describe(&self, name: SnapshotName) -> PathBuf;
}

/// Snapshots as files of one folder.
#[derive(Debug, Clone)]
pub struct FileSnapshots {
    folder: Arc<Path>,
}

impl FileSnapshots {
    /// Makes the folder if needed and removes what an earlier life left
    /// unfinished.
    ///
    /// # Errors
    /// The file system refused.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { folder: folder.into() })
    }

    /// Touches nothing; for a look at a stopped node's files.
    pub(crate) fn look_at(folder: &Path) -> Self {
        Self { folder: folder.into() }
    }

    fn sync_folder(&self) -> io::Result<()> {
        fs::File::open(&self.folder)?.sync_all()
    }
}

struct FileSink {
    store: FileSnapshots,
    path: PathBuf,
    file: Option<io::BufWriter<fs::File>>,
}

impl FileSink {
    fn file(&mut self) -> io::Result<&mut io::BufWriter<fs::File>> {
        self.file.as_mut().ok_or_else(|| io::Error::other("snapshot is already committed"))
    }
}

impl Write for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file()?.flush()
    }
}

impl SnapshotSink for FileSink {
    fn read_back(&mut self) -> io::Result<Box<dyn Read + Send>> {
        self.flush()?;
        let file = fs::File::open(&self.path)?;
        Ok(Box::new(io::BufReader::new(file)))
    }

    fn commit(mut self: Box<Self>, name: SnapshotName) -> io::Result<()> {
        self.flush()?;
        self.file()?.get_ref().sync_all()?;
        self.file = None;
        fs::rename(&self.path, self.store.describe(name))?;
        self.store.sync_folder()
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // The next start removes it if this fails.
            let _left_for_later = fs::remove_file(&self.path);
        }
    }
}

impl SnapshotStore for FileSnapshots {
    fn create(&self) -> io::Result<Box<dyn SnapshotSink>> {
        // A build and an install may be under way at once, each in a file of
        // its own; the number is only unique within this life.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = self.folder.join(format!("{number}.tmp"));
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        Ok(Box::new(FileSink {
            store: self.clone(),
            path,
            file: Some(io::BufWriter::with_capacity(1 << 18, file)),
        }))
    }

    fn list(&self) -> io::Result<Vec<SnapshotName>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            names.extend(entry?.file_name().to_str().and_then(SnapshotName::parse));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, name: SnapshotName) -> io::Result<(Box<dyn Read + Send>, u64)> {
        let file = fs::File::open(self.describe(name))?;
        let length = file.metadata()?.len();
        Ok((Box::new(io::BufReader::with_capacity(1 << 18, file)), length))
    }

    fn remove(&self, name: SnapshotName) -> io::Result<()> {
        match fs::remove_file(self.describe(name)) {
            Ok(()) => self.sync_folder(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn describe(&self, name: SnapshotName) -> PathBuf {
        self.folder.join(name.file_name())
    }
}

/// Snapshots of a disk in memory; a committed one survives every crash.
#[derive(Debug, Clone, Default)]
pub struct MemorySnapshots(Arc<Mutex<BTreeMap<SnapshotName, Bytes>>>);

impl MemorySnapshots {
    /// All that are there, oldest first.
    #[must_use]
    pub fn names(&self) -> Vec<SnapshotName> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.keys().copied().collect()
    }
}

struct MemorySink {
    store: MemorySnapshots,
    bytes: Vec<u8>,
}

impl Write for MemorySink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotSink for MemorySink {
    fn read_back(&mut self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.bytes.clone())))
    }

    fn commit(self: Box<Self>, name: SnapshotName) -> io::Result<()> {
        let mut map = self.store.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.insert(name, self.bytes.into());
        Ok(())
    }
}

impl SnapshotStore for MemorySnapshots {
    fn create(&self) -> io::Result<Box<dyn SnapshotSink>> {
        Ok(Box::new(MemorySink { store: self.clone(), bytes: Vec::new() }))
    }

    fn list(&self) -> io::Result<Vec<SnapshotName>> {
        Ok(self.names())
    }

    fn open(&self, name: SnapshotName) -> io::Result<(Box<dyn Read + Send>, u64)> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = map.get(&name).cloned().ok_or(io::ErrorKind::NotFound)?;
        let length = bytes.len() as u64;
        Ok((Box::new(Cursor::new(bytes)), length))
    }

    fn remove(&self, name: SnapshotName) -> io::Result<()> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.remove(&name);
        Ok(())
    }

    fn describe(&self, name: SnapshotName) -> PathBuf {
        name.file_name().into()
    }
}
