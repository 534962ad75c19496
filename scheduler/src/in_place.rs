//! What was written aside gets its name, so that after a crash there is the old
//! one or the new one, and never half of either.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Gives `aside` the name `path`, for good; what is in a folder must be on the disk
/// already. A file takes the place of another, a folder only that of an empty one.
///
/// # Errors
/// Those of the disk.
pub fn put_in_place(aside: &Path, path: &Path) -> io::Result<()> {
    File::open(aside)?.sync_all()?;
    fs::rename(aside, path)?;
    File::open(parent_of(path))?.sync_all()
}

/// The folder that a path is in.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}
