//! What this scheduler proves itself with, and what it lets others prove
//! themselves with: its own credentials, and the cluster's authority.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use berth_identity::folder::{Folder, FolderError};
use berth_identity::tls::{Credentials, Protocol, Trust, server_config};
use berth_identity::{Authority, Certified, Dialer, MachineId, SealKey, Validity};
use berth_state::ClusterState;
use rustls::ServerConfig;

use crate::leader::clock::wall;

/// The TLS side of a scheduler.
pub struct Security {
    folder: Folder,
    credentials: Arc<Credentials>,
    seal: SealKey,
    /// Opened with the seal key at its first use; the lock guards the opening.
    authority: Mutex<Option<Arc<Authority>>>,
}

/// What a certificate says beside its machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Term {
    pub days: u32,
    /// How often the machine had been revoked when it was let in.
    pub times_revoked: u32,
}

/// A certificate just signed, with its authority's, both in DER.
pub struct Signed {
    pub certificate: Vec<u8>,
    pub authority: Vec<u8>,
}

impl Security {
    /// Reads a scheduler's folder of credentials.
    ///
    /// # Errors
    /// If a file is missing, exposed or does not fit the others, or the
    /// certificate is another machine's.
    pub fn open(folder: Folder, own: &MachineId) -> anyhow::Result<Security> {
        let credentials = folder.credentials().context("read this scheduler's credentials")?;
        let found = credentials.certified().id;
        if found != *own {
            let (path, found) = (folder.path().to_owned(), found.to_string());
            return Err(FolderError::OtherMachine { path, found, own: own.to_string() }.into());
        }
        let credentials = Arc::new(credentials);
        let seal = folder.seal_key().context("read the seal key")?;
        Ok(Security { folder, credentials, seal, authority: Mutex::new(None) })
    }

    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    pub fn seal_key(&self) -> &SealKey {
        &self.seal
    }

    pub fn dialer(&self) -> anyhow::Result<Dialer> {
        Dialer::tls(Trust::Member(self.credentials.clone())).context("set up TLS")
    }

    pub fn server(&self, protocol: Protocol) -> anyhow::Result<Arc<ServerConfig>> {
        let config = server_config(self.credentials.clone(), protocol).context("set up TLS")?;
        Ok(Arc::new(config))
    }

    /// Certifies the key of a request.
    ///
    /// # Errors
    /// If the state holds no authority yet, the seal key does not open it, or
    /// the request is not one.
    pub fn sign(
        &self,
        view: &ClusterState,
        request: &[u8],
        id: &MachineId,
        term: Term,
    ) -> anyhow::Result<Signed> {
        let authority = self.authority(view)?;
        let Term { days, times_revoked } = term;
        let validity = Validity { now: wall(), days, times_revoked };
        let certificate = authority.sign(request, id, validity)?;
        Ok(Signed {
            certificate: certificate.to_vec(),
            authority: authority.certificate().to_vec(),
        })
    }

    /// Writes a new certificate for this scheduler's old key.
    ///
    /// # Errors
    /// As `sign`, or if it cannot be written.
    pub fn renew(&self, view: &ClusterState, days: u32) -> anyhow::Result<()> {
        let request = self.folder.key()?.request()?;
        let Certified { id, times_revoked, .. } = self.credentials.certified();
        if view.is_revoked(id.machine, &id.name, times_revoked) {
            bail!("the certificate of {id} was revoked");
        }
        let signed = self.sign(view, &request, &id, Term { days, times_revoked })?;
        self.folder.save_certificate(&signed.certificate, &signed.authority)?;
        Ok(())
    }

    fn authority(&self, view: &ClusterState) -> anyhow::Result<Arc<Authority>> {
        let mut kept = self.authority.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(authority) = kept.as_ref() {
            return Ok(authority.clone());
        }
        let sealed = view.cluster().authority.as_ref().context("the cluster has no authority")?;
        let authority = Authority::unseal(&sealed.certificate, &sealed.sealed_key, &self.seal);
        let authority = authority.with_context(|| {
            format!(
                "open the authority's key with {}",
                self.folder.path().join("seal.key").display()
            )
        })?;
        let authority = Arc::new(authority);
        *kept = Some(authority.clone());
        Ok(authority)
    }
}
