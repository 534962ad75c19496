//! Opening: create, or prove that everything this node had is still there.

use std::cell::Cell;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use sled::{Db, Tree};

use super::codec::{decode_meta, decode_record};
use super::guard::{Guard, Watch, free_bytes, has_blobs, lay_ballast, release_ballast};
use super::lock::Lock;
use super::store::{KEY_COMMITTED, KEY_IDENTITY, KEY_PURGED, KEY_VOTE, SledLog};
use super::{Directory, Filesystem, Keeper, SledDevice, SledOptions};
use crate::device::high_water::{self, HighWater};
use crate::device::snapshots::{FileSnapshots, SnapshotStore};
use crate::device::{
    DiskHealth, Identity, OpenError, Opened, Position, Recovered, VoteRecord, check_sequence,
};
use crate::fatal::FatalCell;

/// Fixed for the life of a store. With 16 MiB no page grows into a side file
/// at 64 KiB per entry (measured November 2026).
const SEGMENT_BYTES: usize = 16 << 20;
const CACHE_BYTES: u64 = 64 << 20;
/// Written before anything else and removed when the first high-water note
/// is durable: a store that was never finished holds no vote.
const MARKER: &str = "being-created";

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread is caught and turned into a refusal. A
/// panic hook that aborts the process asks this first: sled panics on many
/// kinds of corruption.
#[must_use]
pub fn panic_is_guarded() -> bool {
    GUARDED.get()
}

fn guarded<T>(folder: &Path, work: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    let before = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(before);
    result.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "unknown".to_owned());
        let what = format!("store panicked while it was opened ({text})");
        Err(OpenError::damaged(folder.join("db"), None, what))
    })
}

pub(super) fn log_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("log")
}

pub(super) fn snapshot_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("snapshots")
}

/// What lies in a store, and everything wrong with it.
pub(super) struct Loaded {
    pub database: Db,
    pub log: Tree,
    pub meta: Tree,
    pub identity: Option<Identity>,
    pub recovered: Recovered,
    /// Entries an interrupted purge left below its mark.
    pub stale: Vec<u64>,
    pub problems: Vec<OpenError>,
}

pub(super) fn load(folder: &Path) -> Result<Loaded, OpenError> {
    guarded(folder, || load_unguarded(folder))
}

fn store_error(folder: &Path) -> impl Fn(sled::Error) -> OpenError {
    let file = folder.join("db");
    move |error| OpenError::damaged(&file, None, format!("store cannot be read ({error})"))
}

/// Our own lock is held, so another holder of sled's can only be a child that
/// was being started while this process had the store open before; it lets go
/// within milliseconds.
fn open_database(folder: &Path) -> sled::Result<Db> {
    const TRIES: usize = 40;
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(25);
    let mut tries = 1;
    loop {
        let opened = sled::Config::default()
            .path(folder)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .open();
        match opened {
            Err(sled::Error::Io(error))
                if tries < TRIES && error.to_string().contains("could not acquire lock") =>
            {
                tries += 1;
                std::thread::sleep(PAUSE);
            }
            opened => return opened,
        }
    }
}

fn load_unguarded(folder: &Path) -> Result<Loaded, OpenError> {
    let database = open_database(folder).map_err(store_error(folder))?;
    let log = database.open_tree("log").map_err(store_error(folder))?;
    let meta = database.open_tree("meta").map_err(store_error(folder))?;
    let mut loaded = Loaded {
        database,
        log,
        meta,
        identity: None,
        recovered: Recovered::default(),
        stale: Vec::new(),
        problems: Vec::new(),
    };
    loaded.identity = loaded.read_meta(folder, KEY_IDENTITY)?;
    loaded.recovered.vote = loaded.read_meta::<VoteRecord>(folder, KEY_VOTE)?;
    loaded.recovered.committed = loaded.read_meta::<Position>(folder, KEY_COMMITTED)?;
    loaded.recovered.purged = loaded.read_meta::<Position>(folder, KEY_PURGED)?;
    loaded.read_log(folder)?;
    if has_blobs(folder) {
        let what = "has side files, which are not crash safe";
        let file = folder.join("blobs");
        loaded.problems.push(OpenError::damaged(file, None, what));
    }
    Ok(loaded)
}

impl Loaded {
    fn read_meta<T: DeserializeOwned>(
        &mut self,
        folder: &Path,
        key: &str,
    ) -> Result<Option<T>, OpenError> {
        let Some(value) = self.meta.get(key).map_err(store_error(folder))? else {
            return Ok(None);
        };
        match decode_meta(key, &value) {
            Ok(content) => Ok(Some(content)),
            Err(what) => {
                let what = format!("row {key:?}: {what}");
                let problem = OpenError::damaged(folder.join("db"), None, what);
                self.problems.push(problem);
                Ok(None)
            }
        }
    }

    fn read_log(&mut self, folder: &Path) -> Result<(), OpenError> {
        let file = folder.join("db");
        for row in self.log.iter() {
            let (key, value) = row.map_err(store_error(folder))?;
            match decode_record(&key, &value) {
                Ok(record) => {
                    let purged = self.recovered.purged;
                    if purged.is_some_and(|purged| record.index <= purged.index) {
                        self.stale.push(record.index);
                    } else {
                        self.recovered.records.push(record);
                    }
                }
                Err(what) => {
                    let index = <[u8; 8]>::try_from(&*key).ok().map(u64::from_be_bytes);
                    self.problems.push(OpenError::damaged(&file, index, what));
                }
            }
        }
        if let Err(problem) = check_sequence(&file, &self.recovered) {
            self.problems.push(problem);
        }
        Ok(())
    }
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
pub(super) fn list_snapshots(
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
