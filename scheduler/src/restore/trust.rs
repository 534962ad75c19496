//! The authority of a restored cluster: its signing key is in the backup, and
//! what opens it is not.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use berth_identity::folder::{Folder, read_private};
use berth_identity::{Authority, CERTIFICATE_DAYS, KeyMaterial, MachineId, SealKey, Validity};
use berth_state::{self as state, ClusterState};

use crate::leader::clock::wall;

/// How the signing key is come by again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Not at all: for a cluster that speaks plain text.
    PlainText,
    /// The file `tls/seal.key` of any of its schedulers.
    SealKey(PathBuf),
    /// The folder `authority` of the scheduler that founded it.
    Authority(PathBuf),
    /// Both are lost: there is a new one, and every machine joins anew.
    New,
}

/// What the first scheduler of a restored cluster proves itself with.
pub struct Credentials {
    authority: Authority,
    seal: SealKey,
    /// It is to be kept: nobody has a copy yet.
    fresh: bool,
}

/// Opens the authority of a state, or makes another, which the answer's state
/// then holds. `None` for a cluster without TLS.
///
/// # Errors
/// If what was given does not open it, or is not for this cluster.
pub fn settle(
    state: ClusterState,
    trust: &Trust,
) -> anyhow::Result<(ClusterState, Option<Credentials>)> {
    let cluster_id = state.cluster().id;
    let Some(sealed) = state.cluster().authority.clone() else {
        return match trust {
            Trust::PlainText => Ok((state, None)),
            Trust::SealKey(_) | Trust::Authority(_) | Trust::New => {
                bail!(
                    "the backup is of a cluster without TLS: leave the key and the authority away"
                )
            }
        };
    };
    let credentials = match trust {
        Trust::PlainText => bail!(
            "the backup is of a cluster with TLS, and its signing key is sealed: give --seal-key \
             with the file tls/seal.key of any of its schedulers, or --authority with the folder \
             that --bootstrap made; if all are lost, --new-authority, and every machine joins anew"
        ),
        Trust::SealKey(path) => {
            let seal = SealKey::from_text(&read_private(path)?)
                .with_context(|| format!("read {}", path.display()))?;
            let authority = Authority::unseal(&sealed.certificate, &sealed.sealed_key, &seal)
                .with_context(|| format!("open the signing key with {}", path.display()))?;
            Credentials { authority, seal, fresh: false }
        }
        Trust::Authority(path) => {
            let authority = Folder::new(path.clone()).authority()?;
            if authority.certificate().as_ref() != sealed.certificate.as_slice() {
                bail!("{} is another cluster's authority", path.display());
            }
            Credentials { authority, seal: new_seal()?, fresh: false }
        }
        Trust::New => {
            let authority = Authority::create(cluster_id, wall())?;
            Credentials { authority, seal: new_seal()?, fresh: true }
        }
    };
    let held = state::Authority {
        certificate: credentials.authority.certificate().to_vec(),
        sealed_key: credentials.authority.sealed_key(&credentials.seal)?,
    };
    Ok((state.under_authority(held), Some(credentials)))
}

fn new_seal() -> anyhow::Result<SealKey> {
    SealKey::generate().context("make a seal key")
}

impl Credentials {
    /// Writes what a scheduler needs below its data directory.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, data_dir: &Path, id: &MachineId) -> anyhow::Result<()> {
        let folder = Folder::new(data_dir.join("tls"));
        let key: KeyMaterial = folder.key()?;
        let validity = Validity { now: wall(), days: CERTIFICATE_DAYS, times_revoked: 0 };
        let certificate = self.authority.sign(&key.request()?, id, validity)?;
        folder.save_certificate(&certificate, self.authority.certificate())?;
        folder.save_seal_key(&self.seal)?;
        if self.fresh {
            Folder::new(data_dir.join("authority")).save_authority(&self.authority)?;
        }
        Ok(())
    }
}
