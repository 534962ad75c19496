//! Coming into a cluster: who this node is, founding, joining.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use berth_identity::Dialer;
use berth_proto::v1;
use berth_proto::v1::operator_client::OperatorClient;
use berth_raft::device::sled::Directory;
use berth_state::{CLUSTER_VERSION_MAX, Command, FOUNDER, Seat};
use bytes::Bytes;
use prost::Message as _;
use tonic::Code;
use tonic::transport::Channel;
use tracing::info;

use super::joining::{Given, Joining, tls_folder};
use crate::access::{prepare_authority, prepare_founding, read_founding};
use crate::identity::{self, Identity, Incarnation};
use crate::leader::clock::wall;
use crate::options::{Formation, SchedulerOptions};
use crate::rpc::Shared;

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
            let address = advertise.to_owned();
            let first =
                |cluster_id| Identity::new(cluster_id, Incarnation::FIRST, FOUNDER, address);
            let identity = match tls_folder(options) {
                None => first(identity::random_id()?),
                Some(tls) => {
                    let now = wall();
                    let cluster_id =
                        prepare_authority(folder, now).context("prepare the authority")?;
                    prepare_founding(folder, &tls, cluster_id, now)
                        .context("prepare the cluster's first certificates and tokens")?;
                    first(cluster_id).with_tls()
                }
            };
            Ok((identity, Directory::MayCreate))
        }
        Formation::Join { servers, seat, token_file } => {
            make_folder(folder)?;
            let credentials = Joining::new(options, token_file.as_deref())?;
            let request = v1::JoinRequest {
                address: advertise.to_owned(),
                token: credentials.token_text(),
                instance_key: Bytes::copy_from_slice(&identity::joining_key(folder)?),
                learner: *seat == Seat::Learner,
                request: credentials.request()?.into(),
                cluster_version_max: CLUSTER_VERSION_MAX,
            };
            let reply = ask_to_join(servers, &credentials.dialer()?, &request).await?;
            let identity = joined(&reply, advertise)?;
            let identity = match credentials.take(&reply)? {
                Given::Nothing => identity,
                Given::Credentials => identity.with_tls(),
            };
            Ok((identity, Directory::MayCreate))
        }
    }
}

fn joined(reply: &v1::JoinReply, advertise: &str) -> anyhow::Result<Identity> {
    let cluster_id = <[u8; 16]>::try_from(reply.cluster_id.as_ref())
        .ok()
        .context("the leader answered with a cluster id that is not 16 bytes")?;
    let restore_id = match reply.restore_id.len() {
        0 => None,
        _ => Some(
            <[u8; 16]>::try_from(reply.restore_id.as_ref())
                .ok()
                .context("the leader answered with a restore id that is not 16 bytes")?,
        ),
    };
    let incarnation = Incarnation { number: reply.incarnation.max(1), restore_id };
    Ok(Identity::new(cluster_id, incarnation, reply.node_id, advertise.to_owned()))
}

fn present(folder: &Path) -> anyhow::Result<Option<Identity>> {
    if folder.exists() && !folder.is_dir() {
        bail!("{} is not a directory", folder.display());
    }
    Identity::load(folder)
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    // Jobs' environments and keys will lie in it.
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(folder).with_context(|| format!("make {}", folder.display()))
}

/// Asks until somebody answers; each answer for one key is the same. From then
/// on the leader sees to it that this scheduler becomes a member.
async fn ask_to_join(
    servers: &[String],
    dialer: &Dialer,
    request: &v1::JoinRequest,
) -> anyhow::Result<v1::JoinReply> {
    const TRIES_MAX: usize = 100;
    let mut last = anyhow::anyhow!("no address to join");
    for attempt in 0..TRIES_MAX {
        let Some(server) = servers.get(attempt % servers.len().max(1)) else { break };
        match join_once(server, dialer, request.clone()).await {
            Ok(reply) => return Ok(reply),
            Err(JoinError::Refused(reason)) => bail!("join through {server}: {reason}"),
            Err(JoinError::Unanswered(error)) => {
                last = error.context(format!("join through {server}"));
            }
        }
        tokio::time::sleep(JOIN_RETRY).await;
    }
    Err(last)
}

enum JoinError {
    /// The cluster will not have it, however often it asks.
    Refused(String),
    Unanswered(anyhow::Error),
}

async fn join_once(
    server: &str,
    dialer: &Dialer,
    request: v1::JoinRequest,
) -> Result<v1::JoinReply, JoinError> {
    let channel = connect(server, dialer).await.map_err(JoinError::Unanswered)?;
    let reply = OperatorClient::new(channel).join(request).await;
    reply.map(tonic::Response::into_inner).map_err(|status| {
        let hint = v1::ErrorDetail::decode(status.details()).unwrap_or_default().hint;
        let message = match hint.is_empty() {
            true => status.message().to_owned(),
            false => format!("{}; {hint}", status.message()),
        };
        let final_word = matches!(
            status.code(),
            Code::FailedPrecondition | Code::InvalidArgument | Code::Unauthenticated
        );
        if final_word {
            JoinError::Refused(message)
        } else {
            JoinError::Unanswered(anyhow::anyhow!(message))
        }
    })
}

/// A connection for a few calls to another scheduler.
pub(super) async fn connect(server: &str, dialer: &Dialer) -> anyhow::Result<Channel> {
    let endpoint = Dialer::endpoint(server)
        .with_context(|| format!("`{server}` is no address"))?
        .connect_timeout(Duration::from_millis(500))
        .timeout(Duration::from_secs(5));
    dialer.connect(&endpoint).await.context("connect")
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
            found(shared, identity, &options.data_dir).await
        }
        Formation::Bootstrap if identity.scheduler_id == FOUNDER => {
            // A crash between forming and founding leaves a cluster that has
            // no id yet: founding again is refused where it was done.
            let (shared, identity) = (shared.clone(), identity.clone());
            let data_dir = options.data_dir.clone();
            tokio::spawn(async move { found(&shared, &identity, &data_dir).await });
            Ok(())
        }
        // The leader brings in whoever it has given an id.
        Formation::Bootstrap | Formation::Join { .. } | Formation::Existing => Ok(()),
    }
}

async fn found(shared: &Shared, identity: &Identity, data_dir: &Path) -> anyhow::Result<()> {
    let cluster_id = identity.cluster_id()?;
    let mut leader = shared.leader.clone();
    loop {
        let leading = leader.borrow_and_update().clone();
        if let Some(leading) = leading {
            if shared.published.view().cluster().id != [0; 16] {
                return Ok(());
            }
            let security = match &shared.security {
                Some(security) => Some(read_founding(data_dir, security.folder())?),
                None => None,
            };
            if leading.propose(Command::Found { cluster_id, security }).await.is_ok() {
                return Ok(());
            }
        }
        leader.changed().await.context("wait for leadership")?;
    }
}
