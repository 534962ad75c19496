//! Checks a stopped node's directory without writing to it: sled repairs what
//! it opens, so a copy is opened instead.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::load::load;
use super::open::{list_snapshots, log_folder};
use crate::device::high_water::{self, HighWater};
use crate::device::snapshots::SnapshotStore;
use crate::device::{Identity, OpenError};

/// Something wrong in a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file it is in.
    pub file: PathBuf,
    /// The log index, where it is one entry's.
    pub index: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// What the operator can do.
    pub way_out: String,
}

const REPLACE: &str = "move the directory away, remove the node from the cluster and join again under a new id; or restore the whole directory";

impl Problem {
    fn from_error(file: PathBuf, error: OpenError) -> Self {
        match error {
            OpenError::Damaged { file, index, what } => {
                Self { file, index, what, way_out: REPLACE.to_owned() }
            }
            error @ (OpenError::Missing { .. }
            | OpenError::InUse { .. }
            | OpenError::WrongNode { .. }
            | OpenError::Version { .. }
            | OpenError::Filesystem { .. }
            | OpenError::Full { .. }
            | OpenError::Io { .. }) => Self {
                file,
                index: None,
                what: error.to_string(),
                way_out: "as the message says".to_owned(),
            },
        }
    }
}

/// Everything wrong with a data directory; nothing if it can be started from.
/// Needs room for a copy of the log in the system's temporary directory.
///
/// # Errors
/// The directory cannot be read, or the copy not be made.
pub fn verify(data_dir: &Path) -> io::Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let note_file = high_water::path(data_dir);
    let note = match HighWater::read(data_dir) {
        Ok(Some(note)) => Some(note),
        Ok(None) => {
            problems.push(Problem {
                file: note_file,
                index: None,
                what: "is missing".to_owned(),
                way_out: REPLACE.to_owned(),
            });
            None
        }
        Err(error) => {
            problems.push(Problem::from_error(note_file, error));
            None
        }
    };
    let purged = verify_log(data_dir, note, &mut problems)?;
    verify_snapshots(data_dir, note, purged, &mut problems)?;
    Ok(problems)
}

/// Whose directory it is, by its high-water file; `None` without one.
///
/// # Errors
/// The file cannot be read, or is damaged.
pub fn owner(data_dir: &Path) -> Result<Option<Identity>, OpenError> {
    Ok(HighWater::read(data_dir)?.map(|note| note.identity))
}

/// A copy of a log that may be opened; gone with this value.
pub(super) struct LogCopy(pub PathBuf);

impl LogCopy {
    pub(super) fn of(data_dir: &Path) -> io::Result<LogCopy> {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        let name = format!("berth-verify-{}-{since}", std::process::id());
        let copy = LogCopy(std::env::temp_dir().join(name));
        copy_folder(&log_folder(data_dir), &copy.0)?;
        Ok(copy)
    }
}

impl Drop for LogCopy {
    fn drop(&mut self) {
        // A copy that stays behind in the temporary directory harms nobody.
        let _left = fs::remove_dir_all(&self.0);
    }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn verify_log(
    data_dir: &Path,
    note: Option<HighWater>,
    problems: &mut Vec<Problem>,
) -> io::Result<Option<u64>> {
    let original = log_folder(data_dir);
    let copy = LogCopy::of(data_dir)?;
    let rename = |mut problem: Problem| {
        if let Ok(inside) = problem.file.strip_prefix(&copy.0) {
            problem.file = original.join(inside);
        }
        problem
    };
    let loaded = match load(&copy.0) {
        Ok(loaded) => loaded,
        Err(error) => {
            problems.push(rename(Problem::from_error(original.join("db"), error)));
            return Ok(None);
        }
    };
    let file = copy.0.join("db");
    let mut found = loaded.problems;
    match (note, loaded.identity) {
        (Some(note), Some(identity)) if note.identity == identity => {
            let checked = note.check(&file, loaded.recovered.vote, loaded.recovered.last());
            found.extend(checked.err());
        }
        (Some(_), _) => {
            let what = "holds another identity than the high-water file";
            found.push(OpenError::damaged(&file, None, what));
        }
        (None, _) => {}
    }
    let found = found.into_iter();
    problems.extend(found.map(|error| rename(Problem::from_error(file.clone(), error))));
    Ok(loaded.recovered.purged.map(|purged| purged.index))
}

fn verify_snapshots(
    data_dir: &Path,
    note: Option<HighWater>,
    purged: Option<u64>,
    problems: &mut Vec<Problem>,
) -> io::Result<()> {
    let mut newest = None;
    if let (Some((store, names)), Some(note)) = (list_snapshots(data_dir)?, note) {
        for name in names {
            let checked = store.open(name).and_then(|(mut source, _)| {
                crate::snapshot::check(&mut *source, note.identity.cluster_id)
            });
            match checked {
                Ok(_) => newest = Some(name.index),
                Err(error) => problems.push(Problem {
                    file: store.describe(name),
                    index: Some(name.index),
                    what: error.to_string(),
                    way_out: "remove the file if an older snapshot is whole and the log reaches back to it; else replace the node".to_owned(),
                }),
            }
        }
    }
    if let Some(purged) = purged
        && newest.is_none_or(|newest| newest < purged)
    {
        problems.push(Problem {
            file: super::open::snapshot_folder(data_dir),
            index: Some(purged),
            what: "no whole snapshot reaches to the beginning of the log".to_owned(),
            way_out: REPLACE.to_owned(),
        });
    }
    Ok(())
}
