//! The side that calls: it shows its certificate if it has one, and goes on
//! only with a scheduler of the cluster that it means.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::credentials::{Credentials, roots};
use super::{VERSIONS, provider, signatures};
use crate::certificate;
use crate::token::Fingerprint;

/// Whom a caller believes, and who it is itself.
#[derive(Clone, Debug)]
pub enum Trust {
    /// A machine with a certificate, which believes its own authority.
    Member(Arc<Credentials>),
    /// A machine that joins: it has nothing but the authority's fingerprint, out
    /// of its token.
    Pinned(Fingerprint),
}

/// How this machine meets schedulers.
///
/// # Errors
/// When TLS 1.3 is not to be had, which ring always gives.
pub fn client_config(trust: Trust) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(SchedulerVerifier(trust.clone())));
    let mut config = match trust {
        Trust::Member(credentials) => builder.with_client_cert_resolver(credentials),
        Trust::Pinned(_) => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    // There is no host name to tell.
    config.enable_sni = false;
    Ok(config)
}

/// Proves a chain to the authority, and that the other side is a scheduler.
#[derive(Debug)]
struct SchedulerVerifier(Trust);

impl SchedulerVerifier {
    fn roots(&self, shown: &[CertificateDer<'_>]) -> Result<Arc<RootCertStore>, Error> {
        match &self.0 {
            Trust::Member(credentials) => Ok(credentials.current().roots.clone()),
            Trust::Pinned(pin) => {
                let meant = shown.iter().find(|one| Fingerprint::of(one) == *pin);
                let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
                let meant = meant.ok_or_else(unknown)?.clone().into_owned();
                roots(&[meant]).map(Arc::new).map_err(|_| unknown())
            }
        }
    }
}

impl ServerCertVerifier for SchedulerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = self.roots(intermediates)?;
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &roots,
            intermediates,
            now,
            provider().signature_verification_algorithms.all,
        )?;
        let not_ours = || Error::InvalidCertificate(CertificateError::InvalidPurpose);
        let certified = certificate::read(end_entity).map_err(|_| not_ours())?;
        certified.id.scheduler_id().ok_or_else(not_ours)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(signatures::never_spoken())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signatures::verify(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        signatures::schemes()
    }
}
