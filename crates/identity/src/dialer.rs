//! How this machine reaches schedulers: in plain text, or with TLS.

use std::io;
use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::tls::{Trust, client_config};

/// Opens channels to schedulers.
#[derive(Clone, Debug, Default)]
pub enum Dialer {
    #[default]
    PlainText,
    Tls(Arc<ClientConfig>),
    /// A scheduler's socket file, whatever the address.
    Local(Arc<Path>),
}

impl Dialer {
    /// With TLS, as `trust` says.
    ///
    /// # Errors
    /// When TLS 1.3 is not to be had.
    pub fn tls(trust: Trust) -> Result<Dialer, rustls::Error> {
        Ok(Dialer::Tls(Arc::new(client_config(trust)?)))
    }

    /// An endpoint for `HOST:PORT`. Its scheme is for the request lines only:
    /// the dialer encrypts beneath.
    ///
    /// # Errors
    /// When the text is no address.
    pub fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
        Endpoint::from_shared(format!("http://{address}"))
    }

    /// A channel that is connected at its first call, and again after it broke.
    #[must_use]
    pub fn channel(&self, endpoint: &Endpoint) -> Channel {
        match self {
            Dialer::PlainText => endpoint.connect_lazy(),
            Dialer::Tls(config) => {
                let config = config.clone();
                endpoint.connect_with_connector_lazy(service_fn(move |uri| {
                    connect(uri, config.clone())
                }))
            }
            Dialer::Local(path) => {
                let path = path.clone();
                endpoint.connect_with_connector_lazy(service_fn(move |_| open(path.clone())))
            }
        }
    }

    /// A channel that is connected.
    ///
    /// # Errors
    /// When the other side is not reached, or not the one that is meant.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
        match self {
            Dialer::PlainText => endpoint.connect().await,
            Dialer::Tls(config) => {
                let config = config.clone();
                let connector = service_fn(move |uri| connect(uri, config.clone()));
                endpoint.connect_with_connector(connector).await
            }
            Dialer::Local(path) => {
                let path = path.clone();
                endpoint.connect_with_connector(service_fn(move |_| open(path.clone()))).await
            }
        }
    }
}

async fn open(path: Arc<Path>) -> io::Result<TokioIo<UnixStream>> {
    UnixStream::connect(&path).await.map(TokioIo::new)
}

async fn connect(uri: Uri, config: Arc<ClientConfig>) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    let host = uri.host().ok_or_else(|| invalid("no host in the address"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().ok_or_else(|| invalid("no port in the address"))?;
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    // The certificate says which machine it is; where it listens proves nothing.
    let nobody = ServerName::try_from("scheduler").map_err(|_| invalid("no name"))?;
    let stream = TlsConnector::from(config).connect(nobody, stream).await?;
    Ok(TokioIo::new(stream))
}
