//! TLS 1.3 with both sides known, on credentials that can change while
//! connections come and go. Names of hosts mean nothing here: a certificate
//! says which machine of the cluster its holder is.

mod accept;
mod client;
mod credentials;
mod server;
mod signatures;

pub use accept::{Link, Listener, PeerInfo, Standing};
pub use client::{Trust, client_config};
pub use credentials::{Credentials, CredentialsError};
pub use server::{Protocol, server_config};

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, ring};

/// Nothing older is spoken.
const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

#[cfg(test)]
mod tests;
