//! A stopped scheduler's data directory, looked at from outside. Nothing is
//! written to it.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use berth_raft::App as _;
use berth_raft::device::sled::{self, Problem, Salvaged};
use berth_wire::backup::write_backup;

use crate::app::{ClusterApp, Published};
use crate::identity::Identity;

/// What a data directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub cluster_id: String,
    pub scheduler_id: u64,
    pub address: String,
    /// Everything that is wrong; nothing if a scheduler can start from it.
    pub problems: Vec<Problem>,
}

/// Reads all of a stopped scheduler's data directory, log and snapshots, and
/// tells what is wrong with it. Needs room for a copy of the log in the
/// system's temporary directory.
///
/// # Errors
/// There is no scheduler in the directory, it is running, or the directory
/// cannot be read.
pub fn verify(data_dir: &Path) -> anyhow::Result<Verified> {
    let identity = Identity::load(data_dir)?;
    let Some(identity) = identity else {
        bail!("{} holds no scheduler: there is no scheduler.json", data_dir.display());
    };
    let folder = raft_folder(data_dir);
    // Held while it is read: a scheduler that starts now would change it.
    let _held = sled::hold(&folder)?;
    let mut problems =
        sled::verify(&folder).with_context(|| format!("read the store in {}", folder.display()))?;
    // A damaged mark is among the problems already.
    if let Ok(Some(owner)) = sled::owner(&folder)
        && (owner.node_id, owner.cluster_id) != (identity.scheduler_id, identity.group_id()?)
    {
        problems.push(Problem {
            file: folder,
            index: None,
            what: format!("belongs to scheduler {}, not to this one", owner.node_id),
            way_out: "put each scheduler's own directory back where it was".to_owned(),
        });
    }
    Ok(Verified {
        cluster_id: identity.cluster_id,
        scheduler_id: identity.scheduler_id,
        address: identity.address,
        problems,
    })
}

/// Writes the newest state that a stopped scheduler's directory knows as a
/// backup. Needs room for a copy of the log in the system's temporary
/// directory.
///
/// # Errors
/// There is no scheduler in the directory, it is running, or something in it is
/// damaged; or the file cannot be written.
pub fn salvage(data_dir: &Path, file: &Path) -> anyhow::Result<Salvaged> {
    let verified = verify(data_dir)?;
    if let Some(problem) = verified.problems.first() {
        bail!(
            "{}: {}; `berth storage verify` lists everything that is wrong",
            problem.file.display(),
            problem.what
        );
    }
    let folder = raft_folder(data_dir);
    let _held = sled::hold(&folder)?;
    let mut app = ClusterApp::new(Arc::new(Published::new()));
    let reached = sled::newest_state(&folder, &mut app)
        .with_context(|| format!("read the store in {}", folder.display()))?;
    let state = app.view();
    let created = File::options().write(true).create(true).truncate(true).mode(0o600).open(file);
    let created = created.with_context(|| format!("write {}", file.display()))?;
    let mut sink = BufWriter::new(created);
    write_backup(&state, state.cluster().wall_ms, env!("CARGO_PKG_VERSION"), &mut sink)
        .and_then(|()| sink.flush())
        .and_then(|()| sink.get_ref().sync_all())
        .with_context(|| format!("write {}", file.display()))?;
    Ok(reached)
}

/// Where log and snapshots are.
pub(crate) fn raft_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("raft")
}
