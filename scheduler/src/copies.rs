//! Scheduled copies: every so often the state goes to a folder as a backup
//! file, is read back whole, and only then gets its name. Each scheduler that
//! has a folder makes its own; the oldest of them go.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use berth_state::ClusterState;
use berth_wire::backup::{read_backup, write_backup};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app::Published;
use crate::in_place::put_in_place;
use crate::leader::clock::wall;

/// Where copies go, how often, and how many stay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyOptions {
    pub folder: PathBuf,
    pub every: Duration,
    /// At least one.
    pub keep: usize,
}

/// Whose copies: another cluster's, or another scheduler's, are left alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Maker {
    /// The first four bytes of the cluster's id.
    cluster: u32,
    scheduler_id: u64,
}

/// Which copy it is. Ordered from old to new.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Copy {
    incarnation: u64,
    index: u64,
}

/// Makes copies until `stop`.
pub async fn keep_making(
    options: CopyOptions,
    scheduler_id: u64,
    published: Arc<Published>,
    stop: CancellationToken,
) {
    metrics::describe_gauge!(
        "berth_backup_last_success_timestamp_seconds",
        "When this scheduler's state was last found whole in the folder of copies"
    );
    metrics::describe_counter!("berth_backup_failures_total", "Copies that were not made");
    let mut ticks = interval(options.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let view = published.view();
        if view.cluster().id == [0; 16] {
            continue;
        }
        let (options, known) = (options.clone(), last);
        let made = tokio::task::spawn_blocking(move || make(&options, scheduler_id, &view, known));
        match made.await.unwrap_or_else(|error| Err(error.into())) {
            Ok(copy) => {
                last = Some(copy);
                let seconds = Duration::from_millis(wall().0).as_secs_f64();
                metrics::gauge!("berth_backup_last_success_timestamp_seconds").set(seconds);
            }
            Err(error) => {
                warn!(error = format!("{error:#}"), "no copy of the state was made");
                metrics::counter!("berth_backup_failures_total").increment(1);
            }
        }
    }
}

/// Makes a copy unless the last one, which is still there, is of this state.
fn make(
    options: &CopyOptions,
    scheduler_id: u64,
    view: &ClusterState,
    last: Option<Copy>,
) -> anyhow::Result<Copy> {
    let folder = &options.folder;
    let [first, second, third, fourth, ..] = view.cluster().id;
    let maker = Maker { cluster: u32::from_be_bytes([first, second, third, fourth]), scheduler_id };
    let copy = Copy { incarnation: view.cluster().incarnation, index: view.applied_index() };
    let path = folder.join(copy.file_name(maker));
    if last == Some(copy) && path.exists() {
        return Ok(copy);
    }
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    // One name for all: what a crash leaves is written over.
    let name = format!("berth-{:08x}-by-{scheduler_id}.partial", maker.cluster);
    let partial = folder.join(name);
    let made = write(&partial, view).and_then(|()| check(&partial, view)).and_then(|()| {
        put_in_place(&partial, &path).with_context(|| format!("write {}", path.display()))
    });
    if made.is_err() {
        // What is left of it is of no use to anybody.
        let _ = fs::remove_file(&partial);
    }
    made?;
    let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
    info!(path = %path.display(), bytes, "copy of the state made and read back");
    for old in surplus(&copies_in(folder, maker)?, options.keep) {
        let path = folder.join(old.file_name(maker));
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(copy)
}

fn write(partial: &Path, view: &ClusterState) -> anyhow::Result<()> {
    let write = || -> io::Result<()> {
        let file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(partial)?;
        let mut sink = BufWriter::with_capacity(1 << 18, file);
        write_backup(view, wall(), env!("CARGO_PKG_VERSION"), &mut sink)?;
        sink.flush()?;
        sink.get_ref().sync_all()
    };
    write().with_context(|| format!("write {}", partial.display()))
}

fn check(partial: &Path, view: &ClusterState) -> anyhow::Result<()> {
    let file = File::open(partial).with_context(|| format!("open {}", partial.display()))?;
    let backup = read_backup(BufReader::with_capacity(1 << 18, file))
        .with_context(|| format!("read back {}", partial.display()))?;
    if backup.state.hash() != view.hash() {
        bail!("{} holds another state than was written", partial.display());
    }
    Ok(())
}

fn copies_in(folder: &Path, maker: Maker) -> anyhow::Result<Vec<Copy>> {
    let list = || -> io::Result<Vec<Copy>> {
        let mut copies = Vec::new();
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            copies.extend(name.to_str().and_then(|name| Copy::parse(name, maker)));
        }
        Ok(copies)
    };
    list().with_context(|| format!("list {}", folder.display()))
}

/// All but the newest `keep`.
fn surplus(copies: &[Copy], keep: usize) -> Vec<Copy> {
    let mut sorted = copies.to_vec();
    sorted.sort_unstable();
    sorted.truncate(sorted.len().saturating_sub(keep.max(1)));
    sorted
}

impl Copy {
    /// Zero-padded, so that names sort as copies do.
    fn file_name(self, maker: Maker) -> String {
        let (Copy { incarnation, index }, Maker { cluster, scheduler_id }) = (self, maker);
        format!("berth-{cluster:08x}-{incarnation:06}-{index:020}-by-{scheduler_id}.backup")
    }

    fn parse(name: &str, maker: Maker) -> Option<Copy> {
        let mut parts = name.strip_prefix("berth-")?.splitn(4, '-').skip(1);
        let mut number = || parts.next()?.parse().ok();
        let copy = Copy { incarnation: number()?, index: number()? };
        (copy.file_name(maker) == name).then_some(copy)
    }
}

#[cfg(test)]
mod tests {
    use berth_model::{StateMs, WallMs};
    use berth_state::{Command, Entry};

    use super::*;

    fn state(entries: u64) -> ClusterState {
        let mut state = ClusterState::default();
        for index in 1..=entries {
            let commands = vec![Command::Found { cluster_id: [7; 16], security: None }];
            let (state_ms, wall_ms) = (StateMs(index), WallMs(index));
            state.apply(index, &Entry { state_ms, wall_ms, proposer: "test".into(), commands });
        }
        state
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_newest_copies_stay_and_those_of_others_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("copies");
        let every = Duration::from_secs(1);
        let options = CopyOptions { folder: folder.clone(), every, keep: 2 };
        let mut last = None;
        make(&options, 8, &state(1), None).unwrap();
        for entries in [1, 2, 2, 3] {
            last = Some(make(&options, 7, &state(entries), last).unwrap());
        }
        let name = |index, scheduler_id| {
            Copy { incarnation: 1, index }.file_name(Maker { cluster: 0x0707_0707, scheduler_id })
        };
        assert_eq!(names(&folder), [name(1, 8), name(2, 7), name(3, 7)]);
        let newest = crate::restore::inspect(&folder.join(name(3, 7))).unwrap();
        assert_eq!(newest.applied_index, 3);
        // One that somebody took away is made again.
        fs::remove_file(folder.join(name(3, 7))).unwrap();
        make(&options, 7, &state(3), last).unwrap();
        assert_eq!(names(&folder).len(), 3);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a-file");
        fs::write(&file, b"").unwrap();
        let every = Duration::from_secs(1);
        let options = CopyOptions { folder: file.clone(), every, keep: 2 };
        let error = format!("{:#}", make(&options, 7, &state(1), None).unwrap_err());
        assert!(error.contains(&*file.to_string_lossy()), "{error}");
    }

    #[test]
    fn only_names_that_were_given_are_read() {
        let copy = Copy { incarnation: 2, index: 77 };
        let maker = |cluster, scheduler_id| Maker { cluster, scheduler_id };
        let text = copy.file_name(maker(0xab, 3));
        assert_eq!(text, "berth-000000ab-000002-00000000000000000077-by-3.backup");
        assert_eq!(Copy::parse(&text, maker(0xab, 3)), Some(copy));
        for other in [maker(0xab, 4), maker(0xac, 3)] {
            assert_eq!(Copy::parse(&text, other), None);
        }
        for name in ["berth-ab-2-77-by-3.backup", "night.backup", "berth-000000ab-x-1-by-3.backup"]
        {
            assert_eq!(Copy::parse(name, maker(0xab, 3)), None, "{name}");
        }
    }
}
