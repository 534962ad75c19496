//! Who this machine is and whom it believes, replaceable at any time: each new
//! handshake uses what is there then.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SignatureScheme};
use thiserror::Error;

use super::provider;
use crate::certificate::{self, Certified, ReadError};

/// A machine's certificate with its key, and the authorities it believes.
pub struct Credentials {
    /// Guards the value alone; taken for a clone, never while waiting.
    current: RwLock<Arc<Current>>,
}

pub(super) struct Current {
    pub key: Arc<CertifiedKey>,
    pub roots: Arc<RootCertStore>,
    pub certified: Certified,
}

/// Why these are no credentials.
#[derive(Debug, Error)]
pub enum CredentialsError {
    #[error("no certificate of an authority")]
    NoAuthority,
    #[error("the authority's certificate cannot be used")]
    Authority(#[source] rustls::Error),
    #[error("the private key cannot be read")]
    Key(#[source] rustls::pki_types::pem::Error),
    #[error("the private key cannot be used")]
    UnusableKey(#[source] rustls::Error),
    #[error("the private key does not belong to the certificate")]
    OtherKey,
    #[error(transparent)]
    Certificate(#[from] ReadError),
    #[error("the certificate was not signed by the authority beside it")]
    OtherAuthority,
}

impl Credentials {
    /// From a machine's certificate, its key in PEM, and the authorities.
    ///
    /// # Errors
    /// When they do not belong together.
    pub fn new(
        certificate: CertificateDer<'static>,
        key_pem: &str,
        authorities: &[CertificateDer<'static>],
    ) -> Result<Credentials, CredentialsError> {
        let current = Current::new(certificate, key_pem, authorities)?;
        Ok(Credentials { current: RwLock::new(Arc::new(current)) })
    }

    /// Takes others in their place; connections that stand are left alone.
    ///
    /// # Errors
    /// When they do not belong together; then nothing has changed.
    pub fn replace(
        &self,
        certificate: CertificateDer<'static>,
        key_pem: &str,
        authorities: &[CertificateDer<'static>],
    ) -> Result<(), CredentialsError> {
        let current = Current::new(certificate, key_pem, authorities)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
        Ok(())
    }

    /// What this machine's certificate says.
    #[must_use]
    pub fn certified(&self) -> Certified {
        self.current().certified.clone()
    }

    pub(super) fn current(&self) -> Arc<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Current {
    fn new(
        certificate: CertificateDer<'static>,
        key_pem: &str,
        authorities: &[CertificateDer<'static>],
    ) -> Result<Current, CredentialsError> {
        let roots = roots(authorities)?;
        let certified = certificate::read(&certificate)?;
        let signed = authorities.iter().any(|authority| signed_by(&certificate, authority));
        if !signed {
            return Err(CredentialsError::OtherAuthority);
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes());
        let key = key.map_err(CredentialsError::Key)?;
        // The authority goes along, for those who know it by its fingerprint.
        let mut chain = vec![certificate];
        chain.extend(authorities.iter().cloned());
        let provider = provider();
        let key = provider.key_provider.load_private_key(key);
        let key = CertifiedKey::new(chain, key.map_err(CredentialsError::UnusableKey)?);
        key.keys_match().map_err(|_| CredentialsError::OtherKey)?;
        Ok(Current { key: Arc::new(key), roots: Arc::new(roots), certified })
    }
}

fn signed_by(certificate: &[u8], authority: &[u8]) -> bool {
    let parse = x509_parser::parse_x509_certificate;
    let (Ok((_, certificate)), Ok((_, authority))) = (parse(certificate), parse(authority)) else {
        return false;
    };
    certificate.verify_signature(Some(authority.public_key())).is_ok()
}

pub(super) fn roots(
    authorities: &[CertificateDer<'static>],
) -> Result<RootCertStore, CredentialsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(CredentialsError::Authority)?;
    }
    if roots.is_empty() {
        return Err(CredentialsError::NoAuthority);
    }
    Ok(roots)
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.current().certified.id)
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().key.clone())
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current().key.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
