//! Signatures of a handshake, the same for both sides: those of ring, with TLS
//! 1.3 alone.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::CertificateDer;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use super::provider;

/// What a verifier answers about TLS 1.2.
pub(super) fn never_spoken() -> Error {
    Error::General("TLS 1.2 is not spoken".to_owned())
}

pub(super) fn verify(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = provider().signature_verification_algorithms;
    verify_tls13_signature(message, certificate, signed, &algorithms)
}

pub(super) fn schemes() -> Vec<SignatureScheme> {
    provider().signature_verification_algorithms.supported_schemes()
}
