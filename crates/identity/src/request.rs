//! A machine's key pair, and its request to have the public half certified.
//! The private half never leaves the machine that made it.

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use thiserror::Error;

/// Why there is no key pair.
#[derive(Debug, Error)]
pub enum RequestError {
    #[error("make a key pair")]
    Generate(#[source] rcgen::Error),
    #[error("read the private key; expected an unencrypted PKCS#8 key in PEM")]
    Key(#[source] rcgen::Error),
    #[error("write the certificate request")]
    Request(#[source] rcgen::Error),
}

/// An ECDSA key pair on P-256: every TLS library takes it, and ring signs with
/// it in some 20 microseconds.
#[derive(Debug)]
pub struct KeyMaterial(KeyPair);

impl KeyMaterial {
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> Result<KeyMaterial, RequestError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256);
        pair.map(KeyMaterial).map_err(RequestError::Generate)
    }

    /// # Errors
    /// When the text holds no private key.
    pub fn from_pem(pem: &str) -> Result<KeyMaterial, RequestError> {
        KeyPair::from_pem(pem).map(KeyMaterial).map_err(RequestError::Key)
    }

    /// For a file that its owner alone may read.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// A PKCS#10 request in DER. It names nobody: the authority alone says whose
    /// the certificate is.
    ///
    /// # Errors
    /// When signing it fails.
    pub fn request(&self) -> Result<Vec<u8>, RequestError> {
        let params = CertificateParams::default();
        let request = params.serialize_request(&self.0).map_err(RequestError::Request)?;
        Ok(request.der().to_vec())
    }

    pub(crate) fn into_pair(self) -> KeyPair {
        self.0
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.0
    }
}
