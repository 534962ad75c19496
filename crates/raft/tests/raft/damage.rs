//! Damaged, missing and foreign data: the whole of it, or a refusal that
//! names the file and the way out. Never less.

use std::fs;
use std::path::{Path, PathBuf};

use berth_raft::FatalCell;
use berth_raft::device::sled::{Directory, SledDevice, verify};
use berth_raft::device::{Device, Identity, LogDevice, OpenError, Position, Recovered, VoteRecord};

use crate::model::{IDENTITY, open, options, record};

const ENTRIES: u64 = 400;

/// A store with entries, a purge and a vote, closed as a crash leaves it when
/// `Crashed`: copied while open, after the last sync.
enum Exit {
    Clean,
    Crashed,
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn fill(folder: &Path, exit: Exit) -> Recovered {
    let live = folder.join("live");
    let mut opened = open(&live);
    let log = &mut opened.log;
    for index in 0..ENTRIES {
        log.append(&[record(index, 1 + index / 100, 300)]).unwrap();
        if index % 10 == 0 {
            log.sync().unwrap();
        }
    }
    // A vote brings the high-water note up to date, as the guard does each
    // second.
    log.save_vote(VoteRecord { term: 7, node_id: 1, committed: true }).unwrap();
    log.sync().unwrap();
    match exit {
        Exit::Clean => {
            drop(opened);
            copy(&live, &folder.join("base"));
        }
        Exit::Crashed => {
            copy(&live, &folder.join("base"));
            drop(opened);
        }
    }
    let copy_of_base = folder.join("looked-at");
    copy(&folder.join("base"), &copy_of_base);
    reopen(&copy_of_base).unwrap()
}

fn reopen(folder: &Path) -> Result<Recovered, OpenError> {
    reopen_as(folder, IDENTITY)
}

fn reopen_as(folder: &Path, identity: Identity) -> Result<Recovered, OpenError> {
    SledDevice::new(options(folder, Directory::MustExist))
        .open(identity, &FatalCell::default())
        .map(|opened| opened.recovered)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.file_name().is_some_and(|name| name != "lock") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Full data, or a refusal that names a file below the folder.
fn check_whole_or_refused(folder: &Path, whole: &Recovered, what: &str) -> Option<Recovered> {
    match reopen(folder) {
        Ok(found) => {
            assert_eq!(found.records, whole.records, "{what}");
            assert_eq!(found.vote, whole.vote, "{what}");
            assert_eq!(found.purged, whole.purged, "{what}");
            Some(found)
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(&*folder.to_string_lossy()), "{what}: {text}");
            None
        }
    }
}

fn damage_each_file(exit: Exit) {
    let folder = tempfile::tempdir().unwrap();
    let whole = fill(folder.path(), exit);
    assert_eq!(whole.records.len(), usize::try_from(ENTRIES).unwrap());
    let base = folder.path().join("base");
    let mut refused = 0;
    let mut try_with = |name: &str, change: &dyn Fn(&Path)| {
        let trial = folder.path().join("trial");
        copy(&base, &trial);
        change(&trial);
        if check_whole_or_refused(&trial, &whole, name).is_none() {
            refused += 1;
        }
        fs::remove_dir_all(trial).unwrap();
    };
    for file in files(&base) {
        let inside = file.strip_prefix(&base).unwrap().to_owned();
        let name = inside.display().to_string();
        let length = fs::metadata(&file).unwrap().len();
        let used = fs::read(&file).unwrap().iter().rposition(|byte| *byte != 0);
        let used = used.map_or(0, |last| last as u64 + 1);
        for part in [1, 3, 5, 6, 7] {
            let place = used * part / 8;
            try_with(&format!("{name}: bit flipped at {place}"), &|trial| {
                let mut bytes = fs::read(trial.join(&inside)).unwrap();
                if let Some(byte) = bytes.get_mut(usize::try_from(place).unwrap()) {
                    *byte ^= 0x10;
                }
                fs::write(trial.join(&inside), bytes).unwrap();
            });
        }
        for kept in [0, used / 2, used.saturating_sub(3)] {
            try_with(&format!("{name}: cut to {kept} of {length}"), &|trial| {
                let file = fs::OpenOptions::new().write(true).open(trial.join(&inside));
                file.unwrap().set_len(kept).unwrap();
            });
        }
        try_with(&format!("{name}: zeroes from the middle"), &|trial| {
            let mut bytes = fs::read(trial.join(&inside)).unwrap();
            let from = usize::try_from(used / 2).unwrap();
            bytes[from..].fill(0);
            fs::write(trial.join(&inside), bytes).unwrap();
        });
        try_with(&format!("{name}: deleted"), &|trial| {
            fs::remove_file(trial.join(&inside)).unwrap();
        });
    }
    assert!(refused > 5, "{refused} refusals: the damage did nothing");
}

#[test]
fn f13_damage_after_a_clean_exit_is_seen() {
    damage_each_file(Exit::Clean);
}

#[test]
fn f13_damage_after_a_crash_is_seen() {
    damage_each_file(Exit::Crashed);
}

#[test]
fn f13_a_log_that_is_gone_is_no_empty_log() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), Exit::Clean);
    let base = folder.path().join("base");
    fs::remove_dir_all(base.join("log")).unwrap();
    let error = reopen(&base).unwrap_err();
    assert!(error.to_string().contains("is gone"), "{error}");
    // Even where making a new one is allowed.
    let device = SledDevice::new(options(&base, Directory::MayCreate));
    assert!(device.open(IDENTITY, &FatalCell::default()).is_err());
}

#[test]
fn a_missing_or_empty_directory_is_made_only_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("not-mounted");
    for _ in 0..2 {
        let error = reopen(&missing).unwrap_err();
        assert!(matches!(error, OpenError::Missing { .. }), "{error}");
        // The second time it is there and empty.
        fs::create_dir_all(&missing).unwrap();
    }
    drop(open(&missing));
    assert_eq!(reopen(&missing).unwrap(), Recovered::default());
}

#[test]
fn a_creation_cut_short_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("data");
    drop(open(&place));
    fs::remove_file(place.join("high-water")).unwrap();
    fs::write(place.join("being-created"), b"").unwrap();
    drop(open(&place));
    assert!(!place.join("being-created").exists());
    assert_eq!(reopen(&place).unwrap(), Recovered::default());
}

#[test]
fn f13_the_directory_of_another_node_is_refused_with_both_ids() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), Exit::Clean);
    let base = folder.path().join("base");
    let other = Identity { node_id: 4, ..IDENTITY };
    let error = reopen_as(&base, other).unwrap_err().to_string();
    assert!(error.contains("node 1 ") && error.contains("node 4 "), "{error}");
    let elsewhere = Identity { cluster_id: [8; 16], ..IDENTITY };
    let error = reopen_as(&base, elsewhere).unwrap_err();
    assert!(matches!(error, OpenError::WrongNode { .. }), "{error}");
    // Also when the note beside it is this node's own.
    let mine = folder.path().join("mine");
    SledDevice::new(options(&mine, Directory::MayCreate))
        .open(other, &FatalCell::default())
        .unwrap();
    fs::copy(mine.join("high-water"), base.join("high-water")).unwrap();
    let error = reopen_as(&base, other).unwrap_err();
    assert!(matches!(error, OpenError::WrongNode { .. }), "{error}");
}

#[test]
fn a_second_opener_learns_who_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let held = open(folder.path());
    let error = reopen(folder.path()).unwrap_err();
    let text = error.to_string();
    let pid = format!("in use by pid {} since ", std::process::id());
    assert!(text.contains(&pid), "{text}");
    drop(held);
    reopen(folder.path()).unwrap();
}

#[test]
fn a_high_water_note_may_be_older_but_neither_newer_nor_missing() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("data");
    let mut opened = open(&place);
    opened.log.append(&[record(0, 1, 10)]).unwrap();
    opened.log.sync().unwrap();
    drop(opened);
    let older = folder.path().join("older");
    copy(&place, &older);
    let mut opened = open(&place);
    opened.log.append(&[record(1, 1, 10)]).unwrap();
    opened.log.sync().unwrap();
    drop(opened);
    // Older than the store: accepted and written anew.
    let note = fs::read(place.join("high-water")).unwrap();
    fs::copy(older.join("high-water"), place.join("high-water")).unwrap();
    assert_eq!(reopen(&place).unwrap().records.len(), 2);
    assert_eq!(fs::read(place.join("high-water")).unwrap(), note);
    // Newer than the store, as after a disk was restored from last week.
    fs::copy(place.join("high-water"), older.join("high-water")).unwrap();
    let error = reopen(&older).unwrap_err().to_string();
    assert!(error.contains("it reached index 1"), "{error}");
    fs::remove_file(place.join("high-water")).unwrap();
    let error = reopen(&place).unwrap_err().to_string();
    assert!(error.contains("high-water"), "{error}");
}

#[test]
fn f13_a_vote_that_changed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("data");
    let vote = |node_id| VoteRecord { term: 3, node_id, committed: false };
    let mut opened = open(&place);
    opened.log.save_vote(vote(2)).unwrap();
    opened.log.sync().unwrap();
    let note = fs::read(place.join("high-water")).unwrap();
    opened.log.save_vote(vote(1)).unwrap();
    opened.log.sync().unwrap();
    drop(opened);
    fs::write(place.join("high-water"), note).unwrap();
    let error = reopen(&place).unwrap_err().to_string();
    assert!(error.contains("voted for 2"), "{error}");
}

#[test]
fn verify_names_the_file_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path(), Exit::Clean);
    let base = folder.path().join("base");
    let contents = |folder: &Path| -> Vec<_> {
        let all = files(folder);
        all.into_iter().map(|file| (fs::read(&file).unwrap(), file)).collect()
    };
    let before = contents(&base);
    assert_eq!(verify(&base).unwrap(), vec![]);
    assert!(contents(&base) == before, "verify changed a file");
    fs::remove_file(base.join("high-water")).unwrap();
    fs::create_dir_all(base.join("snapshots")).unwrap();
    let problems = verify(&base).unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].file, base.join("high-water"));
    assert!(!problems[0].way_out.is_empty());
}

#[test]
fn f11_a_full_disk_is_seen_by_the_guard() {
    let folder = tempfile::tempdir().unwrap();
    let mut low = options(folder.path(), Directory::MayCreate);
    low.soft_limit_bytes = u64::MAX;
    let fatal = FatalCell::default();
    let opened = SledDevice::new(low).open(IDENTITY, &fatal).unwrap();
    assert!(opened.health.is_low());
    assert!(opened.health.free_bytes() > 0);
    assert_eq!(fatal.get(), None);
    drop(opened);
    let mut full = options(folder.path(), Directory::MustExist);
    full.hard_limit_bytes = u64::MAX;
    let opened = SledDevice::new(full).open(IDENTITY, &fatal).unwrap();
    let reason = futures::executor::block_on(fatal.wait());
    assert!(matches!(reason, berth_raft::FatalReason::DiskFull { .. }), "{reason}");
    drop(opened);
}

#[test]
fn no_entry_of_the_largest_size_makes_side_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open(folder.path());
    for index in 0..300 {
        let entry = record(index, 1, berth_raft::PROPOSAL_BYTES_MAX);
        opened.log.append(&[entry]).unwrap();
        if index % 16 == 0 {
            opened.log.sync().unwrap();
        }
    }
    opened.log.purge_to(Position { term: 1, index: 250 }).unwrap();
    opened.log.sync().unwrap();
    let blobs = folder.path().join("log/blobs");
    let count = fs::read_dir(blobs).map_or(0, Iterator::count);
    assert_eq!(count, 0);
    drop(opened);
    assert_eq!(reopen(folder.path()).unwrap().records.len(), 49);
}
