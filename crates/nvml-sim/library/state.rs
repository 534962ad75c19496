//! What the library keeps between calls: the script as it was last read, how often
//! it was initialised, and which events were told.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::script::Script;

/// As in the crate that ships this library.
const SCRIPT_VARIABLE: &str = "BERTH_NVML_SCRIPT";

/// The lock guards single looks and changes, never a wait.
static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);

/// What tells one content of a file from another: inode, length, and when it was
/// written, in seconds and nanoseconds.
type Stamp = (u64, u64, i64, i64);

#[derive(Default)]
pub(crate) struct State {
    initialised: u32,
    script: Arc<Script>,
    /// Of the files that the script was read from; none yet.
    stamps: Option<Vec<Option<Stamp>>>,
    sets: BTreeMap<usize, Told>,
    sets_made: usize,
}

/// The newest error that a set of events was told of each of its GPUs.
type Told = BTreeMap<u32, u64>;

/// The script as it is now. One that cannot be read or understood changes nothing.
pub(crate) fn script() -> Arc<Script> {
    let files = std::env::var(SCRIPT_VARIABLE).unwrap_or_default();
    let files: Vec<&str> = files.lines().filter(|file| !file.is_empty()).collect();
    let stamps: Vec<Option<Stamp>> = files.iter().map(|file| stamp(file)).collect();
    let mut state = state();
    if state.stamps.as_ref() != Some(&stamps) {
        let texts = files.iter().map(|file| fs::read_to_string(file).unwrap_or_default());
        let text = texts.collect::<Vec<String>>().join("\n");
        match Script::parse(&text) {
            Ok(script) => state.script = Arc::new(script),
            Err(error) => eprintln!("simulated NVML: {files:?}: {error}"),
        }
        state.stamps = Some(stamps);
    }
    state.script.clone()
}

fn stamp(file: &str) -> Option<Stamp> {
    let found = fs::metadata(file).ok()?;
    Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    pub(crate) fn is_initialised() -> bool {
        state().initialised > 0
    }

    pub(crate) fn initialise() {
        state().initialised += 1;
    }

    /// Whether it was initialised.
    pub(crate) fn shut_down() -> bool {
        let mut state = state();
        let was = state.initialised > 0;
        state.initialised = state.initialised.saturating_sub(1);
        was
    }

    /// Makes a set of events, and says by which number it is known; never 0.
    pub(crate) fn make_set() -> usize {
        let mut state = state();
        state.sets_made += 1;
        let set = state.sets_made;
        state.sets.insert(set, Told::new());
        set
    }

    pub(crate) fn free_set(set: usize) -> bool {
        state().sets.remove(&set).is_some()
    }

    /// Has a set told of the errors of a GPU after the one with this number. `None` if
    /// there is no such set.
    pub(crate) fn register(set: usize, gpu: u32, newest: u64) -> Option<()> {
        state().sets.get_mut(&set)?.insert(gpu, newest);
        Some(())
    }

    /// The oldest error that a set was not told yet, and its GPU. `None` if there is no
    /// such set.
    pub(crate) fn next_event(set: usize, script: &Script) -> Option<Option<(u32, u64)>> {
        let mut state = state();
        let told = state.sets.get_mut(&set)?;
        let next = told
            .iter()
            .flat_map(|(gpu, newest)| {
                let xids = script.gpus.get(gpu).map(|gpu| gpu.xids.as_slice()).unwrap_or_default();
                xids.iter()
                    .filter(|xid| xid.number > *newest)
                    .map(|xid| (xid.number, *gpu, xid.code))
            })
            .min();
        Some(next.map(|(number, gpu, code)| {
            told.insert(gpu, number);
            (gpu, code)
        }))
    }
}
