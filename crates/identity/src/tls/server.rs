//! The side that is called: it shows its certificate, and proves the caller's
//! if there is one. Who may do what without one is not decided here.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::credentials::{Credentials, Current};
use super::{VERSIONS, provider, signatures};
use crate::{LAPSED_DAYS, certificate};

/// What is spoken inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Grpc,
    Http,
}

/// How a server of this machine meets callers.
///
/// # Errors
/// When TLS 1.3 is not to be had, which ring always gives.
pub fn server_config(
    credentials: Arc<Credentials>,
    protocol: Protocol,
) -> Result<ServerConfig, Error> {
    let verifier = Arc::new(CallerVerifier { credentials: credentials.clone() });
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(credentials);
    config.alpn_protocols = match protocol {
        Protocol::Grpc => vec![b"h2".to_vec()],
        Protocol::Http => vec![b"http/1.1".to_vec()],
    };
    // A resumed session would bring back a caller whose certificate nobody has
    // looked at since.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Proves a chain to one of the authorities of the moment. A certificate that
/// has expired not too long ago passes: its holder may renew it, and what is
/// above sees that it has lapsed.
#[derive(Debug)]
struct CallerVerifier {
    credentials: Arc<Credentials>,
}

impl CallerVerifier {
    fn of(current: &Current) -> Result<Arc<dyn ClientCertVerifier>, Error> {
        WebPkiClientVerifier::builder_with_provider(current.roots.clone(), provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| Error::General(error.to_string()))
    }
}

impl ClientCertVerifier for CallerVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verifier = Self::of(&self.credentials.current())?;
        let answer = verifier.verify_client_cert(end_entity, intermediates, now);
        let expired = matches!(
            answer,
            Err(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. }
            ))
        );
        if !expired {
            return answer;
        }
        let certified = certificate::read(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let expires_s = certified.expires.0 / 1000;
        if now.as_secs() > expires_s.saturating_add(u64::from(LAPSED_DAYS) * 86_400) {
            return answer;
        }
        let then = UnixTime::since_unix_epoch(std::time::Duration::from_secs(expires_s));
        verifier.verify_client_cert(end_entity, intermediates, then)
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
