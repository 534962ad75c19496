//! A stopped scheduler's data directory, handled from outside. Nothing that is
//! there is ever changed.

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use berth_raft::device::sled::{
    self, Directory, Filesystem, Problem, Salvaged, SledDevice, SledOptions,
};
use berth_raft::{App as _, Carried, CarryError, check_carried, export_store, import_store};
use berth_wire::backup::write_backup;

use crate::app::{ClusterApp, Published};
use crate::identity::Identity;
use crate::in_place::put_in_place;
use crate::peers::check_quarantine;

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
    problems.extend(set_aside(data_dir));
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

/// A replica that was found to differ is whole, and of no use all the same.
fn set_aside(data_dir: &Path) -> Option<Problem> {
    let error = check_quarantine(data_dir).err()?;
    Some(Problem {
        file: data_dir.join("quarantine"),
        index: None,
        what: error.to_string(),
        way_out: "as the message says".to_owned(),
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
    refuse_damaged(&verify(data_dir)?)?;
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

/// What moved between a store and a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    pub scheduler_id: u64,
    /// The last entry in the log.
    pub last_index: u64,
    pub entries: u64,
    pub snapshots: u64,
}

impl Moved {
    fn new(carried: &Carried) -> Moved {
        Moved {
            scheduler_id: carried.identity.node_id,
            last_index: carried.last.map_or(0, |last| last.index),
            entries: carried.entries,
            snapshots: carried.snapshots,
        }
    }
}

/// Writes a stopped scheduler's log and snapshots to a file, and reads it back
/// whole before it gets its name. Needs room for a copy of the log in the
/// system's temporary directory.
///
/// # Errors
/// As `salvage`; or the file is there already.
pub fn export(data_dir: &Path, file: &Path) -> anyhow::Result<Moved> {
    refuse_damaged(&verify(data_dir)?)?;
    let folder = raft_folder(data_dir);
    let _held = sled::hold(&folder)?;
    if file.exists() {
        bail!("{} is there already", file.display());
    }
    let writing = format!("write {}", file.display());
    let mut aside = file.as_os_str().to_owned();
    aside.push(".part");
    let aside = PathBuf::from(aside);
    let created = File::options().write(true).create(true).truncate(true).mode(0o600).open(&aside);
    let mut sink = BufWriter::new(created.with_context(|| writing.clone())?);
    let carried = export_store(&folder, &mut sink)
        .with_context(|| format!("copy the store in {}", folder.display()))?;
    sink.flush().with_context(|| writing.clone())?;
    let read_back = check_carried(&mut BufReader::new(File::open(&aside)?));
    if read_back.context("read the file back")? != carried {
        bail!("{} reads back as something else", aside.display());
    }
    put_in_place(&aside, file).context(writing)?;
    Ok(Moved::new(&carried))
}

/// Makes log and snapshots of a scheduler from a file that `export` wrote. The
/// directory has the scheduler's identity already, and no store.
///
/// # Errors
/// The file is damaged or another scheduler's, or there is a store; then
/// nothing was changed.
pub fn import(data_dir: &Path, file: &Path) -> anyhow::Result<Moved> {
    let Some(identity) = Identity::load(data_dir)? else {
        bail!(
            "{} holds no scheduler.json; it comes from the directory that was exported, with all \
             that was beside its store",
            data_dir.display()
        );
    };
    let folder = raft_folder(data_dir);
    let open = || File::open(file).with_context(|| format!("read {}", file.display()));
    let named = || file.display().to_string();
    // Whole, before anything is touched.
    let carried = check_carried(&mut BufReader::new(open()?)).with_context(named)?;
    let own = berth_raft::device::Identity {
        cluster_id: identity.group_id()?,
        node_id: identity.scheduler_id,
    };
    if carried.identity != own {
        let (found, expected) = (carried.identity.node_id, own.node_id);
        return Err(anyhow::Error::new(CarryError::WrongNode { found, expected }).context(named()));
    }
    check_quarantine(data_dir)?;
    let holds = match std::fs::read_dir(&folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error).with_context(|| format!("read {}", folder.display())),
    };
    if holds {
        bail!("{} holds a store already; move it away first", folder.display());
    }
    // Beside it, and put in its place when it is whole: what an interrupted import
    // left would start, without entries that it had acknowledged.
    let aside = data_dir.join("raft.importing");
    if aside.exists() {
        std::fs::remove_dir_all(&aside).with_context(|| format!("remove {}", aside.display()))?;
    }
    let mut options = SledOptions::new(aside.clone(), Directory::MayCreate);
    // Whether the disk is one to live on is for the scheduler to say.
    options.filesystem = Filesystem::LocalOrMemory;
    options.ballast_bytes = 0;
    import_store(&SledDevice::new(options), own, &mut BufReader::new(open()?))
        .with_context(named)?;
    if let Some(problem) = sled::verify(&aside)?.first() {
        bail!("{}: {}", problem.file.display(), problem.what);
    }
    put_in_place(&aside, &folder).with_context(|| format!("make {}", folder.display()))?;
    refuse_damaged(&verify(data_dir)?)?;
    Ok(Moved::new(&carried))
}

fn refuse_damaged(verified: &Verified) -> anyhow::Result<()> {
    match verified.problems.first() {
        None => Ok(()),
        Some(problem) => bail!(
            "{}: {}; `berth storage verify` lists everything that is wrong",
            problem.file.display(),
            problem.what
        ),
    }
}

/// Where log and snapshots are.
pub(crate) fn raft_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("raft")
}
