//! Restoring a cluster: a backup becomes the data directory of the first
//! scheduler of a new incarnation. Offline; nothing that exists is changed.

mod trust;

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use berth_identity::MachineId;
use berth_model::{DurationMs, WallMs};
use berth_raft::device::Identity as StoreIdentity;
use berth_raft::device::sled::{Directory, Filesystem, SledDevice, SledOptions};
use berth_raft::found_store;
use berth_state::{ClusterState, Restoration};
use berth_wire::backup::{Backup, read_backup};

use crate::app::ClusterApp;
use crate::identity::{Identity, Incarnation, random_id, to_hex};
use crate::in_place::{parent_of, put_in_place};
use crate::storage::raft_folder;

pub use trust::Trust;

/// What is asked of a restore.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    pub backup: PathBuf,
    /// Must not exist, or be empty.
    pub data_dir: PathBuf,
    /// Where the others and the agents will find the new scheduler.
    pub advertise: String,
    /// Absent: one above that of the backup.
    pub incarnation: Option<u64>,
    /// How long the cluster waits for its nodes before it places anything.
    pub await_for: DurationMs,
    /// How long it waits at least, for nodes that the backup does not know.
    pub await_at_least: DurationMs,
    /// How the authority's signing key is come by.
    pub trust: Trust,
}

/// What a backup file holds, or what came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupFacts {
    pub cluster_id: String,
    pub incarnation: u64,
    pub saved_at: WallMs,
    pub writer: String,
    pub applied_index: u64,
    pub jobs: usize,
    pub allocations: usize,
    pub nodes: usize,
}

/// A data directory that was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    pub backup: BackupFacts,
    pub incarnation: u64,
    pub scheduler_id: u64,
    /// Nodes that the cluster will wait for.
    pub awaited: usize,
}

/// Reads a backup whole and tells what is in it.
#[cfg(test)]
pub(crate) fn inspect(backup: &Path) -> anyhow::Result<BackupFacts> {
    Ok(facts(&read(backup)?))
}

/// Makes the data directory. It is there whole or not at all.
///
/// # Errors
/// The backup is damaged or not below the incarnation asked for, the directory
/// is not empty, or the disk refuses.
pub fn restore(options: &RestoreOptions) -> anyhow::Result<Restored> {
    let RestoreOptions { data_dir, advertise, .. } = options;
    // As the others will be told it: schedulers know each other by numbers.
    if advertise.parse::<std::net::SocketAddr>().is_err() {
        bail!("--advertise: expected IP:PORT, such as 10.0.0.9:7070, found `{advertise}`");
    }
    check_empty(data_dir)?;
    check_same_disk(data_dir)?;
    let backup = read(&options.backup)?;
    let (instance_key, restore_id) = (random_id()?, random_id()?);
    let found = backup.state.cluster().incarnation;
    let incarnation = options.incarnation.unwrap_or(found.saturating_add(1));
    let restoration = Restoration {
        incarnation,
        id: restore_id,
        instance_key,
        address: advertise.clone(),
        await_for: options.await_for,
        await_at_least: options.await_at_least,
    };
    let (state, scheduler_id) = backup.state.restored(&restoration)?;
    let (state, credentials) = trust::settle(state, &options.trust)?;
    let cluster_id = state.cluster().id;
    let life = Incarnation { number: incarnation, restore_id: Some(restore_id) };
    let identity = Identity::new(cluster_id, life, scheduler_id, advertise.clone());
    let identity = if credentials.is_some() { identity.with_tls() } else { identity };
    let unfinished = beside(data_dir)?;
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)
            .with_context(|| format!("remove the unfinished {}", unfinished.display()))?;
    }
    let made = make_store(&unfinished, &identity, &state)
        .and_then(|()| match &credentials {
            Some(credentials) => {
                let id = MachineId::scheduler(cluster_id, scheduler_id);
                credentials.write(&unfinished, &id)
            }
            None => Ok(()),
        })
        .and_then(|()| {
            put_in_place(&unfinished, data_dir)
                .with_context(|| format!("make {}", data_dir.display()))
        });
    if made.is_err() {
        // What is left of it is of no use.
        let _ = fs::remove_dir_all(&unfinished);
    }
    made?;
    let awaited = state.awaited();
    Ok(Restored { backup: facts(&backup), incarnation, scheduler_id, awaited })
}

fn make_store(folder: &Path, identity: &Identity, state: &ClusterState) -> anyhow::Result<()> {
    let store = raft_folder(folder);
    fs::create_dir_all(&store).with_context(|| format!("make {}", store.display()))?;
    let mut disk = SledOptions::new(&store, Directory::MayCreate);
    // Whether the disk is one to live on is for the scheduler to say.
    disk.filesystem = Filesystem::LocalOrMemory;
    disk.ballast_bytes = 0;
    let owner = StoreIdentity { cluster_id: identity.group_id()?, node_id: identity.scheduler_id };
    let (address, index) = (&identity.address, state.applied_index());
    found_store::<ClusterApp, _>(&SledDevice::new(disk), owner, address, index, state)?;
    identity.save(folder)
}

fn read(path: &Path) -> anyhow::Result<Backup> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    read_backup(BufReader::with_capacity(1 << 18, file))
        .with_context(|| format!("read {}", path.display()))
}

fn facts(backup: &Backup) -> BackupFacts {
    let state = &backup.state;
    BackupFacts {
        cluster_id: to_hex(&state.cluster().id),
        incarnation: state.cluster().incarnation,
        saved_at: backup.saved_at,
        writer: backup.writer.clone(),
        applied_index: state.applied_index(),
        jobs: state.jobs().len(),
        allocations: state.allocations().len(),
        nodes: state.nodes().len(),
    }
}

fn check_empty(data_dir: &Path) -> anyhow::Result<()> {
    let mut entries = match fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("read {}", data_dir.display())),
    };
    if entries.next().is_some() {
        bail!(
            "{} is not empty; restore into a directory that does not exist yet, and keep the old \
             one until the restored cluster is as you want it",
            data_dir.display()
        );
    }
    Ok(())
}

/// A directory that is a disk of its own cannot be put in place whole.
fn check_same_disk(data_dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let disk_of = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
    if let (Ok(own), Ok(parent)) = (disk_of(data_dir), disk_of(parent_of(data_dir)))
        && own != parent
    {
        bail!(
            "{} is a disk of its own; name a directory in it that does not exist yet",
            data_dir.display()
        );
    }
    Ok(())
}

/// Where the directory grows until it is whole: on the same disk.
fn beside(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let mut name = data_dir
        .file_name()
        .with_context(|| format!("{} names no directory", data_dir.display()))?
        .to_owned();
    name.push(".restoring");
    Ok(data_dir.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use berth_model::StateMs;
    use berth_state::{ClusterState, Command, Entry};

    use super::*;

    fn backup(folder: &Path) -> PathBuf {
        let mut state = ClusterState::default();
        let commands = vec![Command::Found { cluster_id: [7; 16], security: None }];
        let (state_ms, wall_ms) = (StateMs(5), WallMs(6));
        state.apply(9, &Entry { state_ms, wall_ms, proposer: "test".into(), commands });
        let path = folder.join("a.backup");
        let mut file = File::create(&path).unwrap();
        berth_wire::backup::write_backup(&state, WallMs(10), "0.1.0", &mut file).unwrap();
        path
    }

    fn options(folder: &Path) -> RestoreOptions {
        RestoreOptions {
            backup: backup(folder),
            data_dir: folder.join("data"),
            advertise: "127.0.0.1:7070".to_owned(),
            incarnation: None,
            await_for: DurationMs::from_secs(1),
            await_at_least: DurationMs(0),
            trust: Trust::PlainText,
        }
    }

    #[test]
    fn a_restore_makes_a_whole_directory_and_touches_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        let restored = restore(&options).unwrap();
        assert_eq!((restored.incarnation, restored.scheduler_id), (2, 1001));
        assert_eq!(restored.backup, inspect(&options.backup).unwrap());
        let verified = crate::storage::verify(&options.data_dir).unwrap();
        assert_eq!((verified.problems, verified.scheduler_id), (vec![], 1001));
        let error = restore(&options).unwrap_err().to_string();
        assert!(error.contains("is not empty"), "{error}");
        let left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn what_cannot_be_restored_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let good = options(folder.path());
        let bytes = fs::read(&good.backup).unwrap();
        fs::write(&good.backup, &bytes[..bytes.len() - 1]).unwrap();
        let error = format!("{:#}", restore(&good).unwrap_err());
        assert!(error.contains("damaged or cut short"), "{error}");
        fs::write(&good.backup, &bytes).unwrap();
        for (asked, advertise, said) in [
            (Some(1), "127.0.0.1:7070", "must be above it, not 1"),
            (None, "here", "expected IP:PORT, such as 10.0.0.9:7070, found `here`"),
        ] {
            let mut options = good.clone();
            (options.incarnation, options.advertise) = (asked, advertise.to_owned());
            let error = format!("{:#}", restore(&options).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
        assert!(!good.data_dir.exists());
    }
}
