//! The agent's directory: one agent at a time, and an identity made once.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use berth_proto::v1;
use bytes::Bytes;

use crate::file_lock;

/// An agent that was just killed holds its lock until the kernel has taken it
/// apart, and a process that it was starting until that has begun.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// An agent's directory, locked while this lives.
pub struct DataDir {
    path: PathBuf,
    /// 16 random bytes: the same node name with others is another machine.
    pub instance_key: [u8; 16],
    _lock: File,
}

impl DataDir {
    /// Opens or makes the directory.
    ///
    /// # Errors
    /// Another agent runs here, `agent.id` is not what an agent wrote, or the
    /// system refuses.
    pub fn open(path: &Path) -> anyhow::Result<DataDir> {
        for dir in [path.to_owned(), path.join("allocs"), path.join("shims")] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&dir)
                .with_context(|| format!("make directory {}", dir.display()))?;
        }
        let path = path.canonicalize().with_context(|| format!("find {}", path.display()))?;
        let lock = lock(&path.join("lock"))?;
        let instance_key = instance_key(&path)?;
        Ok(DataDir { path, instance_key, _lock: lock })
    }

    /// Tells this directory from every other one on its host, where names of nodes may repeat.
    pub fn key(&self) -> String {
        self.instance_key.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Which cluster this directory belongs to.
    pub fn cluster(&self) -> ClusterFile {
        ClusterFile::below(&self.path)
    }

    /// How allocations ended that nobody asks for any more.
    pub fn ended_log(&self) -> PathBuf {
        self.file("ended")
    }

    /// Where shims have their directories.
    pub fn shims(&self) -> PathBuf {
        self.path.join("shims")
    }

    /// Where allocations have theirs.
    pub fn allocations(&self) -> PathBuf {
        self.path.join("allocs")
    }
}

/// Which cluster the directory belongs to, and the latest of its incarnations
/// that was served. Allocation ids repeat between clusters, so what one has
/// left must not be taken for another's; and of two incarnations only the later
/// one may say what runs here.
#[derive(Clone, Debug)]
pub struct ClusterFile {
    cluster: PathBuf,
    life: PathBuf,
}

/// One incarnation of one cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterLife {
    pub cluster_id: Bytes,
    pub incarnation: u64,
    /// Empty in the first.
    pub restore_id: Bytes,
}

impl ClusterLife {
    pub fn of_welcome(welcome: &v1::Welcome) -> ClusterLife {
        let v1::Welcome { cluster_id, incarnation, restore_id, .. } = welcome.clone();
        ClusterLife { cluster_id, incarnation, restore_id }
    }

    pub fn of_request(request: &v1::StockRequest) -> ClusterLife {
        let v1::StockRequest { cluster_id, incarnation, restore_id, .. } = request.clone();
        ClusterLife { cluster_id, incarnation, restore_id }
    }

    fn text(&self) -> String {
        format!("{} {:x}\n", self.incarnation, self.restore_id)
    }
}

impl ClusterFile {
    /// In this folder.
    pub fn below(folder: &Path) -> ClusterFile {
        ClusterFile { cluster: folder.join("cluster.id"), life: folder.join("cluster.incarnation") }
    }

    /// Whether the directory may serve this incarnation of this cluster; the
    /// first cluster that asks is the one it belongs to.
    ///
    /// # Errors
    /// In one sentence: it belongs to another cluster, a later incarnation was
    /// served before, or the system refuses.
    pub fn admit(&self, life: &ClusterLife) -> Result<(), String> {
        match fs::read(&self.cluster) {
            Ok(known) if known == life.cluster_id => {}
            Ok(_) => {
                return Err(format!(
                    "this scheduler is of another cluster than {}; use its own schedulers, or an \
                     empty data directory",
                    self.cluster.display()
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_durably(&self.cluster, &life.cluster_id)
                    .map_err(|error| format!("write {}: {error}", self.cluster.display()))?;
            }
            Err(error) => return Err(format!("read {}: {error}", self.cluster.display())),
        }
        self.admit_life(life)
    }

    /// The latest incarnation that was served; zero if none, or if that cannot
    /// be read: no session comes about then.
    pub fn served(&self) -> u64 {
        let known = fs::read_to_string(&self.life).unwrap_or_default();
        known.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    fn admit_life(&self, life: &ClusterLife) -> Result<(), String> {
        let known = match fs::read_to_string(&self.life) {
            Ok(known) => known,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(format!("read {}: {error}", self.life.display())),
        };
        let served = match known.split_whitespace().next().map(str::parse::<u64>) {
            None if known.is_empty() => 0,
            Some(Ok(served)) => served,
            None | Some(Err(_)) => {
                return Err(format!(
                    "{} is damaged: restore it from a copy, or write into it the incarnation that \
                     `berth operator status -o json` shows",
                    self.life.display()
                ));
            }
        };
        let offered = life.incarnation;
        if known == life.text() {
            return Ok(());
        }
        if offered < served {
            return Err(format!(
                "this scheduler is of incarnation {offered} of the cluster, which was restored as \
                 {served} since; stop this scheduler"
            ));
        }
        if offered == served {
            return Err(format!(
                "this scheduler is of another restore of the cluster with the same incarnation \
                 {served}; restore it again with --incarnation {} or higher",
                served.saturating_add(1)
            ));
        }
        write_durably(&self.life, life.text().as_bytes())
            .map_err(|error| format!("write {}: {error}", self.life.display()))
    }
}

/// Writes `bytes` so that after a power cut the file is the old or the new
/// one, whole.
///
/// # Errors
/// The system's.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn lock(path: &Path) -> anyhow::Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    match file_lock::hold(&file, LOCK_PATIENCE) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            file.take(32).read_to_string(&mut holder).unwrap_or(0);
            let holder = holder.trim();
            let holder = if holder.is_empty() { "unknown" } else { holder };
            let dir = path.parent().unwrap_or(path).display();
            bail!("agent already running (pid {holder}) in {dir}");
        }
        Err(error) => {
            return Err(io::Error::from(error)).with_context(|| format!("lock {}", path.display()));
        }
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).context("write pid")?;
    Ok(file)
}

fn instance_key(dir: &Path) -> anyhow::Result<[u8; 16]> {
    let path = dir.join("agent.id");
    match fs::read(&path) {
        Ok(bytes) => <[u8; 16]>::try_from(bytes.as_slice()).map_err(|_| {
            anyhow::anyhow!(
                "{} holds {} bytes, not 16: restore it from a copy, or use an empty data \
                 directory to join as a new machine",
                path.display(),
                bytes.len()
            )
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut key = [0; 16];
            getrandom::fill(&mut key).context("draw a random identity")?;
            write_durably(&path, &key).with_context(|| format!("write {}", path.display()))?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_kept_and_a_second_agent_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let error = DataDir::open(dir.path()).map(|_| ()).unwrap_err().to_string();
        let expected = format!("agent already running (pid {})", std::process::id());
        assert!(error.starts_with(&expected), "{error}");
        let key = first.instance_key;
        drop(first);
        assert_eq!(DataDir::open(dir.path()).unwrap().instance_key, key);
    }

    fn life(cluster: u8, incarnation: u64, restore: &'static [u8]) -> ClusterLife {
        let cluster_id = Bytes::copy_from_slice(&[cluster; 16]);
        ClusterLife { cluster_id, incarnation, restore_id: Bytes::from_static(restore) }
    }

    #[test]
    fn the_first_cluster_is_the_only_one() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = DataDir::open(dir.path()).unwrap().cluster();
        assert_eq!(cluster.admit(&life(1, 1, b"")), Ok(()));
        assert_eq!(cluster.admit(&life(1, 1, b"")), Ok(()));
        let refused = cluster.admit(&life(2, 2, b"a")).unwrap_err();
        assert!(refused.starts_with("this scheduler is of another cluster than"), "{refused}");
    }

    #[test]
    fn an_incarnation_is_served_until_a_later_one_comes() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = DataDir::open(dir.path()).unwrap().cluster();
        for (incarnation, restore, expected) in [
            (1, b"".as_slice(), None),
            (2, b"a", None),
            (2, b"a", None),
            (1, b"", Some("restored as 2 since")),
            (2, b"b", Some("another restore of the cluster with the same incarnation 2")),
            (4, b"b", None),
            (3, b"c", Some("restored as 4 since")),
        ] {
            match (cluster.admit(&life(1, incarnation, restore)), expected) {
                (Ok(()), None) => {}
                (Err(said), Some(part)) => assert!(said.contains(part), "{said}"),
                (got, _) => panic!("{incarnation}: {got:?}"),
            }
        }
        for damaged in ["x y\n", "\n"] {
            fs::write(dir.path().join("cluster.incarnation"), damaged).unwrap();
            let refused = cluster.admit(&life(1, 9, b"d")).unwrap_err();
            assert!(refused.contains("cluster.incarnation is damaged"), "{refused}");
        }
    }

    #[test]
    fn a_damaged_identity_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("agent.id"), b"short").unwrap();
        let error = DataDir::open(dir.path()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("agent.id holds 5 bytes"), "{error}");
        assert_eq!(fs::read(dir.path().join("agent.id")).unwrap(), b"short");
    }
}
