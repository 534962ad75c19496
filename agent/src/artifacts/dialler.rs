//! Connections of a fetcher. A name is looked up once, each address is checked, and the
//! connection goes to the very address that was checked; no proxy, no second lookup.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, HeaderValue};
use http::{Request, Response, Uri};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::order::Failure;
use super::rules::{Reach, refused_address};
use crate::node::in_words;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// How requests are sent.
#[derive(Clone, Debug)]
pub struct Dialler {
    tls: Arc<rustls::ClientConfig>,
    /// For an answer of whoever is asked: a name server, a host, a server.
    patience: Duration,
}

impl Dialler {
    /// With the host's own list of authorities.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(patience: Duration) -> Result<Dialler, Failure> {
        let mut roots = rustls::RootCertStore::empty();
        // A list with one bad entry is a list; none at all is told by the first connection.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::Passing(format!("set up TLS: {error}")))?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Dialler { tls: Arc::new(config), patience })
    }

    /// Sends a request on a connection of its own.
    ///
    /// # Errors
    /// No address of the host may be dialled, or nobody answers there in time.
    pub async fn send<B>(
        &self,
        reach: Reach,
        request: Request<B>,
    ) -> Result<Response<Incoming>, Failure>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let is_tls = request.uri().scheme_str() == Some("https");
        let port = request.uri().port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let addresses = self.addresses(reach, &host, port).await?;
        let stream = self.connect(&addresses).await?;
        if !is_tls {
            return self.exchange(stream, request).await;
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare)
            .map_err(|_| Failure::Lasting(format!("{host} is not the name of a host")))?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = self.within("TLS", connector.connect(name, stream)).await?;
        self.exchange(stream, request).await
    }

    async fn addresses(
        &self,
        reach: Reach,
        host: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, Failure> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found: Vec<SocketAddr> = match bare.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => {
                self.within(&format!("look up {host}"), lookup_host((bare, port))).await?.collect()
            }
        };
        let allowed: Vec<SocketAddr> = found
            .iter()
            .copied()
            .filter(|address| reach.admits(address.ip()))
            .take(ADDRESSES_MAX)
            .collect();
        match (allowed.is_empty(), found.first()) {
            (false, _) => Ok(allowed),
            (true, Some(first)) => {
                Err(Failure::Lasting(format!("{host}: {}", refused_address(first.ip()))))
            }
            (true, None) => Err(Failure::Passing(format!("{host} has no address"))),
        }
    }

    async fn connect(&self, addresses: &[SocketAddr]) -> Result<TcpStream, Failure> {
        let mut last = Failure::Passing("no address".to_owned());
        for address in addresses {
            let connecting = TcpStream::connect(*address);
            match self.within(&format!("connect to {address}"), connecting).await {
                Ok(stream) => return Ok(stream),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    async fn exchange<S, B>(
        &self,
        stream: S,
        mut request: Request<B>,
    ) -> Result<Response<Incoming>, Failure>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = self.within("speak HTTP", handshake).await?;
        // It ends with the answer's body; what went wrong is told there.
        tokio::spawn(connection);
        if !request.headers().contains_key(HOST)
            && let Some(authority) = request.uri().authority()
            && let Ok(value) = HeaderValue::from_str(authority.as_str())
        {
            request.headers_mut().insert(HOST, value);
        }
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        *request.uri_mut() = target
            .parse::<Uri>()
            .map_err(|error| Failure::Lasting(format!("not a URL: {error}")))?;
        self.within("wait for an answer", sender.send_request(request)).await
    }

    async fn within<T, E: std::error::Error>(
        &self,
        what: &str,
        doing: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        match timeout(self.patience, doing).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(Failure::Passing(format!("{what}: {}", in_words(&error)))),
            Err(_) => Err(Failure::Passing(format!("{what}: nothing for {:?}", self.patience))),
        }
    }
}
