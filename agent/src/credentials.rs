//! Who this agent is to the schedulers: its certificate, got once with a join
//! token, and renewed in time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use berth_identity::folder::{Folder, read_private};
use berth_identity::tls::{Credentials, Trust};
use berth_identity::{Dialer, Fingerprint, Token};
use berth_model::{Machine, Name};
use berth_proto::v1;
use berth_proto::v1::access_client::AccessClient;
use tonic::{Code, Request, Status};
use tracing::info;

use crate::session::dial;

/// Between two rounds over all schedulers, while none answers.
const RETRY: Duration = Duration::from_secs(1);
/// One call for a certificate.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// How schedulers are reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transport {
    PlainText,
    /// With the certificate in this folder; the token gets it there.
    Tls {
        folder: PathBuf,
        join_token_file: Option<PathBuf>,
    },
}

/// An agent that is known to its cluster.
pub struct Member {
    folder: Folder,
    pub credentials: Arc<Credentials>,
    pub dialer: Dialer,
}

/// Reads the agent's certificate, or joins with its token.
///
/// # Errors
/// If there is neither, a file is unusable, or the cluster refuses the token.
pub async fn come_in(
    folder: PathBuf,
    join_token_file: Option<PathBuf>,
    servers: &[String],
    name: &Name,
    pool: &Name,
) -> anyhow::Result<Member> {
    let folder = Folder::new(folder);
    if !folder.has_certificate() {
        let Some(path) = join_token_file else {
            bail!(
                "{} holds no certificate, and there is no token to get one with; make one with \
                 `berth token create --join agent` and give its file with --join-token-file",
                folder.path().display(),
            );
        };
        let token: Token = read_private(&path)?
            .parse()
            .with_context(|| format!("{} holds no join token", path.display()))?;
        enrol(&folder, &token, servers, name, pool).await?;
    }
    let credentials = Arc::new(folder.credentials().context("read this agent's credentials")?);
    let certified = credentials.certified().id;
    if certified.machine != Machine::Agent || certified.name != name.as_str() {
        bail!(
            "the certificate in {} is that of {certified}, and this is agent {name}; \
             start it with that --name, or give it a --tls-dir of its own",
            folder.path().display(),
        );
    }
    let dialer = Dialer::tls(Trust::Member(credentials.clone())).context("set up TLS")?;
    Ok(Member { folder, credentials, dialer })
}

async fn enrol(
    folder: &Folder,
    token: &Token,
    servers: &[String],
    name: &Name,
    pool: &Name,
) -> anyhow::Result<()> {
    let dialer = Dialer::tls(Trust::Pinned(token.authority)).context("set up TLS")?;
    let asked = v1::EnrolRequest {
        token: token.to_text(),
        request: folder.key()?.request()?.into(),
        machine: v1::Machine::Agent.into(),
        name: name.to_string(),
        pool: pool.to_string(),
    };
    let mut told = String::new();
    loop {
        for server in servers {
            let answer = match client(&dialer, server).await {
                Ok(mut client) => client.enrol(timed(asked.clone())).await,
                Err(problem) => Err(Status::unavailable(problem)),
            };
            match answer {
                Ok(reply) => return take(folder, token, &reply.into_inner()),
                Err(status) if is_final(&status) => {
                    bail!("join through {server}: {}", status.message())
                }
                Err(status) if told != status.message() => {
                    told = status.message().to_owned();
                    info!(%server, problem = told, "not joined yet");
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn take(folder: &Folder, token: &Token, reply: &v1::CertificateReply) -> anyhow::Result<()> {
    if Fingerprint::of(&reply.authority) != token.authority {
        bail!("the answer came with another authority than the token's");
    }
    folder.save_certificate(&reply.certificate, &reply.authority)?;
    info!(folder = %folder.path().display(), "joined; the token is of no more use");
    Ok(())
}

impl Member {
    /// Renews the certificate in time, and takes over files that others have
    /// replaced, for as long as the agent runs.
    pub async fn keep_fresh(self, servers: Vec<String>) {
        let (folder, credentials) = (self.folder.clone(), self.credentials.clone());
        berth_identity::keep_fresh(folder, credentials, || self.renew(&servers)).await;
    }

    async fn renew(&self, servers: &[String]) -> Result<(), String> {
        let key = self.folder.key().map_err(|error| error.to_string())?;
        let request = key.request().map_err(|error| error.to_string())?;
        let mut problem = "no scheduler to ask".to_owned();
        for server in servers {
            let answer = match client(&self.dialer, server).await {
                Ok(mut client) => {
                    let asked = v1::RenewRequest { request: request.clone().into() };
                    client.renew(timed(asked)).await
                }
                Err(problem) => Err(Status::unavailable(problem)),
            };
            match answer {
                Ok(reply) => {
                    let reply = reply.into_inner();
                    let saved = self.folder.save_certificate(&reply.certificate, &reply.authority);
                    return saved.map_err(|error| error.to_string());
                }
                Err(status) => problem = format!("{server}: {}", status.message()),
            }
        }
        Err(problem)
    }
}

async fn client(
    dialer: &Dialer,
    server: &str,
) -> Result<AccessClient<tonic::transport::Channel>, String> {
    dial::connect(dialer, server).await.map(AccessClient::new)
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_LIMIT);
    request
}

/// Whether asking again would only hear the same.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unauthenticated | Code::InvalidArgument | Code::FailedPrecondition
    )
}
