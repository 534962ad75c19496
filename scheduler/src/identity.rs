//! Who this scheduler is: a small file beside the store, written once.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::in_place::put_in_place;

const FILE: &str = "scheduler.json";
const FORMAT: u32 = 1;

/// The identity of a scheduler node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    format: u32,
    /// 16 bytes in hex.
    pub cluster_id: String,
    pub scheduler_id: u64,
    pub address: String,
    /// Of the cluster, when this scheduler came into it.
    #[serde(default = "first_incarnation")]
    pub incarnation: u64,
    /// 16 bytes in hex: which restore that incarnation began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_id: Option<String>,
    /// The cluster speaks TLS, and this scheduler nothing else.
    #[serde(default)]
    pub tls: bool,
}

/// Which life of its cluster a scheduler belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Incarnation {
    pub number: u64,
    /// Absent in the first.
    pub restore_id: Option<[u8; 16]>,
}

/// The key by which a scheduler that is still joining is known.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Joining {
    format: u32,
    instance_key: String,
}

impl Identity {
    pub fn new(
        cluster_id: [u8; 16],
        incarnation: Incarnation,
        scheduler_id: u64,
        address: String,
    ) -> Identity {
        Identity {
            format: FORMAT,
            cluster_id: to_hex(&cluster_id),
            scheduler_id,
            address,
            incarnation: incarnation.number,
            restore_id: incarnation.restore_id.map(|id| to_hex(&id)),
            tls: false,
        }
    }

    /// Of a cluster that speaks TLS.
    pub fn with_tls(self) -> Identity {
        Identity { tls: true, ..self }
    }

    /// By what schedulers know each other on the wire and on disk. A scheduler
    /// of an earlier incarnation that comes back, or of another restore of the
    /// same backup, is a stranger to this one.
    pub fn group_id(&self) -> anyhow::Result<[u8; 16]> {
        let mut group = self.cluster_id()?;
        if let Some(restore_id) = &self.restore_id {
            let restore_id = from_hex(restore_id).context("read the restore id")?;
            // Random, so what comes of it is as random.
            group.iter_mut().zip(restore_id).for_each(|(byte, other)| *byte ^= other);
        }
        Ok(group)
    }

    pub fn cluster_id(&self) -> anyhow::Result<[u8; 16]> {
        from_hex(&self.cluster_id).context("read the cluster id")
    }

    /// Where the identity of a data directory is.
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join(FILE)
    }

    /// Reads the identity of a data directory; `None` where there is none.
    pub fn load(data_dir: &Path) -> anyhow::Result<Option<Identity>> {
        let path = Identity::path(data_dir);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let identity: Identity = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged; restore it from a copy, or remove the data directory and join as a new scheduler", path.display()))?;
        if identity.format != FORMAT {
            bail!(
                "{} has format {}, this version knows {FORMAT}; start a newer version",
                path.display(),
                identity.format
            );
        }
        identity.group_id()?;
        Ok(Some(identity))
    }

    pub fn save(&self, data_dir: &Path) -> anyhow::Result<()> {
        write_whole(&Identity::path(data_dir), &serde_json::to_vec_pretty(self)?)
    }
}

fn first_incarnation() -> u64 {
    Incarnation::FIRST.number
}

impl Incarnation {
    pub const FIRST: Incarnation = Incarnation { number: 1, restore_id: None };
}

/// The key of a node that joins: made once, so that a repeated join is the
/// same join.
pub fn joining_key(data_dir: &Path) -> anyhow::Result<[u8; 16]> {
    let path: PathBuf = data_dir.join("joining.json");
    if let Ok(text) = fs::read_to_string(&path) {
        let joining: Joining = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged; remove it to join anew", path.display()))?;
        return from_hex(&joining.instance_key).context("read the joining key");
    }
    let key = random_id()?;
    let joining = Joining { format: FORMAT, instance_key: to_hex(&key) };
    write_whole(&path, &serde_json::to_vec_pretty(&joining)?)?;
    Ok(key)
}

pub fn random_id() -> anyhow::Result<[u8; 16]> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| anyhow::anyhow!("draw a random id: {error}"))?;
    Ok(id)
}

pub fn to_hex(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> anyhow::Result<[u8; 16]> {
    let mut id = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        bail!("expected 32 hexadecimal digits, found `{text}`");
    }
    for (position, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[position * 2..position * 2 + 2], 16)
            .with_context(|| format!("expected 32 hexadecimal digits, found `{text}`"))?;
    }
    Ok(id)
}

/// Writes a file so that a crash leaves the old one or the new one whole.
fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        put_in_place(&temporary, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_back_and_a_damaged_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Identity::load(folder.path()).unwrap(), None);
        let address = || "127.0.0.1:1".to_owned();
        let identity = Identity::new([0xab; 16], Incarnation::FIRST, 3, address());
        assert_eq!(identity.group_id().unwrap(), [0xab; 16]);
        identity.save(folder.path()).unwrap();
        assert_eq!(Identity::load(folder.path()).unwrap(), Some(identity));
        fs::write(folder.path().join(FILE), "{").unwrap();
        let error = Identity::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("scheduler.json is damaged"), "{error}");
    }

    #[test]
    fn every_restore_makes_a_group_of_its_own() {
        let of = |number, id: u8| {
            let incarnation = Incarnation { number, restore_id: Some([id; 16]) };
            Identity::new([0xab; 16], incarnation, 1001, "127.0.0.1:1".to_owned())
        };
        let groups = [of(2, 1), of(2, 2), of(3, 4)].map(|one| one.group_id().unwrap());
        assert!(!groups.contains(&[0xab; 16]));
        assert!(groups[0] != groups[1] && groups[1] != groups[2]);
        let text = serde_json::to_string(&of(2, 1)).unwrap();
        assert_eq!(serde_json::from_str::<Identity>(&text).unwrap(), of(2, 1));
        // As a scheduler wrote it before there were restores.
        let old = r#"{"format":1,"cluster_id":"abababababababababababababababab","scheduler_id":3,"address":"127.0.0.1:1"}"#;
        let old: Identity = serde_json::from_str(old).unwrap();
        assert_eq!(old.incarnation, 1);
        assert_eq!(old.group_id().unwrap(), [0xab; 16]);
    }

    #[test]
    fn a_joining_node_keeps_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let key = joining_key(folder.path()).unwrap();
        assert_eq!(joining_key(folder.path()).unwrap(), key);
    }
}
