//! A replica that was found to differ is set aside: evidence beside its data,
//! and no way to start on that data again. What it would vote for or snapshot
//! is not what the others decided.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use berth_raft::App as _;
use berth_state::ClusterState;
use serde::{Deserialize, Serialize};

use super::agreement::Odd;
use crate::app::ClusterApp;

const FOLDER: &str = "quarantine";
const REPORT: &str = "report.json";
const STATE: &str = "state.snapshot";

/// Why a replica was set aside, as the file says it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Report {
    scheduler: u64,
    /// The entry after which the states differed.
    index: u64,
    /// Of 8 bytes, in hex.
    own_hash: String,
    majority_hash: String,
    majority: Vec<u64>,
    /// The last entry in the state beside this file.
    state_index: u64,
    version: String,
}

fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join(FOLDER)
}

/// Writes down why this replica is set aside, which refuses every later start, and
/// then the state that it has.
///
/// # Errors
/// Those of the disk.
pub fn set_aside(
    data_dir: &Path,
    scheduler: u64,
    odd: &Odd,
    view: &ClusterState,
) -> io::Result<()> {
    let folder = folder(data_dir);
    fs::create_dir_all(&folder)?;
    let report = Report {
        scheduler,
        index: odd.index,
        own_hash: format!("{:016x}", odd.own_hash),
        majority_hash: format!("{:016x}", odd.majority_hash),
        majority: odd.majority.clone(),
        state_index: view.applied_index(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut file = File::create(folder.join(REPORT))?;
    file.write_all(&serde_json::to_vec_pretty(&report)?)?;
    file.sync_all()?;
    File::open(&folder)?.sync_all()?;
    File::open(data_dir)?.sync_all()?;
    let mut state = BufWriter::new(File::create(folder.join(STATE))?);
    ClusterApp::write_snapshot(view, &mut state)?;
    state.into_inner()?.sync_all()?;
    File::open(&folder)?.sync_all()
}

/// Refuses a directory whose replica was set aside.
///
/// # Errors
/// It was; or the report cannot be read.
pub fn check(data_dir: &Path) -> anyhow::Result<()> {
    let path = folder(data_dir).join(REPORT);
    let text = match fs::read(&path) {
        Ok(text) => text,
        // What else is wrong with the directory others say better.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(());
        }
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let report: Report = serde_json::from_slice(&text)
        .with_context(|| format!("{} says that this replica was set aside", path.display()))?;
    let Report { scheduler, index, .. } = report;
    bail!(
        "scheduler {scheduler} was set aside: after entry {index} its state was not that of the \
         majority; run `berth operator remove {scheduler}`, start a new one on an empty directory \
         with --join, and keep {} for whoever looks into it",
        folder(data_dir).display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_was_set_aside_does_not_start_again() {
        let data_dir = tempfile::tempdir().unwrap();
        check(data_dir.path()).unwrap();
        let odd = Odd { index: 256, own_hash: 1, majority_hash: 2, majority: vec![2, 3] };
        set_aside(data_dir.path(), 1, &odd, &ClusterState::default()).unwrap();
        let refused = check(data_dir.path()).unwrap_err().to_string();
        for part in ["scheduler 1", "entry 256", "berth operator remove 1", "quarantine"] {
            assert!(refused.contains(part), "{refused}");
        }
        fs::write(data_dir.path().join("quarantine/report.json"), "{").unwrap();
        assert!(check(data_dir.path()).is_err());
    }
}
