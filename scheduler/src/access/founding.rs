//! A cluster that begins with TLS: its authority, its first scheduler's
//! certificate, and the first tokens, as files that their owner alone may read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use berth_identity::folder::{Folder, read_private, write_private};
use berth_identity::{
    Authority, CERTIFICATE_DAYS, Fingerprint, MachineId, SealKey, Token, Validity,
};
use berth_model::{DurationMs, Grant, JoinGrant, Machine, Name, Role, Scope, WallMs};
use berth_state::{self as state, FOUNDER, JOIN_TTL_MS_MAX, NewToken};
use tracing::info;

use crate::identity::random_id;

/// The first administrator's certificate lasts for a year.
const ADMIN_DAYS: u32 = 365;

/// A token that a cluster begins with.
struct FirstToken {
    file: &'static str,
    label: &'static str,
    machine: Option<Machine>,
}

const FIRST_TOKENS: [FirstToken; 3] = [
    FirstToken { file: "admin.token", label: "admin", machine: None },
    FirstToken {
        file: "join-scheduler.token",
        label: "first scheduler",
        machine: Some(Machine::Server),
    },
    FirstToken { file: "join-agent.token", label: "first agent", machine: Some(Machine::Agent) },
];

/// The authority that is prepared below a data directory, or a new one, and the
/// cluster that it is of.
///
/// # Errors
/// If it cannot be read or made.
pub fn prepare_authority(data_dir: &Path, now: WallMs) -> anyhow::Result<[u8; 16]> {
    let folder = authority_folder(data_dir);
    if folder.has_authority() {
        let authority = folder.authority()?;
        return authority.cluster_id().with_context(|| {
            format!("{} is not an authority of a cluster", folder.path().display())
        });
    }
    let cluster_id = random_id()?;
    folder.save_authority(&Authority::create(cluster_id, now)?)?;
    Ok(cluster_id)
}

/// Writes everything that a cluster with TLS begins with, and tells where. In
/// place of what founding left that was cut off: nobody has believed it yet.
///
/// # Errors
/// If it cannot be written, or the system has no randomness.
pub fn prepare_founding(
    data_dir: &Path,
    tls: &Folder,
    cluster_id: [u8; 16],
    now: WallMs,
) -> anyhow::Result<()> {
    let authority = authority_folder(data_dir).authority()?;
    check_not_of_another(tls, &authority)?;
    // One that is there was made by founding that was cut off, and may be the
    // only one of its kind.
    if !tls.has_seal_key() {
        tls.save_seal_key(&SealKey::generate().context("make the seal key")?)?;
    }
    let validity = Validity { now, days: CERTIFICATE_DAYS, times_revoked: 0 };
    certify(tls, &authority, &MachineId::scheduler(cluster_id, FOUNDER), validity)?;

    let admin = Folder::new(data_dir.join("admin"));
    let name = Name::new("admin").expect("a word of letters is a name");
    let id = MachineId::named(cluster_id, Machine::Client, &name);
    certify(&admin, &authority, &id, Validity { now, days: ADMIN_DAYS, times_revoked: 0 })?;
    for first in FIRST_TOKENS {
        let token = Token::generate(authority.fingerprint()).context("make a token")?;
        write_private(&data_dir.join(first.file), &format!("{}\n", token.to_text()))?;
    }
    tell("authority; keep a copy offline", authority_folder(data_dir).path());
    tell("administrator's certificate, for BERTH_TLS_DIR", admin.path());
    tell("administrator's token, for BERTH_TOKEN", &data_dir.join("admin.token"));
    tell("lets one scheduler join, within 15 minutes", &data_dir.join("join-scheduler.token"));
    tell("lets one agent join, within 15 minutes", &data_dir.join("join-agent.token"));
    Ok(())
}

/// The folder may lie elsewhere than the data, and hold what another cluster
/// cannot do without.
fn check_not_of_another(tls: &Folder, authority: &Authority) -> anyhow::Result<()> {
    let others = match tls.authorities() {
        Ok(found) => found.iter().any(|one| Fingerprint::of(one) != authority.fingerprint()),
        // Nothing there, or nothing that says whose it is.
        Err(_) => tls.has_certificate(),
    };
    if others {
        bail!(
            "{} holds the credentials of another cluster; was its data directory unmounted? \
             To found a new one, give another --tls-dir",
            tls.path().display(),
        );
    }
    Ok(())
}

/// What the cluster is founded with, as the files say.
///
/// # Errors
/// If one is missing or damaged.
pub fn read_founding(data_dir: &Path, tls: &Folder) -> anyhow::Result<Arc<state::Security>> {
    let authority = authority_folder(data_dir).authority()?;
    let mut tokens = Vec::new();
    for first in FIRST_TOKENS {
        let path = data_dir.join(first.file);
        let token: Token = read_private(&path)?
            .parse()
            .with_context(|| format!("{} holds no token", path.display()))?;
        tokens.push(first.token(&token));
    }
    let authority = state::Authority {
        certificate: authority.certificate().to_vec(),
        sealed_key: authority.sealed_key(&tls.seal_key()?)?,
    };
    Ok(Arc::new(state::Security { authority, tokens }))
}

impl FirstToken {
    fn token(&self, token: &Token) -> NewToken {
        let (grant, ttl) = match self.machine {
            Some(machine) => {
                let grant = Grant::Join(JoinGrant { machine, name: None, pool: None });
                (grant, Some(DurationMs(JOIN_TTL_MS_MAX)))
            }
            None => (Grant::Person { role: Role::Admin, scope: Scope::All }, None),
        };
        NewToken {
            id: token.id,
            secret_hash: token.secret.hash(),
            label: self.label.to_owned(),
            grant,
            ttl,
            created_by: "bootstrap".to_owned(),
        }
    }
}

fn authority_folder(data_dir: &Path) -> Folder {
    Folder::new(data_dir.join("authority"))
}

fn tell(what: &str, path: &Path) {
    let path: PathBuf = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    info!(what, path = %path.display(), "written");
}

fn certify(
    folder: &Folder,
    authority: &Authority,
    id: &MachineId,
    validity: Validity,
) -> anyhow::Result<()> {
    let request = folder.key()?.request()?;
    let certificate = authority.sign(&request, id, validity)?;
    folder.save_certificate(&certificate, authority.certificate())?;
    Ok(())
}
