//! The disk under the data directory. Figures of synced writes mean nothing on
//! a file system without a disk, so one of those is refused.

use std::path::Path;

use anyhow::{Context as _, bail};

/// File systems that keep files in memory.
const MEMORY_FILE_SYSTEMS: [&str; 3] = ["tmpfs", "ramfs", "devtmpfs"];

/// The type of the file system that `path` is on.
///
/// # Errors
/// Where it is in memory, or the table of mounts cannot be read.
pub fn require_disk(path: &Path) -> anyhow::Result<String> {
    let path = path.canonicalize().with_context(|| format!("find {}", path.display()))?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let kind = kind_under(&mounts, &path).context("no mount holds the data directory")?;
    if MEMORY_FILE_SYSTEMS.contains(&kind.as_str()) {
        bail!("{} is on {kind}, which syncs nothing: choose --data-dir on a disk", path.display());
    }
    Ok(kind)
}

/// The type of the longest mount point above `path`; of equals, the last,
/// which hides the others.
fn kind_under(mounts: &str, path: &Path) -> Option<String> {
    let above = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (point, kind) = (fields.nth(1)?, fields.next()?);
        path.starts_with(point).then(|| (point.len(), kind.to_owned()))
    });
    above.max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

/// Bytes that the files under `folder` take on the disk. Files that vanish
/// meanwhile count nothing.
pub fn bytes_under(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => bytes_under(&entry.path()),
            Ok(data) => data.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
