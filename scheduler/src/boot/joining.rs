//! What a scheduler that joins proves itself with, and what it gets.

use std::path::Path;

use anyhow::{Context as _, bail};
use berth_identity::folder::{Folder, read_private};
use berth_identity::tls::Trust;
use berth_identity::{Dialer, Fingerprint, SealKey, Token};
use berth_proto::v1;

use crate::options::{SchedulerOptions, Transport};

/// The folder of credentials, where there is TLS.
pub fn tls_folder(options: &SchedulerOptions) -> Option<Folder> {
    match &options.transport {
        Transport::Tls(folder) => Some(Folder::new(folder.clone())),
        Transport::PlainTextOnLoopback | Transport::PlainTextAnywhere => None,
    }
}

/// What a cluster gave to a scheduler that joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Given {
    /// It speaks plain text.
    Nothing,
    Credentials,
}

/// A scheduler on its way into a cluster.
pub struct Joining(Option<Token>, Option<Folder>);

impl Joining {
    /// # Errors
    /// If there is TLS and no token, or the other way round.
    pub fn new(options: &SchedulerOptions, token_file: Option<&Path>) -> anyhow::Result<Joining> {
        let folder = tls_folder(options);
        let token = match token_file {
            Some(path) => {
                let token: Token = read_private(path)?
                    .parse()
                    .with_context(|| format!("{} holds no join token", path.display()))?;
                Some(token)
            }
            None => None,
        };
        match (&folder, &token) {
            (Some(_), None) => bail!(
                "joining a cluster with TLS needs a token; make one with \
                 `berth token create --join scheduler` and give its file with --join-token-file"
            ),
            (None, Some(_)) => bail!(
                "a join token is for a cluster with TLS, and this scheduler speaks plain text; \
                 give --tls-dir"
            ),
            (Some(_), Some(_)) | (None, None) => Ok(Joining(token, folder)),
        }
    }

    pub fn token_text(&self) -> String {
        self.0.as_ref().map_or_else(String::new, Token::to_text)
    }

    /// A request to certify this scheduler's key; empty without TLS.
    ///
    /// # Errors
    /// If the key can be neither read nor made.
    pub fn request(&self) -> anyhow::Result<Vec<u8>> {
        match &self.1 {
            Some(folder) => Ok(folder.key()?.request()?),
            None => Ok(Vec::new()),
        }
    }

    /// Reaches the cluster that the token is of, and no other.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn dialer(&self) -> anyhow::Result<Dialer> {
        match &self.0 {
            Some(token) => Dialer::tls(Trust::Pinned(token.authority)).context("set up TLS"),
            None => Ok(Dialer::PlainText),
        }
    }

    /// Writes what the cluster gave: certificate, authority and seal key.
    ///
    /// # Errors
    /// If something is missing, another cluster's, or cannot be written.
    pub fn take(&self, reply: &v1::JoinReply) -> anyhow::Result<Given> {
        let (Some(token), Some(folder)) = (&self.0, &self.1) else {
            if !reply.certificate.is_empty() {
                bail!("the cluster speaks TLS; give --tls-dir and --join-token-file");
            }
            return Ok(Given::Nothing);
        };
        if Fingerprint::of(&reply.authority) != token.authority {
            bail!("the answer came with another authority than the token's");
        }
        let seal = SealKey::from_bytes(&reply.seal_key).context("read the seal key")?;
        folder.save_seal_key(&seal)?;
        folder.save_certificate(&reply.certificate, &reply.authority)?;
        Ok(Given::Credentials)
    }
}
