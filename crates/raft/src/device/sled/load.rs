//! Reading a store whole. sled panics on many kinds of corruption, so this
//! runs guarded; whatever is wrong with the content is collected, not fixed.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde::de::DeserializeOwned;
use sled::{Db, Tree};

use super::codec::{decode_meta, decode_record};
use super::guard::has_blobs;
use super::store::{KEY_COMMITTED, KEY_IDENTITY, KEY_PURGED, KEY_VOTE};
use crate::device::{Identity, OpenError, Position, Recovered, VoteRecord, check_sequence};

/// Fixed for the life of a store. With 16 MiB no page grows into a side file
/// at 64 KiB per entry (measured November 2026).
const SEGMENT_BYTES: usize = 16 << 20;
const CACHE_BYTES: u64 = 64 << 20;
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
