//! What workers leave behind: each appends its allocation's id to a file of
//! its instance, so a second run of an instance shows as a second line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The worker's command: leave a trace, then do a little work.
pub fn command(folder: &Path, name: &str, work: &str) -> Vec<String> {
    let file = folder.join(format!("{name}.${{BERTH_TASK_INDEX}}"));
    let script = format!("echo \"$BERTH_ALLOC_ID\" >> \"$0\"; {work}");
    vec!["/bin/sh".to_owned(), "-c".to_owned(), script, file.display().to_string()]
}

/// How many lines each trace file of this folder has.
pub fn count(folder: &Path) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("read the trace {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        counts.insert(name, text.lines().count());
    }
    Ok(counts)
}

/// Removes one trace, as if an instance had never run.
pub fn lose_one(folder: &Path) -> anyhow::Result<PathBuf> {
    let first = std::fs::read_dir(folder)?.next().context("there is no trace to lose")??.path();
    std::fs::remove_file(&first)?;
    Ok(first)
}
