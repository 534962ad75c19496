//! Opening: create, or prove that everything this node had is still there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::guard::{Guard, Watch, free_bytes, lay_ballast, release_ballast};
use super::load::{Loaded, load};
use super::lock::Lock;
use super::store::SledLog;
use super::{Directory, Filesystem, Keeper, SledDevice, SledOptions};
use crate::device::high_water::{self, HighWater};
use crate::device::snapshots::{FileSnapshots, SnapshotStore};
use crate::device::{DiskHealth, Identity, OpenError, Opened};
use crate::fatal::FatalCell;

/// Written before anything else and removed when the first high-water note
/// is durable: a store that was never finished holds no vote.
const MARKER: &str = "being-created";

pub(super) fn log_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("log")
}

pub(super) fn snapshot_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("snapshots")
}

pub(super) fn open(
    options: &SledOptions,
    identity: Identity,
    fatal: &FatalCell,
) -> Result<Opened<SledDevice>, OpenError> {
    let folder = options.data_dir.as_path();
    prepare_folder(options)?;
    let lock = Arc::new(Lock::take(folder)?);
    let note = HighWater::read(folder)?;
    if let Some(note) = &note {
        check_owner(&high_water::path(folder), note.identity, identity)?;
    }
    let store = decide_new(options, note.as_ref())?;
    release_ballast(options)?;
    let logs = log_folder(folder);
    let mut loaded = load(&logs)?;
    let keeper = Keeper::new(
        folder.to_owned(),
        HighWater::new(identity, loaded.recovered.vote, loaded.recovered.last()),
        note,
    );
    let mut log = make_log(&logs, &loaded, keeper, lock.clone())?;
    let io = |action| OpenError::io(action, folder);
    if store == Store::New {
        log.write_new(&identity).map_err(io("write"))?;
        sync_everything(folder).map_err(io("sync"))?;
        log.keeper
            .write()
            .and_then(|()| fs::remove_file(folder.join(MARKER)))
            .and_then(|()| sync_everything(folder))
            .map_err(io("write the high-water file in"))?;
    } else {
        accept(&logs, &mut loaded, note, identity)?;
        log.finish_purge(&loaded.stale).map_err(io("write"))?;
        sync_everything(folder).map_err(io("sync"))?;
    }
    log.keeper.write().map_err(io("write the high-water file in"))?;
    let snapshots = FileSnapshots::open(&snapshot_folder(folder)).map_err(io("open"))?;
    lay_ballast(options).map_err(io("lay the ballast in"))?;
    let health = Arc::new(DiskHealth::default());
    let free = free_bytes(folder).map_err(io("look at free space of"))?;
    health.set_space(free, options.soft_limit_bytes);
    let guard = Guard::start(Watch {
        options: options.clone(),
        health: health.clone(),
        keeper: log.keeper.clone(),
        fatal: fatal.clone(),
    })
    .map_err(io("start the guard of"))?;
    Ok(Opened {
        log,
        recovered: loaded.recovered,
        snapshots,
        health,
        keep: Box::new(KeepOpen { _guard: std::sync::Mutex::new(guard), _lock: lock }),
    })
}

struct KeepOpen {
    _guard: std::sync::Mutex<Guard>,
    _lock: Arc<Lock>,
}

fn make_log(
    logs: &Path,
    loaded: &Loaded,
    keeper: Keeper,
    lock: Arc<Lock>,
) -> Result<SledLog, OpenError> {
    let data_file = logs.join("db");
    let data_file = fs::File::open(&data_file).map_err(OpenError::io("open", data_file))?;
    let recovered = &loaded.recovered;
    let last = recovered.last();
    let mut log = SledLog {
        database: loaded.database.clone(),
        log: loaded.log.clone(),
        meta: loaded.meta.clone(),
        data_file,
        keeper: Arc::new(keeper),
        vote: recovered.vote,
        last,
        first: recovered.purged.map_or(0, |purged| purged.index + 1),
        term_starts: recovered.purged.into_iter().collect(),
        vote_changed: false,
        failed: false,
        _lock: lock,
    };
    log.note_terms(&recovered.records);
    Ok(log)
}

/// An old store is taken only if nothing is wrong with it and it holds as
/// much as the note says.
fn accept(
    logs: &Path,
    loaded: &mut Loaded,
    note: Option<HighWater>,
    identity: Identity,
) -> Result<(), OpenError> {
    let file = logs.join("db");
    if let Some(problem) = loaded.problems.drain(..).next() {
        return Err(problem);
    }
    let owner = loaded
        .identity
        .ok_or_else(|| OpenError::damaged(&file, None, "holds no identity; the data is gone"))?;
    check_owner(&file, owner, identity)?;
    let note =
        note.ok_or_else(|| OpenError::damaged(&file, None, "has no high-water file beside it"))?;
    note.check(&file, loaded.recovered.vote, loaded.recovered.last())
}

fn check_owner(file: &Path, found: Identity, expected: Identity) -> Result<(), OpenError> {
    if found == expected {
        return Ok(());
    }
    let hex = |id: [u8; 16]| format!("{:032x}", u128::from_be_bytes(id));
    Err(OpenError::WrongNode {
        file: file.to_owned(),
        found_node: found.node_id,
        found_cluster: hex(found.cluster_id),
        node: expected.node_id,
        cluster: hex(expected.cluster_id),
    })
}

fn prepare_folder(options: &SledOptions) -> Result<(), OpenError> {
    let folder = &options.data_dir;
    if !folder.exists() {
        match options.directory {
            Directory::MustExist => {
                return Err(OpenError::Missing { path: folder.clone() });
            }
            Directory::MayCreate => {
                fs::create_dir_all(folder).map_err(OpenError::io("create", folder))?;
            }
        }
    }
    let kind = rustix::fs::statfs(folder)
        .map_err(io::Error::from)
        .map_err(OpenError::io("look at", folder))?
        .f_type;
    // Magic numbers of linux/magic.h.
    let network = match u64::try_from(kind).unwrap_or(0) & 0xffff_ffff {
        0x6969 => Some("NFS"),
        0x517b | 0xfe53_4d42 | 0xff53_4d42 => Some("SMB"),
        0x0102_1997 => Some("9P"),
        0x0102_1994 if options.filesystem == Filesystem::LocalDisk => Some("tmpfs"),
        _ => None,
    };
    match network {
        Some(filesystem) => {
            Err(OpenError::Filesystem { path: folder.clone(), filesystem: filesystem.to_owned() })
        }
        None => Ok(()),
    }
}

fn holds_files(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

/// Whether there was a store before this start.
#[derive(PartialEq, Eq)]
enum Store {
    New,
    Old,
}

/// Whether a new store is to be made. Half of an old one is refused.
fn decide_new(options: &SledOptions, note: Option<&HighWater>) -> Result<Store, OpenError> {
    let has_note = note.is_some();
    let folder = options.data_dir.as_path();
    let logs = log_folder(folder);
    let marker = folder.join(MARKER);
    let io = |action| OpenError::io(action, folder);
    if marker.exists() && !has_note {
        // Its creation was cut short, before any vote could be given.
        if logs.exists() {
            fs::remove_dir_all(&logs).map_err(io("remove the unfinished log in"))?;
        }
    } else {
        let left = [
            holds_files(&logs).then_some("a log"),
            holds_files(&snapshot_folder(folder)).then_some("snapshots"),
        ];
        let left: Vec<_> = left.into_iter().flatten().collect();
        if has_note {
            if holds_files(&logs) {
                // A crash between note and removal leaves the marker.
                if marker.exists() {
                    fs::remove_file(&marker).map_err(io("tidy"))?;
                }
                return Ok(Store::Old);
            }
            let what = "is gone, but this node had data here";
            return Err(OpenError::damaged(logs, None, what));
        }
        if !left.is_empty() {
            let what = format!("is missing, but there is {}", left.join(" and "));
            return Err(OpenError::damaged(high_water::path(folder), None, what));
        }
        if options.directory == Directory::MustExist {
            return Err(OpenError::Missing { path: folder.to_owned() });
        }
    }
    fs::write(&marker, b"")
        .and_then(|()| fs::create_dir_all(&logs))
        .and_then(|()| fs::File::open(folder)?.sync_all())
        .map_err(io("create the log in"))?;
    Ok(Store::New)
}

/// Makes files, names and folders of the directory durable, once.
fn sync_everything(folder: &Path) -> io::Result<()> {
    let handle = fs::File::open(folder)?;
    rustix::fs::syncfs(&handle)?;
    Ok(())
}

/// Every snapshot that is there, for `verify`.
pub(crate) fn list_snapshots(
    data_dir: &Path,
) -> io::Result<Option<(FileSnapshots, Vec<crate::device::snapshots::SnapshotName>)>> {
    let folder = snapshot_folder(data_dir);
    if !folder.exists() {
        return Ok(None);
    }
    let store = FileSnapshots::look_at(&folder);
    let names = store.list()?;
    Ok(Some((store, names)))
}
