//! What holds the workers of this host: found out once, when the agent begins.

use std::path::{Path, PathBuf};

use anyhow::bail;
use berth_model::NodeSpec;
use berth_shim::protocol::UserIds;
use tracing::{info, warn};

use crate::cgroups::Cgroups;
use crate::confinement::Confinement;
use crate::credentials::Transport;
use crate::data_dir::DataDir;
use crate::metadata::{IP, MetadataService, allow_metadata_service, refuse_metadata_service};
use crate::options::{AgentOptions, Hold};
use crate::worker_user;

/// What holds a worker.
pub struct Holds {
    /// Whom it runs as; as the agent where absent.
    pub user: Option<UserIds>,
    /// How much of the host it may use.
    pub cgroups: Option<Cgroups>,
    /// What it sees and may.
    pub confinement: Confinement,
}

impl Holds {
    /// Finds out what this host lets an agent do, and does what is done once.
    ///
    /// # Errors
    /// Something is needed and cannot be had.
    pub async fn begin(
        options: &AgentOptions,
        spec: &NodeSpec,
        dir: &DataDir,
    ) -> anyhow::Result<Holds> {
        let user = options.worker_user.as_deref().map(worker_user::find).transpose()?;
        let cgroups = cgroups(options.hold, &dir.key(), spec)?;
        refuse_metadata(options, user).await?;
        let confinement = confinement(options, user, dir).await?;
        Ok(Holds { user, cgroups, confinement })
    }
}

/// The groups below which this agent's workers get theirs.
fn cgroups(hold: Hold, name: &str, spec: &NodeSpec) -> anyhow::Result<Option<Cgroups>> {
    if hold == Hold::Never {
        return Ok(None);
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match Cgroups::begin(&mounts, name, spec.cpu) {
        Ok(cgroups) => {
            let (version, missing) = (cgroups.version(), cgroups.missing());
            if hold == Hold::Always && !missing.is_empty() {
                let missing = missing.join(", ");
                anyhow::bail!("this host cannot bound {missing} by cgroups (agent.cgroups)");
            }
            info!(?version, ?missing, "workers are held to their limits by cgroups");
            Ok(Some(cgroups))
        }
        Err(problem) if hold == Hold::Always => {
            anyhow::bail!("workers cannot be held to their limits: {problem} (agent.cgroups)")
        }
        Err(problem) => {
            warn!(problem, "workers are not held to their limits");
            Ok(None)
        }
    }
}

/// How far workers are confined.
async fn confinement(
    options: &AgentOptions,
    user: Option<UserIds>,
    dir: &DataDir,
) -> anyhow::Result<Confinement> {
    let mut wish = options.confinement.clone();
    wish.hidden.push(dir.path().to_owned());
    if let Transport::Tls { folder, join_token_file } = &options.transport {
        wish.hidden.push(folder.clone());
        wish.hidden.extend(join_token_file.clone());
    }
    wish.hidden.push(options.docker.socket.clone());
    let trial = dir.file("trial");
    let begun = tokio::task::spawn_blocking(move || {
        // Whatever else they are called, and wherever whoever hides them stands.
        wish.hidden = wish.hidden.iter().map(|path| real(path)).collect();
        Confinement::begin(wish, user, &trial)
    });
    let confinement = begun.await?.map_err(anyhow::Error::msg)?;
    info!(level = ?confinement.level(), "how far workers are confined");
    Ok(confinement)
}

fn real(path: &Path) -> PathBuf {
    let real = path.canonicalize().or_else(|_| std::path::absolute(path));
    real.unwrap_or_else(|_| path.to_owned())
}

/// Keeps workers from asking the cloud who this host is, where their user is not the host's own.
async fn refuse_metadata(options: &AgentOptions, user: Option<UserIds>) -> anyhow::Result<()> {
    let Some(user) = user.filter(|user| user.uid != 0) else { return Ok(()) };
    let hold = options.confinement.hold;
    if options.metadata_service == MetadataService::Open || hold == Hold::Never {
        // Those of an agent before this one.
        let allowed = tokio::task::spawn_blocking(move || allow_metadata_service(&IP, user.uid));
        return Ok(allowed.await?);
    }
    let refused = tokio::task::spawn_blocking(move || refuse_metadata_service(&IP, user.uid));
    match refused.await? {
        Ok(()) => Ok(()),
        Err(problem) if hold == Hold::Always => bail!(
            "workers cannot be kept from the cloud's metadata service: {problem} \
             (agent.confinement)"
        ),
        Err(problem) => {
            warn!(problem, "workers may ask the cloud's metadata service");
            Ok(())
        }
    }
}
