//! Fetched files of this host, in a directory that is nobody's but the agent's. Everything
//! here reads or writes the disk and may take long.
//!
//! | file | what it is |
//! | --- | --- |
//! | `KEY` | a whole file, checked |
//! | `KEY.record` | what was checked; written before `KEY` gets its name |
//! | `KEY.part` | a beginning; locked by whoever writes it |
//! | `KEY.begun` | of what it is the beginning |

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use berth_model::{Artifact, Checksum, shown_source};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tracing::{info, warn};

use super::order::{Begun, Failure, Stamp};
use crate::data_dir::write_durably;
use crate::file_lock;

/// For a fetcher that was just killed.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 1 << 20;

/// Names one source with one checksum.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key(String);

impl Key {
    pub fn of(artifact: &Artifact) -> Key {
        let mut hash = Sha256::new();
        hash.update(artifact.source.as_bytes());
        hash.update([0]);
        hash.update(artifact.checksum.map(|checksum| checksum.0.to_vec()).unwrap_or_default());
        let digest: [u8; 32] = hash.finalize().into();
        Key(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The key that a name of a file here begins with.
    fn of_name(name: &str) -> Option<Key> {
        let (key, ending) = name.split_once('.').unwrap_or((name, ""));
        let is_key = key.len() == 64 && key.bytes().all(|digit| digit.is_ascii_hexdigit());
        let is_known = matches!(ending, "" | "record" | "part" | "begun");
        (is_key && is_known).then(|| Key(key.to_owned()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What was checked of a whole file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// For people.
    source: String,
    pub stamp: Stamp,
    bytes: u64,
    /// When the file was last written to, in seconds and nanoseconds.
    modified: (i64, i64),
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct BegunRecord {
    stamp: Stamp,
    /// After a power cut a file may be longer than what is in it.
    boot_id: String,
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    keep_bytes: u64,
    boot_id: String,
}

impl Cache {
    /// Makes the directory and removes what nobody can make sense of.
    ///
    /// # Errors
    /// The system's.
    pub fn open(dir: PathBuf, keep_bytes: u64, boot_id: String) -> io::Result<Cache> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
        let cache = Cache { dir, keep_bytes, boot_id };
        for entry in fs::read_dir(&cache.dir)?.flatten() {
            let known = entry.file_name().to_str().and_then(Key::of_name);
            match known {
                Some(key) if entry.file_name().to_str() == Some(key.0.as_str()) => {
                    // Removes it unless it is what was checked.
                    let _ = cache.held(&key);
                }
                Some(key)
                    if cache.part_bytes(&key) == 0 || !cache.file(&key, ".begun").exists() =>
                {
                    // A beginning of nobody knows what.
                    cache.forget_part(&key);
                }
                Some(_) => {}
                None => remove(&entry.path()),
            }
        }
        cache.shrink(|_| false);
        Ok(cache)
    }

    fn file(&self, key: &Key, ending: &str) -> PathBuf {
        self.dir.join(format!("{key}{ending}"))
    }

    /// What is known of a whole file that is as it was when it was checked; what is not is
    /// removed.
    pub fn held(&self, key: &Key) -> Option<Record> {
        let (path, record) = (self.file(key, ""), self.file(key, ".record"));
        let found = fs::symlink_metadata(&path).ok()?;
        let known = read_json::<Record>(&record).filter(|known| {
            let modified = (found.mtime(), found.mtime_nsec());
            found.is_file() && known.bytes == found.len() && known.modified == modified
        });
        if known.is_none() {
            warn!(path = %path.display(), "a fetched file is not what was checked");
            remove(&path);
            remove(&record);
        }
        known
    }

    /// A whole file, as used now.
    pub fn take(&self, key: &Key) -> io::Result<File> {
        let file = File::open(self.file(key, ""))?;
        // For what was used least recently; the disk may be full.
        let _ = File::options()
            .append(true)
            .open(self.file(key, ".record"))
            .and_then(|record| record.set_modified(SystemTime::now()));
        Ok(file)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file that a fetcher writes to, and what it may go on from. No other fetcher writes
    /// to it for as long as it is open anywhere.
    pub fn part(&self, artifact: &Artifact, key: &Key) -> io::Result<(File, Option<Begun>)> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(self.file(key, ".part"))?;
        file_lock::hold(&file, LOCK_PATIENCE)?;
        let begun = read_json::<BegunRecord>(&self.file(key, ".begun"));
        // What a checksum does not show must not have been through a power cut.
        let sound =
            |begun: &BegunRecord| artifact.checksum.is_some() || begun.boot_id == self.boot_id;
        let bytes = file.metadata()?.len();
        let begun = begun.filter(sound).map(|begun| Begun { bytes, stamp: begun.stamp });
        Ok((file, begun.filter(|begun| begun.bytes > 0)))
    }

    /// How much of a beginning is there.
    pub fn part_bytes(&self, key: &Key) -> u64 {
        fs::metadata(self.file(key, ".part")).map_or(0, |found| found.len())
    }

    /// From now on the part is of this content.
    pub fn note_begun(&self, key: &Key, stamp: &Stamp) -> io::Result<()> {
        let begun = BegunRecord { stamp: stamp.clone(), boot_id: self.boot_id.clone() };
        fs::write(self.file(key, ".begun"), serde_json::to_vec(&begun)?)
    }

    pub fn forget_part(&self, key: &Key) {
        remove(&self.file(key, ".begun"));
        remove(&self.file(key, ".part"));
    }

    /// Checks a part that is whole and makes it the file.
    ///
    /// # Errors
    /// It has another checksum, and is gone; or the disk does not take it.
    pub fn adopt(&self, artifact: &Artifact, key: &Key, stamp: &Stamp) -> Result<(), Adopting> {
        let mut part = File::open(self.file(key, ".part"))?;
        if let Some(expected) = artifact.checksum {
            let found = checksum_of(&mut part)?;
            if found != expected {
                self.forget_part(key);
                return Err(Adopting::WrongChecksum { expected, found });
            }
        }
        part.set_permissions(Permissions::from_mode(0o444))?;
        part.sync_all()?;
        let written = part.metadata()?;
        let record = Record {
            source: shown_source(&artifact.source),
            stamp: stamp.clone(),
            bytes: written.len(),
            modified: (written.mtime(), written.mtime_nsec()),
        };
        let record = serde_json::to_vec(&record).map_err(io::Error::from)?;
        write_durably(&self.file(key, ".record"), &record)?;
        fs::rename(self.file(key, ".part"), self.file(key, ""))?;
        File::open(&self.dir)?.sync_all()?;
        remove(&self.file(key, ".begun"));
        Ok(())
    }

    /// Removes what was used least recently until the rest is within the bound; never what is
    /// in use.
    pub fn shrink(&self, is_in_use: impl Fn(&Key) -> bool) {
        let mut kept = self.sizes();
        let mut total: u64 = kept.values().map(|(bytes, _)| *bytes).sum();
        let mut oldest: Vec<(SystemTime, Key)> =
            kept.iter().map(|(key, (_, used_at))| (*used_at, key.clone())).collect();
        oldest.sort();
        for (_, key) in oldest {
            if total <= self.keep_bytes {
                return;
            }
            if is_in_use(&key) {
                continue;
            }
            let bytes = kept.remove(&key).map_or(0, |(bytes, _)| bytes);
            info!(%key, bytes, "a fetched file makes room");
            // The record last: without it the rest is found to be nothing.
            for ending in ["", ".part", ".begun", ".record"] {
                remove(&self.file(&key, ending));
            }
            total = total.saturating_sub(bytes);
        }
    }

    /// Bytes and last use of everything here.
    fn sizes(&self) -> BTreeMap<Key, (u64, SystemTime)> {
        let mut found: BTreeMap<Key, (u64, SystemTime)> = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let key = entry.file_name().to_str().and_then(Key::of_name);
            let (Some(key), Ok(metadata)) = (key, entry.metadata()) else { continue };
            let at = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let of_key = found.entry(key).or_insert((0, SystemTime::UNIX_EPOCH));
            of_key.0 += metadata.blocks() * 512;
            of_key.1 = of_key.1.max(at);
        }
        found
    }
}

/// What is said of content that is another than was asked for, first.
pub const WRONG_CHECKSUM: &str = "wrong checksum";

/// Why a part is not a file.
#[derive(Debug)]
pub enum Adopting {
    WrongChecksum { expected: Checksum, found: Checksum },
    Disk(io::Error),
}

impl From<io::Error> for Adopting {
    fn from(error: io::Error) -> Adopting {
        Adopting::Disk(error)
    }
}

impl Adopting {
    /// Of a file whose beginning was there before: another beginning may do better.
    pub fn into_failure(self, resumed_at: u64) -> Failure {
        match self {
            Adopting::Disk(error) => Failure::Host(format!("write it down: {error}")),
            Adopting::WrongChecksum { expected, found } => {
                let words = format!("{WRONG_CHECKSUM}: expected {expected}, found {found}");
                match resumed_at {
                    0 => Failure::Lasting(words),
                    _ => Failure::Passing(words),
                }
            }
        }
    }
}

fn checksum_of(file: &mut File) -> io::Result<Checksum> {
    file.rewind()?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; READ_BYTES]);
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(Checksum(hash.finalize().into()));
        }
        hash.update(&piece[..read]);
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), %error, "a file of the cache is left");
        }
        Ok(()) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests;
