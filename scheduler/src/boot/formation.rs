//! Coming into a cluster: who this node is, founding, joining.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use berth_proto::v1;
use berth_proto::v1::operator_client::OperatorClient;
use berth_raft::device::sled::Directory;
use berth_state::Command;
use bytes::Bytes;
use tracing::{info, warn};

use crate::identity::{self, Identity};
use crate::options::{Formation, SchedulerOptions};
use crate::rpc::Shared;

/// The first scheduler's id in Raft; later ones are given by the state.
const FOUNDER: u64 = 1;
/// Tries to join are this far apart.
const JOIN_RETRY: Duration = Duration::from_millis(300);

/// Who this node is: as its data says, else as it is told to become.
pub(super) async fn settle_identity(
    options: &SchedulerOptions,
    advertise: &str,
) -> anyhow::Result<(Identity, Directory)> {
    let folder = &options.data_dir;
    if let Some(identity) = present(folder)? {
        if options.formation == Formation::Bootstrap {
            info!(
                scheduler_id = identity.scheduler_id,
                "this directory has a cluster; coming back to it"
            );
        }
        let known = &identity.address;
        if known != advertise {
            bail!(
                "the scheduler of {} is known to its cluster at {known}, not at {advertise}; \
                 start it with --advertise {known}, or give this one a directory of its own",
                Identity::path(folder).display(),
            );
        }
        return Ok((identity, Directory::MustExist));
    }
    match &options.formation {
        Formation::Existing => bail!(
            "{} holds no scheduler (was the disk unmounted?); start a new one with --bootstrap or --join",
            folder.display()
        ),
        Formation::Bootstrap => {
            make_folder(folder)?;
            let identity = Identity::new(identity::random_id()?, FOUNDER, advertise.to_owned());
            Ok((identity, Directory::MayCreate))
        }
        Formation::Join(servers) => {
            make_folder(folder)?;
            let key = identity::joining_key(folder)?;
            let reply = ask_to_join(servers, advertise, key).await?;
            let cluster_id = <[u8; 16]>::try_from(reply.cluster_id.as_ref())
                .ok()
                .context("the leader answered with a cluster id that is not 16 bytes")?;
            let identity = Identity::new(cluster_id, reply.node_id, advertise.to_owned());
            Ok((identity, Directory::MayCreate))
        }
    }
}

fn present(folder: &Path) -> anyhow::Result<Option<Identity>> {
    if folder.exists() && !folder.is_dir() {
        bail!("{} is not a directory", folder.display());
    }
    Identity::load(folder)
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))
}

/// Asks until somebody answers; each answer for one key is the same.
async fn ask_to_join(
    servers: &[String],
    advertise: &str,
    key: [u8; 16],
) -> anyhow::Result<v1::JoinReply> {
    const TRIES_MAX: usize = 100;
    let mut last = anyhow::anyhow!("no address to join");
    for attempt in 0..TRIES_MAX {
        let Some(server) = servers.get(attempt % servers.len().max(1)) else { break };
        match join_once(server, advertise, key).await {
            Ok(reply) => return Ok(reply),
            Err(error) => last = error.context(format!("join through {server}")),
        }
        tokio::time::sleep(JOIN_RETRY).await;
    }
    Err(last)
}

async fn join_once(server: &str, advertise: &str, key: [u8; 16]) -> anyhow::Result<v1::JoinReply> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{server}"))
        .with_context(|| format!("`{server}` is no address"))?
        .connect_timeout(Duration::from_millis(500))
        .timeout(Duration::from_secs(5));
    let channel = endpoint.connect().await.context("connect")?;
    let request = v1::JoinRequest {
        address: advertise.to_owned(),
        token: String::new(),
        instance_key: Bytes::copy_from_slice(&key),
    };
    let reply = OperatorClient::new(channel).join(request).await;
    reply.map(tonic::Response::into_inner).map_err(|status| anyhow::anyhow!("{}", status.message()))
}

/// Forms or joins the cluster, where that has not happened yet.
pub(super) async fn come_in(
    options: &SchedulerOptions,
    identity: &Identity,
    shared: &Shared,
) -> anyhow::Result<()> {
    let fresh = shared.node.status().members.is_empty();
    match &options.formation {
        Formation::Bootstrap if identity.scheduler_id == FOUNDER && fresh => {
            let members = BTreeMap::from([(FOUNDER, identity.address.clone())]);
            shared.node.bootstrap(members).await.context("form the cluster")?;
            found(shared, identity).await
        }
        Formation::Bootstrap if identity.scheduler_id == FOUNDER => {
            // A crash between forming and founding leaves a cluster that has
            // no id yet: founding again is refused where it was done.
            let shared = shared.clone();
            let identity = identity.clone();
            tokio::spawn(async move { found(&shared, &identity).await });
            Ok(())
        }
        Formation::Join(servers) => {
            keep_asking(
                servers.clone(),
                identity.clone(),
                options.data_dir.clone(),
                shared.clone(),
            );
            Ok(())
        }
        Formation::Bootstrap | Formation::Existing => Ok(()),
    }
}

async fn found(shared: &Shared, identity: &Identity) -> anyhow::Result<()> {
    let cluster_id = identity.cluster_id()?;
    let mut leader = shared.leader.clone();
    loop {
        let leading = leader.borrow_and_update().clone();
        if let Some(leading) = leading
            && leading.propose(Command::Found { cluster_id }).await.is_ok()
        {
            return Ok(());
        }
        leader.changed().await.context("wait for leadership")?;
    }
}

/// Asks to join until this node has a vote: the leader that was asked may have
/// fallen before it was done.
fn keep_asking(
    servers: Vec<String>,
    identity: Identity,
    data_dir: std::path::PathBuf,
    shared: Shared,
) {
    tokio::spawn(async move {
        for attempt in 0_usize.. {
            tokio::time::sleep(JOIN_RETRY).await;
            let raft = shared.node.status();
            if raft.members.iter().any(|member| member.id == raft.node_id && member.voter) {
                return;
            }
            let Ok(key) = identity::joining_key(&data_dir) else { return };
            let Some(server) = servers.get(attempt % servers.len().max(1)) else { return };
            if let Err(error) = join_once(server, &identity.address, key).await {
                warn!(server, %error, "not a voter yet");
            }
        }
    });
}
