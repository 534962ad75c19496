//! How much of the disk lies below a directory.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use berth_model::DiskBytes;

/// Nobody waits for a longer count: what else there is is as good as free.
const ENTRIES_MAX: usize = 1_000_000;
/// Of one block, as the system counts them whatever the file system's own are.
const BLOCK_BYTES: u64 = 512;

/// What the files below these directories take, each once whatever its names are. What cannot
/// be read, or is gone by then, takes nothing. Follows no link. Blocks; one call for each entry.
pub fn used(dirs: impl IntoIterator<Item = PathBuf>) -> DiskBytes {
    let mut left: Vec<PathBuf> = dirs.into_iter().collect();
    let (mut bytes, mut entries) = (0_u64, 0);
    // Those with other names, which may be here too.
    let mut seen = BTreeSet::new();
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            entries += 1;
            if entries > ENTRIES_MAX {
                return DiskBytes(bytes);
            }
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                left.push(entry.path());
            } else if found.nlink() > 1 && !seen.insert((found.dev(), found.ino())) {
                continue;
            }
            bytes = bytes.saturating_add(found.blocks().saturating_mul(BLOCK_BYTES));
        }
    }
    DiskBytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_once_and_a_link_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        let before = used([dir.path().to_owned()]).0;
        fs::write(below.join("file"), vec![7; 1 << 20]).unwrap();
        fs::hard_link(below.join("file"), dir.path().join("same")).unwrap();
        std::os::unix::fs::symlink("/usr", dir.path().join("elsewhere")).unwrap();
        // A hole is no disk.
        fs::File::create(dir.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        let more = used([dir.path().to_owned(), dir.path().join("not-there")]).0 - before;
        assert!(((1 << 20)..(1 << 20) + (64 << 10)).contains(&more), "{more}");
    }
}
